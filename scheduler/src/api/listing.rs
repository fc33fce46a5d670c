//! What a list or a watch asks for: upstream's `ListOptions` with its defaults, conditions and refusals.

use super::query::{Params, not_a_number};
use crate::{
    kinds::Kind,
    model::{ApiError, Cause, FieldSelector, LabelSelector, Reason, Revision, SelectorError},
    objects::{Page, Selection, VersionMatch, check_token},
};

/// The options of a list or watch.
#[derive(Clone, Debug)]
pub(super) struct ListOptions {
    pub(super) selection: Selection,
    pub(super) watch: bool,
    /// `allowWatchBookmarks`
    pub(super) bookmarks: bool,
    /// `timeoutSeconds`
    pub(super) seconds: Option<i64>,
    /// `sendInitialEvents`; a watch without a version asks for them, as it always has.
    pub(super) initial: Option<bool>,
    limit: i64,
    token: Option<String>,
    version: String,
    how: String,
    /// See [`Kind::cached`].
    cached: bool,
}

impl ListOptions {
    /// Of a request; `forced` for the paths below `watch/`.
    pub(super) fn of(
        params: &Params,
        kind: &Kind,
        namespace: Option<&str>,
        forced: bool,
    ) -> Result<Self, ApiError> {
        let seconds = integer(params, "timeoutSeconds")?;
        let limit = integer(params, "limit")?.unwrap_or(0);
        let labels =
            LabelSelector::parse(params.get("labelSelector").unwrap_or("")).map_err(|error| wrong(&error))?;
        let fields =
            FieldSelector::parse(params.get("fieldSelector").unwrap_or("")).map_err(|error| wrong(&error))?;
        let text = |name: &str| params.get(name).unwrap_or("").to_owned();
        let mut options = Self {
            selection: Selection {
                namespace: namespace.map(Into::into),
                labels,
                fields: FieldSelector::default(),
            },
            watch: params.is_set("watch"),
            bookmarks: params.is_set("allowWatchBookmarks"),
            seconds,
            initial: params.get("sendInitialEvents").map(|_| params.is_set("sendInitialEvents")),
            limit,
            token: params.get("continue").filter(|token| !token.is_empty()).map(str::to_owned),
            version: text("resourceVersion"),
            how: text("resourceVersionMatch"),
            cached: kind.cached,
        };
        options.fill_in();
        options.check()?;
        options.selection.fields = selectable(kind, fields)?;
        options.watch |= forced;
        Ok(options)
    }

    /// Selects one object, for the paths below `watch/` that name one.
    pub(super) fn only(&mut self, name: &str) -> Result<(), ApiError> {
        let terms = &mut self.selection.fields.terms;
        if terms.is_empty() {
            terms.push((NAME.to_owned(), name.to_owned(), true));
        }
        if terms.iter().any(|(path, value, equal)| path == NAME && value == name && *equal) {
            return Ok(());
        }
        Err(ApiError::new(Reason::BadRequest, "fieldSelector metadata.name doesn't match requested name"))
    }

    fn fill_in(&mut self) {
        let any = matches!(self.version.as_str(), "" | "0");
        if self.watch && any && self.initial.is_none() && self.how.is_empty() {
            self.initial = Some(true);
            "NotOlderThan".clone_into(&mut self.how);
        }
    }

    fn check(&self) -> Result<(), ApiError> {
        let causes = if self.watch { self.watch_causes() } else { self.list_causes() };
        if causes.is_empty() {
            Ok(())
        } else {
            Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", causes))
        }
    }

