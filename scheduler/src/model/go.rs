//! Text as Go prints it: upstream's sentences quote names and values in Go's way, and clients compare them.

use serde_json::Value;

/// Go's `%q`: the text in double quotes, with what cannot be printed escaped.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if is_printable(c) => out.push(c),
            c if c < ' ' || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if u32::from(c) < 0x10000 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// The JSON that Go's encoder writes: compact, with `<`, `>` and `&` escaped.
pub fn json(value: &Value) -> String {
    let text = value.to_string();
    if text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        // They stand in strings alone.
        text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
            match c {
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    out.push_str(&format!("\\u{:04x}", u32::from(c)));
                }
                c => out.push(c),
            }
            out
        })
    } else {
        text
    }
}

/// What Go's decoder calls a value of this kind.
pub fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What Go's parser says of a text that is no JSON, which is what clients of upstream know.
pub fn json_error(error: &serde_json::Error, text: &[u8]) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let said = error.to_string();
    let place = [
        ("expected value", "looking for beginning of value"),
        ("expected ident", "in literal"),
        ("key must be a string", "looking for beginning of object key string"),
        ("expected `:`", "after object key"),
        ("expected `,` or `}`", "after object key:value pair"),
        ("expected `,` or `]`", "after array element"),
        ("trailing characters", "after top-level value"),
        ("trailing comma", "looking for beginning of value"),
    ];
    let line = text.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let found = line.get(error.column().saturating_sub(1)).map(|byte| char::from(*byte));
    match (place.iter().find(|(text, _)| said.starts_with(text)), found) {
        (Some((_, place)), Some(found)) => {
            let shown = match found {
                '\'' => "\\'".to_owned(),
                '"' => "\"".to_owned(),
                found => quote(&found.to_string()).trim_matches('"').to_owned(),
            };
            format!("invalid character '{shown}' {place}")
        }
        _ => said,
    }
}

/// Letters, marks, numbers, punctuation, symbols and the plain space.
fn is_printable(c: char) -> bool {
    c == ' ' || c == '\'' || c.is_alphanumeric() || c.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_quoted_as_go_quotes_it() {
        for (text, expected) in [
            ("web", r#""web""#),
            ("it's", r#""it's""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("a\n\t\u{1}\u{7f}", r#""a\n\t\x01\x7f""#),
            ("é中", "\"é中\""),
            ("\u{a0}\u{200b}", r#""\u00a0\u200b""#),
            ("<&>", r#""<&>""#),
        ] {
            assert_eq!(quote(text), expected);
        }
    }

    #[test]
    fn broken_json_is_refused_as_gos_parser_does() {
        let said = |text: &str| {
            let error = serde_json::from_str::<Value>(text).unwrap_err();
            json_error(&error, text.as_bytes())
        };
        assert_eq!(said("{"), "unexpected end of JSON input");
        assert_eq!(said("abc"), "invalid character 'a' looking for beginning of value");
        assert_eq!(said("\u{ff}"), "invalid character 'Ã' looking for beginning of value");
        assert_eq!(said("{} '"), "invalid character '\\'' after top-level value");
        assert_eq!(said("{\"a\" 1}"), "invalid character '1' after object key");
    }

    #[test]
    fn json_is_safe_for_html_as_gos_is() {
        assert_eq!(json(&json!({"a": "<b> & \"c\""})), r#"{"a":"\u003cb\u003e \u0026 \"c\""}"#);
        assert_eq!(json(&json!([1, true, null])), "[1,true,null]");
    }
}
