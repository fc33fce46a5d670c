//! Field selectors: `metadata.name=web,status.phase!=Running`.

use super::SelectorError;

/// A conjunction of `field=value` and `field!=value`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// Path, wanted value, and whether it must be equal.
    pub terms: Vec<(String, String, bool)>,
}

impl FieldSelector {
    /// From the query form. A comma, an equals sign or a backslash in a value stands behind a backslash; blanks count.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parts = split(text);
        // The first complaint of several is that about the smallest term, as upstream.
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let Some((path, value, equal)) = operator(part) else {
                let why = format!("invalid selector: '{text}'; can't understand '{part}'");
                return Err(SelectorError::Syntax(why));
            };
            let value = unescaped(value)?;
            // Nothing of nothing selects everything.
            if !path.is_empty() || !value.is_empty() {
                terms.push((path.to_owned(), value, equal));
            }
        }
        Ok(Self { terms })
    }

    /// Whether an object matches; `value` gives the value of a path (empty when unset).
    pub fn matches<'a>(&self, value: impl Fn(&str) -> &'a str) -> bool {
        self.terms.iter().all(|(path, wanted, equal)| (value(path) == wanted) == *equal)
    }
}

/// The parts between commas that have no backslash before them.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Path, raw value, and whether it is to be equal, cut at the first operator.
fn operator(part: &str) -> Option<(&str, &str, bool)> {
    let at = part.char_indices().find(|(at, c)| *c == '=' || part[*at..].starts_with("!="))?.0;
    let (path, rest) = part.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((path, value, false));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
    Some((path, value, true))
}

fn unescaped(value: &str) -> Result<String, SelectorError> {
    let sequence = |what: String| {
        SelectorError::Syntax(format!("invalid field selector: invalid escape sequence: {what}"))
    };
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(sequence(format!("\\{c}"))),
                None => return Err(sequence("\\".to_owned())),
            },
            ',' | '=' => {
                let code = u32::from(c);
                let why = format!("invalid field selector: unescaped character in value: {code}");
                return Err(SelectorError::Syntax(why));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_selector_compares_both_ways() {
        let s = FieldSelector::parse("metadata.name=a,status.phase!=Running").unwrap();
        assert!(s.matches(|p| if p == "metadata.name" { "a" } else { "Pending" }));
        assert!(!s.matches(|p| if p == "metadata.name" { "a" } else { "Running" }));
    }

    #[test]
    fn values_are_escaped_and_blanks_count() {
        let terms = |text: &str| FieldSelector::parse(text).unwrap().terms;
        assert_eq!(terms(r"a=b\,c\=d\\e"), [("a".to_owned(), r"b,c=d\e".to_owned(), true)]);
        assert_eq!(terms("a == b"), [("a ".to_owned(), " b".to_owned(), true)]);
        assert_eq!(
            terms("z=1,,a!=2,"),
            [("a".to_owned(), "2".to_owned(), false), ("z".to_owned(), "1".to_owned(), true)]
        );
        assert!(terms("=").is_empty() && terms("!=").is_empty());
    }

    #[test]
    fn refusals_have_upstreams_words() {
        let said = |text: &str| FieldSelector::parse(text).unwrap_err().to_string();
        assert_eq!(said("a=b,c"), "invalid selector: 'a=b,c'; can't understand 'c'");
        assert_eq!(said(r"a=b\c"), r"invalid field selector: invalid escape sequence: \c");
        assert_eq!(said("a=b=c"), "invalid field selector: unescaped character in value: 61");
        assert_eq!(said(r"a=b\"), r"invalid field selector: invalid escape sequence: \");
    }
}
