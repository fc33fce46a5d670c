//! Query parameters into options, with upstream's refusals.

use axum::extract::Query;
use http::Uri;

use crate::{
    model::{ApiError, Cause, FieldSelector, LabelSelector, Reason, Revision},
    objects::{
        Actor, DeleteOptions, FieldValidation, Page, Propagation, Selection, VersionMatch, WriteOptions,
    },
};

/// The parameters of one request.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Of a request's URI.
    pub fn of(uri: &Uri) -> Result<Self, ApiError> {
        Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map(|Query(pairs)| Self(pairs))
            .map_err(|e| ApiError::new(Reason::BadRequest, format!("the query does not parse: {e}")))
    }

    /// The first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A switch: there, and neither `false` nor `0`.
    pub fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| v != "false" && v != "0")
    }

    /// A number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.get(name).filter(|t| !t.is_empty()) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            ApiError::new(Reason::BadRequest, format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
        })
    }

    /// `labelSelector` and `fieldSelector`.
    pub(super) fn selection(&self, namespace: Option<&str>) -> Result<Selection, ApiError> {
        let wrong = |e: crate::model::SelectorError| ApiError::new(Reason::BadRequest, e.to_string());
        Ok(Selection {
            namespace: namespace.map(Into::into),
            labels: LabelSelector::parse(self.get("labelSelector").unwrap_or("")).map_err(wrong)?,
            fields: FieldSelector::parse(self.get("fieldSelector").unwrap_or("")).map_err(wrong)?,
        })
    }

    /// `resourceVersion`; `None` when it is missing or `0`, which both mean "any".
    pub(super) fn revision(&self) -> Result<Option<Revision>, ApiError> {
        let Some(text) = self.get("resourceVersion").filter(|t| !t.is_empty() && *t != "0") else {
            return Ok(None);
        };
        text.parse().map(|r| Some(Revision(r))).map_err(|_| {
            let field = "resourceVersion".to_owned();
            let message =
                format!("Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
            let cause = Cause { reason: "FieldValueInvalid", field, message };
            ApiError::invalid("meta.k8s.io", "ListOptions", "", vec![cause])
        })
    }

    /// `limit`, `continue`, `resourceVersion` and `resourceVersionMatch`.
    pub(super) fn page(&self) -> Result<Page, ApiError> {
        let limit = self.number::<i64>("limit")?.and_then(|l| usize::try_from(l).ok());
        let token = self.get("continue").filter(|t| !t.is_empty()).map(str::to_owned);
        let revision = self.revision()?;
        let how = self.get("resourceVersionMatch").filter(|m| !m.is_empty());
        let forbidden = |message: &str| {
            let field = "resourceVersionMatch".to_owned();
            let cause =
                Cause { reason: "FieldValueForbidden", field, message: format!("Forbidden: {message}") };
            Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", vec![cause]))
        };
        if how.is_some() && self.get("resourceVersion").is_none_or(str::is_empty) {
            return forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if token.is_some() && how.is_some() {
            return forbidden("resourceVersionMatch is forbidden when continue is provided");
        }
        if token.is_some() && revision.is_some() {
            let message = "specifying resource version is not allowed when using continue";
            return Err(ApiError::new(Reason::BadRequest, message));
        }
        let at = match (revision, how) {
            (Some(revision), Some("Exact")) => Some((revision, VersionMatch::Exact)),
            // Upstream reads a version with a limit as exact, since before the match parameter existed.
            (Some(revision), None) if limit.is_some() => Some((revision, VersionMatch::Exact)),
            (Some(revision), Some("NotOlderThan") | None) => Some((revision, VersionMatch::NotOlderThan)),
            (None, Some("Exact")) => {
                return forbidden("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"");
            }
            (None, Some("NotOlderThan") | None) => None,
            (_, Some(other)) => {
                let field = "resourceVersionMatch".to_owned();
                let message = format!(
                    "Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""
                );
                let cause = Cause { reason: "FieldValueNotSupported", field, message };
                return Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", vec![cause]));
            }
        };
        Ok(Page { limit, token, at })
    }

    /// What every write carries.
    pub(super) fn write(&self, actor: Actor, user_agent: &str) -> Result<WriteOptions, ApiError> {
        let mut dry_run = false;
        for value in self.all("dryRun").filter(|v| !v.is_empty()) {
            if value != "All" {
                let message = format!("Unsupported value: {value:?}: supported values: \"All\"");
                let field = "dryRun".to_owned();
                let cause = Cause { reason: "FieldValueNotSupported", field, message };
                return Err(ApiError::invalid("meta.k8s.io", "CreateOptions", "", vec![cause]));
            }
            dry_run = true;
        }
        let validation = match self.get("fieldValidation").unwrap_or("") {
            "Ignore" => FieldValidation::Ignore,
            "Warn" | "" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            other => {
                let message = format!(
                    "Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\", \"\""
                );
                let field = "fieldValidation".to_owned();
                let cause = Cause { reason: "FieldValueNotSupported", field, message };
                return Err(ApiError::invalid("meta.k8s.io", "CreateOptions", "", vec![cause]));
            }
        };
        let manager = match self.get("fieldManager").filter(|m| !m.is_empty()) {
            Some(manager) => manager.to_owned(),
            // Upstream takes the program's name from the user agent.
            None => {
                user_agent.split(['/', ' ']).next().filter(|p| !p.is_empty()).unwrap_or("unknown").to_owned()
            }
        };
        let force = self.is_set("force");
        Ok(WriteOptions {
            actor,
            manager,
            dry_run,
            validation,
            force,
            duplicates: Vec::new(),
            source: None,
            view: None,
        })
    }

    /// Deletion options; the body's, read by the caller, win.
    pub(super) fn delete(&self, body: Option<&serde_json::Value>) -> Result<DeleteOptions, ApiError> {
        let text = |field: &str| match body.and_then(|b| b.get(field)).and_then(|v| v.as_str()) {
            Some(text) => Some(text),
            None => self.get(field),
        };
        let orphans = body.and_then(|b| b.get("orphanDependents")).and_then(serde_json::Value::as_bool);
        let propagation = match (text("propagationPolicy").filter(|p| !p.is_empty()), orphans) {
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (None, None) => None,
            (Some(other), _) => {
                let message = format!(
                    "Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
                );
                let field = "propagationPolicy".to_owned();
                let cause = Cause { reason: "FieldValueNotSupported", field, message };
                return Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", vec![cause]));
            }
        };
        let stated = body.and_then(|b| b.get("gracePeriodSeconds")).and_then(serde_json::Value::as_i64);
        let precondition = |field: &str| body?.pointer("/preconditions")?.get(field)?.as_str();
        let revision = precondition("resourceVersion").map(|text| {
            text.parse().map(Revision).map_err(|_| {
                ApiError::new(
                    Reason::BadRequest,
                    format!("invalid resourceVersion in preconditions: {text:?}"),
                )
            })
        });
        Ok(DeleteOptions {
            propagation,
            grace_seconds: stated.or(self.number("gracePeriodSeconds")?),
            uid: precondition("uid").map(str::to_owned),
            revision: revision.transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn params(query: &str) -> Params {
        Params::of(&format!("/x?{query}").parse().unwrap()).unwrap()
    }

    #[test]
    fn versions_of_lists_follow_upstreams_table() {
        let at = |query: &str| params(query).page().map(|p| p.at);
        let exact = Some((Revision(5), VersionMatch::Exact));
        let newer = Some((Revision(5), VersionMatch::NotOlderThan));
        assert_eq!(at("").unwrap(), None);
        assert_eq!(at("resourceVersion=0").unwrap(), None);
        assert_eq!(at("resourceVersion=5").unwrap(), newer);
        assert_eq!(at("resourceVersion=5&limit=10").unwrap(), exact);
        assert_eq!(at("resourceVersion=5&resourceVersionMatch=Exact").unwrap(), exact);
        assert_eq!(at("resourceVersion=5&resourceVersionMatch=NotOlderThan&limit=1").unwrap(), newer);
        for wrong in [
            "resourceVersionMatch=Exact",
            "resourceVersion=0&resourceVersionMatch=Exact",
            "resourceVersion=5&resourceVersionMatch=Newest",
            "resourceVersion=x",
            "resourceVersion=5&continue=abc",
        ] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_manager_falls_back_to_the_user_agent() {
        let actor = Actor::controller("x");
        let agent = "kubectl/v1.37.1 (linux/amd64)";
        assert_eq!(params("").write(actor.clone(), agent).unwrap().manager, "kubectl");
        let options = params("fieldManager=me&dryRun=All&fieldValidation=Strict").write(actor.clone(), agent);
        let options = options.unwrap();
        assert_eq!((options.manager.as_str(), options.dry_run), ("me", true));
        assert_eq!(options.validation, FieldValidation::Strict);
        assert!(params("dryRun=Some").write(actor.clone(), agent).is_err());
        assert!(params("fieldValidation=Maybe").write(actor, agent).is_err());
    }

    #[test]
    fn deletion_options_come_from_the_body_or_the_query() {
        let body = json!({"propagationPolicy": "Foreground", "gracePeriodSeconds": 5,
            "preconditions": {"uid": "u", "resourceVersion": "7"}});
        let options = params("propagationPolicy=Orphan").delete(Some(&body)).unwrap();
        assert_eq!(options.propagation, Some(Propagation::Foreground));
        assert_eq!((options.grace_seconds, options.revision), (Some(5), Some(Revision(7))));
        assert_eq!(options.uid.as_deref(), Some("u"));
        let options = params("gracePeriodSeconds=0").delete(None).unwrap();
        assert_eq!((options.grace_seconds, options.propagation), (Some(0), None));
        assert!(params("propagationPolicy=Never").delete(None).is_err());
    }
}
