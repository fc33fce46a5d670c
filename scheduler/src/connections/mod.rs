//! How many connections the ports take, of whom, and until when: a port full of strangers stays usable, and the end of a
//! certificate ends what it opened.
//!
//! In: accepted connections, and whom TLS says they are of. Out: the same as [`Bounded`] streams, and refusals. Never: a
//! look at what flows.

mod bounded;
mod limits;

#[cfg(test)]
mod tests;

pub use bounded::{Bounded, Deadline};
pub use limits::{Limits, Metrics, Place, Places, Refusal};
