//! Plain data that every other module speaks: resources, keys, revisions, objects. Imports nothing of ours and
//! does no IO.

mod chain;
pub mod go;
mod object;
mod selector;
mod status;

pub use chain::Chain;
pub use object::{Key, Object, ObjectError, Resource, Revision};
pub use selector::{FieldSelector, LabelSelector, Requirement, SelectorError};
pub use status::{ApiError, Cause, Reason};
