//! Whole objects in refusals. Upstream prints its internal types there, which spell their fields as Go does, in the
//! order of their declaration, and say what is not set too: `{"Type":"","LocalhostProfile":"a"}`. Flows in: an
//! object as clients know it, and `schema/internal-facts.txt` (see `schema/internal.py`). Flows out: its text. Types
//! that no refusal prints are not listed.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::Value;

use crate::model::go;

const FACTS: &str = include_str!("../../../schema/internal-facts.txt");

static SHAPES: LazyLock<BTreeMap<&str, Vec<Member>>> = LazyLock::new(|| {
    let lines = FACTS.lines().filter(|line| !line.starts_with('#'));
    let shape = |line: &'static str| {
        let (name, members) = line.split_once(' ').unwrap_or((line, ""));
        (name, members.split(' ').filter_map(Member::parse).collect())
    };
    lines.map(shape).collect()
});

/// One field of a type.
struct Member {
    /// As Go spells it, or as clients do in types that upstream prints so.
    shown: &'static str,
    name: &'static str,
    /// The type of an object, or of the items of a list.
    ty: Option<&'static str>,
    /// What stands for an absent one; `{}` for an object in which everything is absent, nothing for a field that is
    /// left out then.
    absent: Option<&'static str>,
}

impl Member {
    fn parse(word: &'static str) -> Option<Self> {
        let (word, optional) = word.strip_prefix('?').map_or((word, false), |word| (word, true));
        let (word, absent) = word.split_once('!').unwrap_or((word, "null"));
        let (word, ty) = word.split_once(':').map_or((word, None), |(word, ty)| (word, Some(ty)));
        let (shown, name) = word.split_once('=')?;
        Some(Self { shown, name, ty, absent: (!optional).then_some(absent) })
    }

    fn print(&self, object: &Value) -> Option<String> {
        let value = object.get(self.name).filter(|value| !value.is_null());
        let text = match (value, self.ty, self.absent) {
            (Some(value), Some(ty), _) => print(ty, value),
            (Some(value), None, _) => go::json(value),
            (None, Some(ty), Some("{}")) => print(ty, &Value::Object(serde_json::Map::new())),
            (None, _, absent) => absent?.to_owned(),
        };
        Some(format!("\"{}\":{text}", self.shown))
    }
}

/// One object, or a list of them, of the type called `name`.
pub(in crate::kinds) fn print(name: &str, value: &Value) -> String {
    match value {
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(|item| print(name, item)).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(_) => {
            let shape = SHAPES.get(name).or_else(|| SHAPES.get(format!("metav1.{name}").as_str()));
            let members = shape.into_iter().flatten().filter_map(|member| member.print(value));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        other => go::json(other),
    }
}

/// As [`print`], on lines of their own: what differences are shown of.
pub(in crate::kinds) fn pretty(name: &str, value: &Value) -> Vec<String> {
    let (mut lines, mut line, mut depth) = (Vec::new(), String::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    let text = print(name, value);
    let mut chars = text.chars().peekable();
    let mut end = |line: &mut String, depth: usize| {
        lines.push(std::mem::replace(line, " ".repeat(depth)));
    };
    while let Some(c) = chars.next() {
        line.push(c);
        match c {
            c if quoted => {
                quoted = escaped || c != '"';
                escaped = c == '\\' && !escaped;
            }
            '"' => quoted = true,
            ':' => line.push(' '),
            ',' => end(&mut line, depth),
            '{' | '[' if chars.peek().is_some_and(|next| !matches!(next, '}' | ']')) => {
                depth += 1;
                end(&mut line, depth);
            }
            '{' | '[' => line.extend(chars.next()),
            _ => {}
        }
        if !quoted && matches!(chars.peek(), Some('}' | ']')) {
            depth = depth.saturating_sub(1);
            end(&mut line, depth);
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_printed_as_upstreams_types_are() {
        for (ty, value, expected) in [
            (
                "SeccompProfile",
                json!({"localhostProfile": "a<b"}),
                r#"{"Type":"","LocalhostProfile":"a\u003cb"}"#,
            ),
            (
                "NodeSelectorTerm",
                json!([{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]),
                r#"[{"MatchExpressions":[{"Key":"a","Operator":"Exists","Values":null}],"MatchFields":null}]"#,
            ),
            (
                "LabelSelector",
                json!({"matchExpressions": [{"key": "a", "operator": "Exists"}], "matchLabels": {"b": "c"}}),
                r#"{"matchLabels":{"b":"c"},"matchExpressions":[{"key":"a","operator":"Exists"}]}"#,
            ),
            ("PodIP", json!([{"ip": "::1"}]), r#"[{"IP":"::1"}]"#),
            ("LabelSelector", json!(null), "null"),
        ] {
            assert_eq!(print(ty, &value), expected);
        }
    }

    #[test]
    fn pretty_is_gos_indented_json() {
        let value = json!({"matchLabels": {"a": "b,{\"}"}, "matchExpressions": [{"key": "k", "values": []}]});
        let expected = "{\n \"matchLabels\": {\n  \"a\": \"b,{\\\"}\"\n },\n \"matchExpressions\": [\n  {\n   \
                        \"key\": \"k\",\n   \"operator\": \"\",\n   \"values\": []\n  }\n ]\n}";
        assert_eq!(pretty("LabelSelector", &value).join("\n"), expected);
    }

    #[test]
    fn every_type_that_is_named_is_known() {
        for (name, members) in &*SHAPES {
            for member in members {
                assert!(member.ty.is_none_or(|ty| SHAPES.contains_key(ty)), "{name}.{}", member.name);
            }
        }
        assert!(SHAPES["PodSpec"].len() > 30);
    }
}
