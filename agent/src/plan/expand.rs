//! `$(VAR)` in environment values, commands and arguments, exactly as upstream expands it: `$$` is a dollar sign,
//! a reference to something unknown stays as written.

use std::collections::BTreeMap;

/// Replaces the references to known variables.
pub(super) fn expand(input: &str, known: &BTreeMap<String, String>) -> String {
    let mut output = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        output.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = match (after.chars().next(), after.strip_prefix('(').and_then(|name| name.split_once(')'))) {
            (Some('$'), _) => {
                output.push('$');
                &after[1..]
            }
            (_, Some((name, tail))) => {
                match known.get(name) {
                    Some(value) => output.push_str(value),
                    None => output.push_str(&rest[at..rest.len() - tail.len()]),
                }
                tail
            }
            // Not a reference: the dollar sign is itself.
            _ => {
                output.push('$');
                after
            }
        };
    }
    output.push_str(rest);
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand_as_upstream() {
        let known = BTreeMap::from([("A".to_owned(), "x".to_owned()), ("EMPTY".to_owned(), String::new())]);
        for (input, output) in [
            ("$(A)", "x"),
            ("pre$(A)post$(A)", "prexpostx"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$x"),
            ("$(MISSING)", "$(MISSING)"),
            ("$(EMPTY)|", "|"),
            ("$A $ $", "$A $ $"),
            ("$(A", "$(A"),
            ("ü$(A)ü", "üxü"),
            ("", ""),
        ] {
            assert_eq!(expand(input, &known), output, "{input}");
        }
    }
}
