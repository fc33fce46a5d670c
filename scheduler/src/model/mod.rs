//! Plain data that every other module speaks: resources, keys, revisions, objects. Imports nothing of ours and
//! does no IO.

mod chain;
mod encode;
mod equal;
pub mod go;
mod object;
mod selector;
mod status;
pub mod syntax;

pub use chain::{Chain, causes};
pub use encode::{encode, encode_pretty, in_order};
pub use equal::{FEW, Fingerprint, Fingerprints, Shared};
pub use object::{Fields, Key, Object, ObjectError, Paths, Resource, Revision};
pub use selector::{FieldSelector, LabelSelector, Requirement, SelectorError};
pub use status::{ApiError, Cause, Reason};
