//! Who asks, what for, and whether they may: one identity of a request, derived once from its head.
//!
//! In: the head of a request, with what its connection proved. Out: a [`RequestInfo`], an
//! [`Actor`](crate::objects::Actor) from the chain of [`Authenticator`]s, a [`Decision`] from the chain of
//! [`Authorizer`]s. Metrics, the log, reviews and limits all look at these, so that none of them can take a request for
//! another than the one that was let in. Never: an answer to a request, or anything that waits.

mod authentication;
mod authorization;
mod impersonation;
mod request_info;
mod rules;
mod who;

#[cfg(test)]
mod tests;

pub use authentication::{
    Authenticator, Certified, ClientCertificates, Connection, Head, Invalid, authenticate,
};
pub use authorization::{Attributes, Authorizer, Decision, Rules, Union, forbidden};
pub use impersonation::impersonated;
pub use request_info::RequestInfo;
pub use rules::{Everyone, Masters, NodesStayOut, Public, standard};
pub use who::{ANONYMOUS, AUTHENTICATED, MASTERS, UNAUTHENTICATED, anonymous};
