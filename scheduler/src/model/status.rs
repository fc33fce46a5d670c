//! API failures as Kubernetes `Status` objects: every refusal a client sees is made here, in the words of
//! upstream, so that kubectl and client libraries take the branch they take with upstream.

use std::fmt;

use super::go;

/// `Status.reason`: machine-readable class of a failure; fixes the HTTP code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// 400
    BadRequest,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 406
    NotAcceptable,
    /// 409
    AlreadyExists,
    /// 409
    Conflict,
    /// 410: the revision was compacted and the client must list again; shown as `Expired`
    Expired,
    /// 410
    Gone,
    /// 413
    RequestEntityTooLarge,
    /// 415
    UnsupportedMediaType,
    /// 422
    Invalid,
    /// 429
    TooManyRequests,
    /// 500
    InternalError,
    /// 500 without a word of its class, as upstream answers what it has no class for
    Unknown,
    /// 503
    ServiceUnavailable,
    /// 504
    Timeout,
}

impl Reason {
    /// The HTTP status code.
    pub const fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Expired | Self::Gone => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::InternalError | Self::Unknown => 500,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
        }
    }

    /// The text in `Status.reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Expired => "Expired",
            Self::Gone => "Gone",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::Invalid => "Invalid",
            Self::TooManyRequests => "TooManyRequests",
            Self::InternalError => "InternalError",
            Self::Unknown => "",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::Timeout => "Timeout",
        }
    }
}

/// One entry of `Status.details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldValueNotSupported`, `FieldValueForbidden`,
    /// `FieldValueDuplicate`, `FieldValueTooLong`, `FieldManagerConflict`, ...
    pub reason: &'static str,
    /// The path: `spec.containers[0].image`.
    pub field: String,
    /// What is wrong with it, as upstream words it, without the field's name.
    pub message: String,
}

impl Cause {
    /// Several in upstream's text for all of them; the same complaint twice is told once.
    pub fn together(causes: Vec<Self>) -> (Vec<Self>, String) {
        let mut told: Vec<Self> = Vec::with_capacity(causes.len());
        for cause in causes {
            if !told.iter().any(|t| t.field == cause.field && t.message == cause.message) {
                told.push(cause);
            }
        }
        let texts: Vec<String> = told.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let joined = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        (told, joined)
    }
}

/// A refused request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Its class.
    pub reason: Reason,
    /// The sentence kubectl prints.
    pub message: String,
    /// `details.group` and `details.kind` (upstream puts the plural, or the kind for `Invalid`, there).
    pub group: String,
    /// See `group`.
    pub kind: String,
    /// `details.name`.
    pub name: String,
    /// `details.causes`.
    pub causes: Vec<Cause>,
    /// `details.retryAfterSeconds`.
    pub retry_after: Option<u32>,
    /// `metadata.continue`: how an expired list can be gone on with.
    pub next: Option<Box<str>>,
    /// Whether `details` are shown though they are empty, as in answers that upstream makes without looking further.
    pub generic: bool,
}

impl ApiError {
    /// A failure with a message and no details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            group: String::new(),
            kind: String::new(),
            name: String::new(),
            causes: Vec::new(),
            retry_after: None,
            next: None,
            generic: false,
        }
    }

    /// A failure of the path, the method or the media type, before anything else was looked at.
    pub fn generic(reason: Reason, message: impl Into<String>) -> Self {
        Self { generic: true, ..Self::new(reason, message) }
    }

    /// `pods "web" not found`. `resource` is `pods` or `deployments.apps`.
    pub fn not_found(resource: impl fmt::Display, name: &str) -> Self {
        Self::about(Reason::NotFound, resource, name, "not found")
    }

    /// `pods "web" already exists`.
    pub fn already_exists(resource: impl fmt::Display, name: &str) -> Self {
        Self::about(Reason::AlreadyExists, resource, name, "already exists")
    }

    /// `Operation cannot be fulfilled on pods "web": the object has been modified; ...`.
    pub fn conflict(resource: impl fmt::Display, name: &str, why: &str) -> Self {
        let mut error = Self::about(Reason::Conflict, resource, name, "");
        error.message =
            format!("Operation cannot be fulfilled on {} {}: {why}", error.qualified(), go::quote(name));
        error
    }

    /// `pods "web" is forbidden: why`.
    pub fn forbidden(resource: impl fmt::Display, name: &str, why: &str) -> Self {
        Self::about(Reason::Forbidden, resource, name, &format!("is forbidden: {why}"))
    }

    /// `Deployment.apps "web" is invalid: spec.x: Required value` with all causes, as upstream joins them.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let (told, joined) = Cause::together(causes);
        Self {
            message: format!("{qualified} {} is invalid: {joined}", go::quote(name)),
            group: group.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            causes: told,
            ..Self::new(Reason::Invalid, "")
        }
    }

    fn about(reason: Reason, resource: impl fmt::Display, name: &str, tail: &str) -> Self {
        let resource = resource.to_string();
        let (plural, group) = resource.split_once('.').unwrap_or((&resource, ""));
        Self {
            message: if name.is_empty() {
                format!("{resource} {tail}")
            } else {
                format!("{resource} {} {tail}", go::quote(name))
            },
            group: group.to_owned(),
            kind: plural.to_owned(),
            name: name.to_owned(),
            ..Self::new(reason, "")
        }
    }

    fn qualified(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }

    /// The `Status` object as JSON.
    pub fn to_status(&self) -> serde_json::Value {
        let causes: Vec<_> = self
            .causes
            .iter()
            .map(|c| {
                let mut cause = serde_json::json!({"reason": c.reason, "message": c.message});
                if !c.field.is_empty() {
                    cause["field"] = c.field.clone().into();
                }
                cause
            })
            .collect();
        let mut details = serde_json::Map::new();
        for (name, value) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind)] {
            if !value.is_empty() {
                details.insert(name.to_owned(), value.clone().into());
            }
        }
        if !causes.is_empty() {
            details.insert("causes".to_owned(), causes.into());
        }
        if let Some(seconds) = self.retry_after {
            details.insert("retryAfterSeconds".to_owned(), seconds.into());
        }
        let mut status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.reason.code(),
        });
        if !self.reason.as_str().is_empty() {
            status["reason"] = self.reason.as_str().into();
        }
        if let Some(next) = &self.next {
            status["metadata"]["continue"] = (**next).into();
        }
        // As upstream: what it refuses as unprocessable has details even when there is nothing in them.
        if !details.is_empty() || self.generic || self.reason == Reason::Invalid {
            status["details"] = details.into();
        }
        status
    }
}
