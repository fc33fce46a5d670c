//! Label and field selectors: parsing of the query form, conversion from `LabelSelector` objects, matching.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The label has one of the values.
    In(String, Vec<String>),
    /// The label is missing or has none of the values.
    NotIn(String, Vec<String>),
    /// The label is there.
    Exists(String),
    /// The label is missing.
    DoesNotExist(String),
    /// The label is an integer greater than this (node affinity only).
    Gt(String, i64),
    /// The label is an integer less than this (node affinity only).
    Lt(String, i64),
}

impl Requirement {
    /// Whether `labels` satisfy it.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let number = |key: &str| labels.get(key).and_then(|v| v.parse::<i64>().ok());
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|v| !values.contains(v)),
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
            Self::Gt(key, bound) => number(key).is_some_and(|n| n > *bound),
            Self::Lt(key, bound) => number(key).is_some_and(|n| n < *bound),
        }
    }
}

/// A conjunction of requirements. The default (empty) selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// All must match.
    pub requirements: Vec<Requirement>,
}

/// A selector that does not parse.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectorError {
    /// The text form is wrong at `at`.
    #[error("unable to parse requirement: {why} in {at:?}")]
    Syntax {
        /// The offending part.
        at: String,
        /// What was expected.
        why: String,
    },
    /// An operator of a `LabelSelector` object that does not exist or misses its values.
    #[error("{operator:?} is not a valid label selector operator here")]
    Operator {
        /// The operator as given.
        operator: String,
    },
}

impl LabelSelector {
    /// Whether `labels` satisfy every requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|r| r.matches(labels))
    }

    /// A selector for exactly these labels (a Service's `spec.selector`).
    pub fn from_map<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let requirements =
            labels.into_iter().map(|(k, v)| Requirement::In(k.clone(), vec![v.clone()])).collect();
        Self { requirements }
    }

    /// From the object form of workloads and affinity terms.
    pub fn from_object(selector: &meta::LabelSelector) -> Result<Self, SelectorError> {
        let mut out = Self::from_map(selector.match_labels.iter().flatten());
        for e in selector.match_expressions.iter().flatten() {
            let values = e.values.clone().unwrap_or_default();
            out.requirements.push(match e.operator.as_str() {
                "In" if !values.is_empty() => Requirement::In(e.key.clone(), values),
                "NotIn" if !values.is_empty() => Requirement::NotIn(e.key.clone(), values),
                "Exists" => Requirement::Exists(e.key.clone()),
                "DoesNotExist" => Requirement::DoesNotExist(e.key.clone()),
                other => return Err(SelectorError::Operator { operator: other.to_owned() }),
            });
        }
        Ok(out)
    }

    /// From the query form: `app=web,tier in (a, b),!old,kept`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for part in split_outside_parens(text) {
            let part = part.trim();
            if !part.is_empty() {
                requirements.push(parse_requirement(part)?);
            }
        }
        Ok(Self { requirements })
    }
}

/// The query form of one requirement.
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(key, values) if values.len() == 1 => write!(f, "{key}={}", values[0]),
            Self::In(key, values) => write!(f, "{key} in ({})", values.join(",")),
            Self::NotIn(key, values) if values.len() == 1 => write!(f, "{key}!={}", values[0]),
            Self::NotIn(key, values) => write!(f, "{key} notin ({})", values.join(",")),
            Self::Exists(key) => f.write_str(key),
            Self::DoesNotExist(key) => write!(f, "!{key}"),
            Self::Gt(key, bound) => write!(f, "{key}>{bound}"),
            Self::Lt(key, bound) => write!(f, "{key}<{bound}"),
        }
    }
}

/// The query form, requirements in the order of their keys.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut terms: Vec<String> = self.requirements.iter().map(ToString::to_string).collect();
        terms.sort();
        f.write_str(&terms.join(","))
    }
}

/// A conjunction of `field=value` and `field!=value`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// Path, wanted value, and whether it must be equal.
    pub terms: Vec<(String, String, bool)>,
}

impl FieldSelector {
    /// From the query form: `metadata.name=web,status.phase!=Running`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (path, value, equal) = if let Some((p, v)) = part.split_once("!=") {
                (p, v, false)
            } else if let Some((p, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (p, v, true)
            } else {
                return Err(SelectorError::Syntax { at: part.to_owned(), why: "no operator".to_owned() });
            };
            terms.push((path.trim().to_owned(), value.trim().to_owned(), equal));
        }
        Ok(Self { terms })
    }

    /// Whether an object matches; `value` gives the value of a path (empty when unset).
    pub fn matches<'a>(&self, value: impl Fn(&str) -> &'a str) -> bool {
        self.terms.iter().all(|(path, wanted, equal)| (value(path) == wanted) == *equal)
    }
}

