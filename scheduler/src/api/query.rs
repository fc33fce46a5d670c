//! Query parameters into options, with upstream's refusals. What selects and pages is in [`super::listing`].

use http::Uri;

use crate::{
    model::{ApiError, Cause, Reason, Revision, go},
    objects::{Actor, DeleteOptions, FieldValidation, Propagation, WriteOptions},
};

/// The parameters of one request.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Of a request's URI. What does not parse is left out, as upstream.
    pub fn of(uri: &Uri) -> Self {
        let pairs =
            uri.query().unwrap_or("").split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        let decoded = pairs.filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((unescaped(name, true)?, unescaped(value, true)?))
        });
        Self(decoded.collect())
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
        self.get(name).is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }

    /// A number; an empty one is none.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.get(name).filter(|t| !t.is_empty()) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| not_a_number(text))
    }

    /// `pretty`, when the client says anything about it.
    pub(super) fn pretty(&self) -> Option<bool> {
        let text = self.get("pretty").filter(|text| !text.is_empty())?;
        Some(is_true(text))
    }

    /// `timeout`: a duration as Go writes it, or upstream's refusal. It is only checked: nothing here takes so long.
    pub(super) fn check_timeout(&self) -> Result<(), ApiError> {
        let Some(text) = self.get("timeout").filter(|text| !text.is_empty()) else { return Ok(()) };
        duration::check(text).map_err(|why| {
            let message = format!("invalid timeout specified in the request URL - {why}");
            ApiError::new(Reason::BadRequest, message)
        })
    }

    /// What every write carries; `options` names the options in refusals: `CreateOptions`.
    pub(super) fn write(
        &self,
        options: &str,
        actor: Actor,
        user_agent: &str,
    ) -> Result<WriteOptions, ApiError> {
        let stated = self.get("fieldManager").unwrap_or("");
        let dry_run: Vec<&str> = self.all("dryRun").collect();
        let (validation, known) = match self.get("fieldValidation").unwrap_or("") {
            "Ignore" => (FieldValidation::Ignore, true),
            "Warn" | "" => (FieldValidation::Warn, true),
            "Strict" => (FieldValidation::Strict, true),
            _ => (FieldValidation::Warn, false),
        };
        let mut causes = manager_causes(stated);
        if dry_run.iter().any(|value| *value != "All") {
            let given = serde_json::json!(dry_run).to_string();
            causes.push(unsupported("dryRun", &given, "\"All\""));
        }
        if !known {
            let given = format!("{:?}", self.get("fieldValidation").unwrap_or(""));
            causes.push(unsupported("fieldValidation", &given, "\"\", \"Ignore\", \"Strict\", \"Warn\""));
        }
        if !causes.is_empty() {
            return Err(ApiError::invalid("meta.k8s.io", options, "", causes));
        }
        let manager = match stated {
            // Upstream takes the program's name from the user agent.
            "" => user_agent.split(['/', ' ']).next().filter(|p| !p.is_empty()).unwrap_or("unknown"),
            stated => stated,
        };
        Ok(WriteOptions {
            actor,
            manager: manager.to_owned(),
            dry_run: !dry_run.is_empty(),
            validation,
            force: self.is_set("force"),
            duplicates: Vec::new(),
            source: None,
            view: None,
        })
    }

    /// Deletion options: those of the body, decoded by the caller, or without one those of the query; and whether nothing
    /// is to be done.
    pub(super) fn delete(&self, body: Option<&serde_json::Value>) -> Result<(DeleteOptions, bool), ApiError> {
        let text = |field: &str| match body {
            Some(body) => body.get(field).and_then(|v| v.as_str()),
            None => self.get(field),
        };
        let flag = |field: &str| match body {
            Some(body) => body.get(field).and_then(serde_json::Value::as_bool),
            None => self.get(field).map(|_| self.is_set(field)),
        };
        let orphans = flag("orphanDependents");
        let dry_run = body.and_then(|body| body.get("dryRun")).and_then(|v| v.as_array());
        let dry_run: Vec<&str> = dry_run.into_iter().flatten().filter_map(|value| value.as_str()).collect();
        let refused = |cause| Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", vec![cause]));
        if dry_run.iter().any(|value| *value != "All") {
            let given = serde_json::json!(dry_run).to_string();
            return refused(unsupported("dryRun", &given, "\"All\""));
        }
        let field = "propagationPolicy".to_owned();
        let propagation = match (text("propagationPolicy"), orphans) {
            (Some(both), Some(_)) => {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                let message = format!("Invalid value: {both:?}: {why}");
                return refused(Cause { reason: "FieldValueInvalid", field, message });
            }
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (None, None) => None,
            (Some(other), _) => {
                let message = format!(
                    "Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                );
                return refused(Cause { reason: "FieldValueNotSupported", field, message });
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
        let delete = DeleteOptions {
            propagation,
            grace_seconds: if body.is_some() { stated } else { self.number("gracePeriodSeconds")? },
            uid: precondition("uid").map(str::to_owned),
            revision: revision.transpose()?,
            unreadable: flag("ignoreStoreReadErrorWithClusterBreakingPotential") == Some(true),
        };
        Ok((delete, !dry_run.is_empty()))
    }
}

/// Whether Go reads a text as true.
pub(super) fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// A percent-encoded text; `None` when it is not one, or not UTF-8. In a query a plus is a blank.
pub(super) fn unescaped(text: &str, plus: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'+' if plus => b' ',
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

/// In the words of Go's parser.
pub(super) fn not_a_number(text: &str) -> ApiError {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let why = if is_number { "value out of range" } else { "invalid syntax" };
    ApiError::new(Reason::BadRequest, format!("strconv.ParseInt: parsing {text:?}: {why}"))
}

fn unsupported(field: &str, given: &str, known: &str) -> Cause {
    let message = format!("Unsupported value: {given}: supported values: {known}");
    Cause { reason: "FieldValueNotSupported", field: field.to_owned(), message }
}

/// What is wrong with the name of a field manager.
fn manager_causes(manager: &str) -> Vec<Cause> {
    const LONGEST: usize = 128;
    let field = || "fieldManager".to_owned();
    let mut out = Vec::new();
    if manager.len() > LONGEST {
        let message = format!("Too long: may not be more than {LONGEST} bytes");
        out.push(Cause { reason: "FieldValueTooLong", field: field(), message });
    }
    for (at, c) in manager.char_indices().filter(|(_, c)| c.is_control()) {
        let code = u32::from(c);
        let quoted = go::quote(manager);
        let message = format!("Invalid value: {quoted}: invalid character U+{code:04X} (at position {at})");
        out.push(Cause { reason: "FieldValueInvalid", field: field(), message });
    }
    out
}

/// Durations as Go reads them.
mod duration {
    const UNITS: [&str; 8] = ["ns", "us", "\u{b5}s", "\u{3bc}s", "ms", "s", "m", "h"];

    /// Nothing for a duration, otherwise why it is none, in Go's words.
    pub(super) fn check(text: &str) -> Result<(), String> {
        let invalid = || format!("time: invalid duration {text:?}");
        let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
        if rest == "0" {
            return Ok(());
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        while !rest.is_empty() {
            let number = |c: char| c.is_ascii_digit() || c == '.';
            let end = rest.find(|c| !number(c)).unwrap_or(rest.len());
            let (digits, behind) = rest.split_at(end);
            if !digits.contains(|c: char| c.is_ascii_digit()) || digits.matches('.').count() > 1 {
                return Err(invalid());
            }
            let end = behind.find(number).unwrap_or(behind.len());
            let (unit, behind) = behind.split_at(end);
            if unit.is_empty() {
                return Err(format!("time: missing unit in duration {text:?}"));
            }
            if !UNITS.contains(&unit) {
                return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
            }
            rest = behind;
        }
        Ok(())
    }

    #[cfg(test)]
    mod tests {
        use super::check;

        #[test]
        fn durations_are_read_as_go_reads_them() {
            for good in ["0", "5s", "-1h", "1h2m3.5s", "1ms", ".5s"] {
                assert_eq!(check(good), Ok(()), "{good}");
            }
            assert_eq!(check("abc").unwrap_err(), "time: invalid duration \"abc\"");
            assert_eq!(check("1").unwrap_err(), "time: missing unit in duration \"1\"");
            assert_eq!(check("1d").unwrap_err(), "time: unknown unit \"d\" in duration \"1d\"");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn params(query: &str) -> Params {
        Params::of(&format!("/x?{query}").parse().unwrap())
    }

    #[test]
    fn the_manager_falls_back_to_the_user_agent() {
        let actor = Actor::controller("x");
        let agent = "kubectl/v1.37.1 (linux/amd64)";
        assert_eq!(params("").write("CreateOptions", actor.clone(), agent).unwrap().manager, "kubectl");
        let options = params("fieldManager=me&dryRun=All&fieldValidation=Strict").write(
            "CreateOptions",
            actor.clone(),
            agent,
        );
        let options = options.unwrap();
        assert_eq!((options.manager.as_str(), options.dry_run), ("me", true));
        assert_eq!(options.validation, FieldValidation::Strict);
        assert!(params("dryRun=Some").write("CreateOptions", actor.clone(), agent).is_err());
        assert!(params("fieldValidation=Maybe").write("CreateOptions", actor, agent).is_err());
    }

    #[test]
    fn deletion_options_come_from_the_body_or_the_query() {
        let body = json!({"propagationPolicy": "Foreground", "gracePeriodSeconds": 5,
            "preconditions": {"uid": "u", "resourceVersion": "7"}});
        let options = params("propagationPolicy=Orphan").delete(Some(&body)).unwrap().0;
        assert_eq!(options.propagation, Some(Propagation::Foreground));
        assert_eq!((options.grace_seconds, options.revision), (Some(5), Some(Revision(7))));
        assert_eq!(options.uid.as_deref(), Some("u"));
        let options = params("gracePeriodSeconds=0").delete(None).unwrap().0;
        assert_eq!((options.grace_seconds, options.propagation), (Some(0), None));
        assert!(params("propagationPolicy=Never").delete(None).is_err());
        let propagation = |query: &str| params(query).delete(None).unwrap().0.propagation;
        assert_eq!(propagation("orphanDependents=x"), Some(Propagation::Orphan));
        assert_eq!(propagation("orphanDependents=false"), Some(Propagation::Background));
        let both = params("orphanDependents=1&propagationPolicy=Orphan").delete(None).unwrap_err();
        assert!(both.message.ends_with("cannot be both set"), "{both}");
    }

    #[test]
    fn what_does_not_parse_is_left_out() {
        let params = params("a=%zz&b=1+2%26&c;d=1&e&a=3");
        assert_eq!((params.get("a"), params.get("b"), params.get("e")), (Some("3"), Some("1 2&"), Some("")));
        assert_eq!((params.get("c;d"), params.is_set("e")), (None, true));
    }

    #[test]
    fn refusals_of_write_options_come_together() {
        let query = format!("fieldManager={}&dryRun=x&fieldValidation=y", "m".repeat(129));
        let refused = params(&query).write("PatchOptions", Actor::controller("x"), "").unwrap_err();
        assert_eq!(
            refused.message,
            "PatchOptions.meta.k8s.io \"\" is invalid: [fieldManager: Too long: may not be more than 128 bytes, dryRun: \
             Unsupported value: [\"x\"]: supported values: \"All\", fieldValidation: Unsupported value: \"y\": \
             supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"]"
        );
        let refused =
            params("fieldManager=a%0Ab").write("CreateOptions", Actor::controller("x"), "").unwrap_err();
        assert!(refused.message.ends_with("invalid character U+000A (at position 1)"), "{refused}");
    }

    #[test]
    fn numbers_are_refused_as_go_does() {
        assert_eq!(not_a_number("x").message, "strconv.ParseInt: parsing \"x\": invalid syntax");
        assert!(not_a_number(&"9".repeat(20)).message.ends_with("value out of range"));
    }
}
