//! What every handler gets to know of a request.

use http::{HeaderMap, header};

use super::{
    Params,
    negotiate::{self, Accepted, Offer},
    respond::Wishes,
};
use crate::{
    model::{ApiError, Reason},
    objects::{Actor, WriteOptions},
};

/// `?includeObject=`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Include {
    /// Only the cells.
    None,
    /// The metadata, for `-l` and `-n` to work on.
    Metadata,
    /// All of it.
    Object,
}

/// One authenticated request, without its body.
pub(super) struct RequestContext<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) params: Params,
    pub(super) actor: &'a Actor,
    /// The form of the answer.
    pub(super) accepted: Accepted,
    pub(super) wishes: Wishes,
}

impl<'a> RequestContext<'a> {
    /// Negotiates the answer of an endpoint that offers this.
    pub(super) fn new(
        headers: &'a HeaderMap,
        params: Params,
        actor: &'a Actor,
        offer: Offer,
    ) -> Result<Self, ApiError> {
        let accepted = negotiate::accepted(headers, offer)?;
        let wishes = Wishes::of(headers, &params, accepted);
        Ok(Self { headers, params, actor, accepted, wishes })
    }

    /// The options of a write; `kind` names them in refusals.
    pub(super) fn write_options(&self, kind: &str) -> Result<WriteOptions, ApiError> {
        let agent = self.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok());
        self.params.write(kind, self.actor.clone(), agent.unwrap_or(""))
    }

    pub(super) fn table(&self) -> Result<Include, ApiError> {
        match self.params.get("includeObject").unwrap_or("") {
            "" | "Metadata" => Ok(Include::Metadata),
            "None" => Ok(Include::None),
            "Object" => Ok(Include::Object),
            other => {
                let message = format!(
                    "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be \
                     'Metadata', 'Object', 'None', or empty"
                );
                Err(ApiError::new(Reason::BadRequest, message))
            }
        }
    }
}
