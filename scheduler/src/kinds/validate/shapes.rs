//! Whole objects in refusals. Upstream prints its internal types there, which spell their fields as Go does, in the
//! order of their declaration, and say what is not set too: `{"Type":"","LocalhostProfile":"a"}`. Flows in: an
//! object as clients know it. Flows out: its text. Types that nothing prints are not listed.

use serde_json::Value;

use crate::model::go;

/// The fields of a type: `name`, `name=GoName` where that is more than a capital letter, `:Type` of an object or of
/// the items of a list, `!value` for what stands for an absent one (else `null`). A leading `?` marks a type that
/// upstream prints as clients write it, without what is absent.
const SHAPES: [(&str, &str); 15] = [
    ("AppArmorProfile", r#"type!"" localhostProfile"#),
    ("Capabilities", "add drop"),
    ("HostIP", r#"ip=IP!"""#),
    ("LabelSelector", "?matchLabels ?matchExpressions:LabelSelectorRequirement"),
    ("LabelSelectorRequirement", "?key ?operator ?values"),
    ("NodeSelectorRequirement", r#"key!"" operator!"" values"#),
    ("NodeSelectorTerm", "matchExpressions:NodeSelectorRequirement matchFields:NodeSelectorRequirement"),
    ("OwnerReference", "?apiVersion ?kind ?name ?uid ?controller ?blockOwnerDeletion"),
    ("PodIP", r#"ip=IP!"""#),
    ("PodResourceClaim", r#"name!"" resourceClaimName resourceClaimTemplateName"#),
    ("SELinuxOptions", r#"user!"" role!"" type!"" level!"""#),
    ("SeccompProfile", r#"type!"" localhostProfile"#),
    (
        "SecurityContext",
        "capabilities:Capabilities privileged seLinuxOptions=SELinuxOptions:SELinuxOptions \
         windowsOptions:WindowsSecurityContextOptions runAsUser runAsGroup runAsNonRoot readOnlyRootFilesystem \
         allowPrivilegeEscalation procMount seccompProfile:SeccompProfile appArmorProfile:AppArmorProfile",
    ),
    (
        "WindowsSecurityContextOptions",
        "gmsaCredentialSpecName=GMSACredentialSpecName gmsaCredentialSpec=GMSACredentialSpec runAsUserName \
         hostProcess",
    ),
    ("ContainerResizePolicy", r#"resourceName!"" restartPolicy!"""#),
];

/// One object, or a list of them, of the type called `name`.
pub(super) fn print(name: &str, value: &Value) -> String {
    match value {
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(|item| print(name, item)).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(_) => {
            let shape = SHAPES.iter().find(|(known, _)| *known == name).map_or("", |(_, shape)| *shape);
            let members: Vec<String> =
                shape.split_whitespace().filter_map(|field| member(field, value)).collect();
            format!("{{{}}}", members.join(","))
        }
        other => go::json(other),
    }
}

fn member(field: &str, object: &Value) -> Option<String> {
    let (field, absent) = field.split_once('!').unwrap_or((field, "null"));
    let (field, ty) = field.split_once(':').unwrap_or((field, ""));
    let (field, plain) = field.strip_prefix('?').map_or((field, false), |field| (field, true));
    let (name, shown) = match field.split_once('=') {
        Some((name, shown)) => (name, shown.to_owned()),
        None if plain => (field, field.to_owned()),
        None => (field, capital(field)),
    };
    let text = match object.get(name).filter(|value| !value.is_null()) {
        Some(value) if ty.is_empty() => go::json(value),
        Some(value) => print(ty, value),
        None if plain => return None,
        None => absent.to_owned(),
    };
    Some(format!("{shown:?}:{text}"))
}

fn capital(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}", first.to_ascii_uppercase(), chars.as_str()))
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
    fn every_type_that_is_named_is_known() {
        for (_, shape) in SHAPES {
            for field in shape.split_whitespace() {
                let ty = field.split('!').next().and_then(|field| field.split_once(':')).map(|(_, ty)| ty);
                assert!(ty.is_none_or(|ty| SHAPES.iter().any(|(name, _)| *name == ty)), "{field}");
            }
        }
    }
}