    fn list_causes(&self) -> Vec<Cause> {
        let mut out = Vec::new();
        let how = self.how.as_str();
        if !how.is_empty() {
            if self.version.is_empty() {
                out.push(forbidden(
                    MATCH,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if self.token.is_some() {
                out.push(forbidden(MATCH, "resourceVersionMatch is forbidden when continue is provided"));
            }
            if !matches!(how, "Exact" | "NotOlderThan") {
                out.push(unsupported(how, "\"Exact\", \"NotOlderThan\", \"\""));
            }
            if how == "Exact" && self.version == "0" {
                let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                out.push(forbidden(MATCH, why));
            }
        }
        if self.initial.is_some() {
            out.push(forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
        }
        out
    }

    fn watch_causes(&self) -> Vec<Cause> {
        let (mut out, how) = (Vec::new(), self.how.as_str());
        if self.initial.is_some() && how != "NotOlderThan" {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            out.push(forbidden(MATCH, why));
        }
        if !how.is_empty() {
            if self.initial.is_none() {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                out.push(forbidden(MATCH, why));
            }
            if how != "NotOlderThan" {
                out.push(unsupported(how, "\"NotOlderThan\""));
            }
            if self.token.is_some() {
                out.push(forbidden(MATCH, "resourceVersionMatch is forbidden when continue is provided"));
            }
        }
        out
    }

    /// The version that a watch starts at; `None` when it is missing or `0`, which both mean "any".
    pub(super) fn start(&self) -> Result<Option<Revision>, ApiError> {
        version(&self.version).map_err(|cause| unread(&cause))
    }

    /// Which part of the list, and of what age.
    pub(super) fn page(self) -> Result<(Selection, Page), ApiError> {
        let any = matches!(self.version.as_str(), "" | "0");
        // At any version upstream answers from its cache, which does not page.
        let pages = !self.cached || self.version != "0";
        let limit = usize::try_from(self.limit).ok().filter(|limit| *limit > 0 && pages);
        if let Some(token) = self.token {
            // A token that is none is refused before what stands beside it.
            check_token(&token)?;
            if !any {
                let message = "specifying resource version is not allowed when using continue";
                return Err(ApiError::new(Reason::BadRequest, message));
            }
            return Ok((self.selection, Page { limit, token: Some(token), at: None }));
        }
        let revision = version(&self.version).map_err(|cause| invalid_version(&cause))?;
        let at = revision.map(|revision| match self.how.as_str() {
            "Exact" => (revision, VersionMatch::Exact),
            // Upstream reads a version with a limit as exact, since before the match parameter existed.
            "" if limit.is_some() => (revision, VersionMatch::Exact),
            _ => (revision, VersionMatch::NotOlderThan),
        });
        Ok((self.selection, Page { limit, token: None, at }))
    }
}

const MATCH: &str = "resourceVersionMatch";
const NAME: &str = "metadata.name";

fn wrong(error: &SelectorError) -> ApiError {
    ApiError::new(Reason::BadRequest, error.to_string())
}

fn forbidden(field: &str, why: &str) -> Cause {
    Cause { reason: "FieldValueForbidden", field: field.to_owned(), message: format!("Forbidden: {why}") }
}

fn unsupported(given: &str, known: &str) -> Cause {
    let message = format!("Unsupported value: {given:?}: supported values: {known}");
    Cause { reason: "FieldValueNotSupported", field: MATCH.to_owned(), message }
}

/// A whole number; unlike elsewhere an empty one is refused, as upstream.
fn integer(params: &Params, name: &str) -> Result<Option<i64>, ApiError> {
    let Some(text) = params.get(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| not_a_number(text))
}

/// A `resourceVersion`; `None` when it is missing or `0`.
fn version(text: &str) -> Result<Option<Revision>, Cause> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<u64>() {
        Ok(0) => Ok(None),
        Ok(revision) if !text.starts_with('+') => Ok(Some(Revision(revision))),
        _ => {
            let message =
                format!("Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
            Err(Cause { reason: "FieldValueInvalid", field: "resourceVersion".to_owned(), message })
        }
    }
}

fn invalid_version(cause: &Cause) -> ApiError {
    ApiError::new(Reason::BadRequest, format!("invalid resource version: {}: {}", cause.field, cause.message))
}

/// Upstream's answer to a version that is none where only its cache looks at it.
fn unread(cause: &Cause) -> ApiError {
    ApiError::new(Reason::Unknown, format!("{}: {}", cause.field, cause.message))
}

/// The version that a `GET` of one object asks for at least.
pub(super) fn at_least(params: &Params, kind: &Kind) -> Result<Option<Revision>, ApiError> {
    let refusal = if kind.cached { unread } else { invalid_version };
    version(params.get("resourceVersion").unwrap_or("")).map_err(|cause| refusal(&cause))
}

/// A version that is still to come is worth another attempt where a cache may yet reach it; the store itself says no.
pub(super) fn to_come(error: ApiError, kind: &Kind) -> ApiError {
    let ends = !kind.cached && error.reason == Reason::Timeout;
    if ends { ApiError { retry_after: None, ..error } } else { error }
}

/// A field selector over the indexed paths of a kind.
pub(super) fn selectable(kind: &Kind, fields: FieldSelector) -> Result<FieldSelector, ApiError> {
    let terms = fields.terms.into_iter().map(|(label, value, equal)| {
        let path = kind.selectable(&label).map_err(|why| ApiError::new(Reason::BadRequest, why))?;
        Ok((path.to_owned(), value, equal))
    });
    Ok(FieldSelector { terms: terms.collect::<Result<_, ApiError>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kinds, model::Resource};

    fn options(query: &str) -> Result<ListOptions, ApiError> {
        let params = Params::of(&format!("/x?{query}").parse().unwrap());
        ListOptions::of(&params, kinds::builtin().by_resource(Resource::PODS).unwrap(), None, false)
    }

    #[test]
    fn versions_of_lists_follow_upstreams_table() {
        let at = |query: &str| options(query).and_then(ListOptions::page).map(|(_, page)| page.at);
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
            "sendInitialEvents=true",
            "limit=",
            "timeoutSeconds=x",
        ] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_watch_without_a_version_starts_with_everything() {
        let initial = |query: &str| options(query).unwrap().initial;
        assert_eq!(initial("watch=1"), Some(true));
        assert_eq!(initial("watch=1&resourceVersion=0"), Some(true));
        assert_eq!(initial("watch=1&resourceVersion=5"), None);
        assert_eq!(initial("watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"), Some(false));
        let said = |query: &str| options(query).unwrap_err().message;
        assert_eq!(
            said("watch=1&sendInitialEvents=true&resourceVersionMatch=Exact"),
            "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
             resourceVersionMatch to NotOlderThan, resourceVersionMatch: Unsupported value: \"Exact\": supported values: \
             \"NotOlderThan\"]"
        );
    }

    #[test]
    fn what_is_not_cached_is_paged_at_any_version() {
        let limit = |resource| {
            let params = Params::of(&"/x?resourceVersion=0&limit=2".parse().unwrap());
            let kind = kinds::builtin().by_resource(resource).unwrap();
            ListOptions::of(&params, kind, None, false).unwrap().page().unwrap().1.limit
        };
        assert_eq!((limit(Resource::PODS), limit(Resource::EVENTS)), (None, Some(2)));
        let params = Params::of(&"/x?resourceVersion=x".parse().unwrap());
        let reason =
            |resource| at_least(&params, kinds::builtin().by_resource(resource).unwrap()).unwrap_err().reason;
        assert_eq!((reason(Resource::PODS), reason(Resource::EVENTS)), (Reason::Unknown, Reason::BadRequest));
        let later = || ApiError { retry_after: Some(1), ..ApiError::new(Reason::Timeout, "") };
        let retry = |resource| to_come(later(), kinds::builtin().by_resource(resource).unwrap()).retry_after;
        assert_eq!((retry(Resource::PODS), retry(Resource::EVENTS)), (Some(1), None));
    }

    #[test]
    fn labels_of_fields_become_indexed_paths() {
        let terms = options("fieldSelector=spec.host%3Dn1").unwrap().selection.fields.terms;
        assert_eq!(terms, [("spec.nodeName".to_owned(), "n1".to_owned(), true)]);
        assert_eq!(
            options("fieldSelector=spec.x%3D1").unwrap_err().message,
            "field label not supported: spec.x"
        );
    }
}