fn split_outside_parens(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_u32, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(part: &str) -> Result<Requirement, SelectorError> {
    let syntax = |why: &str| SelectorError::Syntax { at: part.to_owned(), why: why.to_owned() };
    let value = |text: &str| value_of(text).map_err(|why| syntax(&why));
    if let Some(key) = part.strip_prefix('!') {
        return Ok(Requirement::DoesNotExist(key_of(key).ok_or_else(|| syntax("expected a key"))?));
    }
    for (word, negated) in [(" notin ", true), (" notin(", true), (" in ", false), (" in(", false)] {
        if let Some((key, rest)) = part.split_once(word) {
            let rest = rest.trim();
            let inner = rest.strip_prefix('(').unwrap_or(rest);
            let inner = inner.strip_suffix(')').ok_or_else(|| syntax("expected ')'"))?;
            let values = inner.split(',').map(value).collect::<Result<_, _>>()?;
            let key = key_of(key).ok_or_else(|| syntax("expected a key"))?;
            return Ok(if negated { Requirement::NotIn(key, values) } else { Requirement::In(key, values) });
        }
    }
    if let Some((key, text)) = part.split_once("!=") {
        let key = key_of(key).ok_or_else(|| syntax("expected a key"))?;
        return Ok(Requirement::NotIn(key, vec![value(text)?]));
    }
    if let Some((key, text)) = part.split_once("==").or_else(|| part.split_once('=')) {
        let key = key_of(key).ok_or_else(|| syntax("expected a key"))?;
        return Ok(Requirement::In(key, vec![value(text)?]));
    }
    Ok(Requirement::Exists(key_of(part).ok_or_else(|| syntax("expected a key"))?))
}

fn key_of(text: &str) -> Option<String> {
    let key = text.trim();
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    (!key.is_empty() && key.chars().all(legal)).then(|| key.to_owned())
}

/// A label's value. What cannot be one matches nothing, which a script would take for an answer.
fn value_of(text: &str) -> Result<String, String> {
    let value = text.trim();
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match value.chars().find(|c| !inner(*c)) {
        Some(found) => Err(format!("found {:?}, expected: a label value", found.to_string())),
        None if value.len() > 63 => Err("a label value has 63 characters at most".to_owned()),
        None if value.starts_with(['-', '_', '.']) || value.ends_with(['-', '_', '.']) => {
            Err("a label value begins and ends with a letter or digit".to_owned())
        }
        None => Ok(value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn query_form_has_set_and_equality_operators() {
        let s = LabelSelector::parse("app=web, tier in (a, b),!old,kept,zone!=x").unwrap();
        assert!(s.matches(&labels(&[("app", "web"), ("tier", "b"), ("kept", "")])));
        assert!(!s.matches(&labels(&[("app", "web"), ("tier", "c"), ("kept", "")])));
        assert!(!s.matches(&labels(&[("app", "web"), ("tier", "a"), ("kept", ""), ("old", "")])));
        assert!(!s.matches(&labels(&[("app", "web"), ("tier", "a"), ("kept", ""), ("zone", "x")])));
        for wrong in ["a in (b", "a===b", "a!==b", "a in (b=)", "a=-", "a=b c"] {
            assert!(LabelSelector::parse(wrong).is_err(), "{wrong}");
        }
        assert!(LabelSelector::parse("").unwrap().matches(&labels(&[])));
    }

    #[test]
    fn display_is_the_query_form() {
        let s = LabelSelector::parse("tier in (a,b),app=web,!old,x notin (y,z)").unwrap();
        assert_eq!(s.to_string(), "!old,app=web,tier in (a,b),x notin (y,z)");
        assert_eq!(LabelSelector::parse(&s.to_string()).unwrap().to_string(), s.to_string());
    }

    #[test]
    fn field_selector_compares_both_ways() {
        let s = FieldSelector::parse("metadata.name=a,status.phase!=Running").unwrap();
        assert!(s.matches(|p| if p == "metadata.name" { "a" } else { "Pending" }));
        assert!(!s.matches(|p| if p == "metadata.name" { "a" } else { "Running" }));
    }
}
