//! Label and field selectors: conversion from `LabelSelector` objects, matching, printing. Their query form is parsed in
//! [`labels`] and [`fields`].

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

mod fields;
mod labels;

pub use fields::FieldSelector;

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Requirement {
    /// The label has this value.
    Equals(String, String),
    /// The label is missing or has another value.
    NotEquals(String, String),
    /// The label has one of the values.
    In(String, Vec<String>),
    /// The label is missing or has none of the values.
    NotIn(String, Vec<String>),
    /// The label is there.
    Exists(String),
    /// The label is missing.
    DoesNotExist(String),
    /// The label is an integer greater than this (never in `LabelSelector` objects).
    Gt(String, i64),
    /// The label is an integer less than this (never in `LabelSelector` objects).
    Lt(String, i64),
}

impl Requirement {
    /// Whether `labels` satisfy it.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let number = |key: &str| labels.get(key).and_then(|v| v.parse::<i64>().ok());
        match self {
            Self::Equals(key, value) => labels.get(key) == Some(value),
            Self::NotEquals(key, value) => labels.get(key) != Some(value),
            Self::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|v| !values.contains(v)),
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
            Self::Gt(key, bound) => number(key).is_some_and(|n| n > *bound),
            Self::Lt(key, bound) => number(key).is_some_and(|n| n < *bound),
        }
    }

    fn key(&self) -> &str {
        match self {
            Self::Equals(key, _)
            | Self::NotEquals(key, _)
            | Self::In(key, _)
            | Self::NotIn(key, _)
            | Self::Exists(key)
            | Self::DoesNotExist(key)
            | Self::Gt(key, _)
            | Self::Lt(key, _) => key,
        }
    }
}

/// A conjunction of requirements. The default (empty) selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    /// All must match.
    pub requirements: Vec<Requirement>,
}

/// A selector that does not parse.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectorError {
    /// The text form is wrong: what was found and what was expected, in upstream's words.
    #[error("{0}")]
    Syntax(String),
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
            labels.into_iter().map(|(k, v)| Requirement::Equals(k.clone(), v.clone())).collect();
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

    /// From the query form: `app=web,tier in (a, b),!old,kept,size>2`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Ok(Self { requirements: labels::parse(text)? })
    }
}

/// The query form of one requirement.
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equals(key, value) => write!(f, "{key}={value}"),
            Self::NotEquals(key, value) => write!(f, "{key}!={value}"),
            Self::In(key, values) => write!(f, "{key} in ({})", sorted(values)),
            Self::NotIn(key, values) => write!(f, "{key} notin ({})", sorted(values)),
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
        let mut ordered: Vec<&Requirement> = self.requirements.iter().collect();
        ordered.sort_by_key(|requirement| requirement.key());
        let terms: Vec<String> = ordered.iter().map(ToString::to_string).collect();
        f.write_str(&terms.join(","))
    }
}

fn sorted(values: &[String]) -> String {
    let mut values: Vec<&str> = values.iter().map(String::as_str).collect();
    values.sort_unstable();
    values.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_the_query_form_in_the_order_of_keys() {
        let s = LabelSelector::parse("tier in (b,a),app=web,!old,x notin (y,z),one in (v)").unwrap();
        assert_eq!(s.to_string(), "app=web,!old,one in (v),tier in (a,b),x notin (y,z)");
        assert_eq!(LabelSelector::parse(&s.to_string()).unwrap().to_string(), s.to_string());
    }

    #[test]
    fn labels_of_an_object_form_are_equalities() {
        let map = BTreeMap::from([("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())]);
        let s = LabelSelector::from_map(&map);
        assert_eq!(s.to_string(), "a=1,b=2");
        assert!(s.matches(&map) && !s.matches(&BTreeMap::new()));
    }
}
