//! What every handler gets to know of a request.

use http::{HeaderMap, header};

use super::{Params, negotiate, respond::Wishes, table::Include};
use crate::{
    model::{ApiError, Reason},
    objects::{Actor, WriteOptions},
};

/// One authenticated request, without its body.
pub(super) struct Ask<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) params: Params,
    pub(super) actor: &'a Actor,
    pub(super) wishes: Wishes,
}

impl<'a> Ask<'a> {
    pub(super) fn new(headers: &'a HeaderMap, params: Params, actor: &'a Actor) -> Self {
        let wishes = Wishes { pretty: params.is_set("pretty"), gzip: negotiate::gzip(headers) };
        Self { headers, params, actor, wishes }
    }

    pub(super) fn write_options(&self) -> Result<WriteOptions, ApiError> {
        let agent = self.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok());
        self.params.write(self.actor.clone(), agent.unwrap_or(""))
    }

    pub(super) fn table(&self) -> Result<Include, ApiError> {
        match self.params.get("includeObject").unwrap_or("") {
            "" | "Metadata" => Ok(Include::Metadata),
            "None" => Ok(Include::None),
            "Object" => Ok(Include::Object),
            other => Err(ApiError::new(Reason::BadRequest, format!("unrecognized includeObject {other:?}"))),
        }
    }
}
