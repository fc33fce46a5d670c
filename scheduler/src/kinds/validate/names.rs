//! The syntax of names, labels and keys. Each check returns its complaints, none when the text is fine.

use crate::model::syntax::{
    DNS_SUBDOMAIN, MAX_LABEL, MAX_SUBDOMAIN, collect, ends, is_dns_label, is_dns_subdomain, is_lower,
    max_bytes,
};
pub(in crate::kinds) use crate::model::syntax::{label_value, qualified_name};

const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
    must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_SEARCH: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' \
    or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
    'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME: &str = "a valid environment variable name must consist only of printable ASCII characters other than \
    '='";

const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which \
    must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. \
    '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const HTTP_PATH: &str = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";

fn max(length: usize) -> String {
    format!("must be no more than {length} characters")
}

/// An RFC 1123 label: container and namespace names.
pub(in crate::kinds) fn dns_label(text: &str) -> Vec<String> {
    let syntax = if dns_subdomain(text).is_empty() { "must not contain dots" } else { DNS_LABEL };
    collect(&[(text.len() > MAX_LABEL, &max(MAX_LABEL)), (!is_dns_label(text), syntax)])
}

/// As [`dns_label`], in the words of what upstream declares with the type.
pub(in crate::kinds) fn declared_label(text: &str) -> Vec<String> {
    let (long, words) = (max(MAX_LABEL), max_bytes(MAX_LABEL));
    dns_label(text).into_iter().map(|said| if said == long { words.clone() } else { said }).collect()
}

/// An RFC 1123 subdomain: the names of most objects.
pub(in crate::kinds) fn dns_subdomain(text: &str) -> Vec<String> {
    collect(&[(text.len() > MAX_SUBDOMAIN, &max(MAX_SUBDOMAIN)), (!is_dns_subdomain(text), DNS_SUBDOMAIN)])
}

/// The name of an object that may be the start of one: a `-` at its end is taken for what will follow.
pub(in crate::kinds) fn dns_subdomain_prefix(text: &str) -> Vec<String> {
    // As upstream: the character before the hyphen is not looked at either.
    match text.strip_suffix('-').filter(|stem| !stem.is_empty()) {
        Some(stem) => {
            let kept = stem.char_indices().next_back().map_or("", |(at, _)| &stem[..at]);
            dns_subdomain(&format!("{kept}a"))
        }
        None => dns_subdomain(text),
    }
}

/// An RFC 1123 subdomain whose labels may have underscores: a DNS search path.
pub(in crate::kinds) fn dns_search(text: &str) -> Vec<String> {
    let legal = text.split('.').all(|label| {
        let label = label.strip_prefix('_').unwrap_or(label);
        ends(label, is_lower) && label.chars().all(|c| is_lower(c) || c == '-' || c == '_')
    });
    collect(&[(text.len() > MAX_SUBDOMAIN, &max(MAX_SUBDOMAIN)), (!legal, DNS_SEARCH)])
}

/// A subdomain below any one label: `*.example.com`.
pub(in crate::kinds) fn wildcard_subdomain(text: &str) -> Vec<String> {
    let legal = text.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_dns_label));
    collect(&[(text.len() > MAX_SUBDOMAIN, &max(MAX_SUBDOMAIN)), (!legal, WILDCARD)])
}

/// What may stand between two slashes of a path.
pub(in crate::kinds) fn path_segment(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    let found = ["/", "%"].into_iter().filter(|bad| text.contains(bad));
    found.map(|bad| format!("may not contain '{bad}'")).collect()
}

/// The path of a URL, all of it in letters that need no quoting.
pub(in crate::kinds) fn http_path(text: &str) -> Vec<String> {
    let legal = !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c));
    collect(&[(!legal, HTTP_PATH)])
}

/// A key of a ConfigMap or Secret: also a file name.
pub(in crate::kinds) fn config_key(text: &str) -> Vec<String> {
    let legal =
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    collect(&[
        (text.len() > MAX_SUBDOMAIN, &max(MAX_SUBDOMAIN)),
        (!legal, CONFIG_KEY),
        (text == ".", "must not be '.'"),
        (text == "..", "must not be '..'"),
        (text.len() > 2 && text.starts_with(".."), "must not start with '..'"),
    ])
}

/// The name of an environment variable.
pub(in crate::kinds) fn env_name(text: &str) -> Vec<String> {
    let legal = text.chars().all(|c| (' '..='~').contains(&c) && c != '=');
    collect(&[(text.is_empty(), "environment variable name must be non-empty"), (!legal, ENV_NAME)])
}

/// The name of a port (an IANA service name).
pub(in crate::kinds) fn port_name(text: &str) -> Vec<String> {
    let legal = !text.is_empty() && text.chars().all(|c| is_lower(c) || c == '-');
    collect(&[
        (text.len() > 15, "must be no more than 15 characters"),
        (!legal, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"),
        (!text.contains(|c: char| c.is_ascii_lowercase()), "must contain at least one letter (a-z)"),
        (text.contains("--"), "must not contain consecutive hyphens"),
        (text.starts_with('-') || text.ends_with('-'), "must not begin or end with a hyphen"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_upstreams_syntax() {
        for (check, good, bad) in [
            (dns_label as fn(&str) -> Vec<String>, "my-name", "My_name"),
            (dns_label, "0a", "-a"),
            (dns_subdomain, "a.b-c.1", "a..b"),
            (dns_search, "_tcp.a_b", "a._"),
            (qualified_name, "example.com/MyName", "example.com/"),
            (qualified_name, "app", "a b"),
            (qualified_name, "a_b.c", "x/y/z"),
            (label_value, "", "-"),
            (label_value, "v1.2_3", "a/b"),
            (config_key, "nginx.conf", "a b"),
            (config_key, "a..b", "..a"),
            (env_name, "my.VAR-1", "A=B"),
            (port_name, "http-2", "HTTP"),
            (port_name, "a", "80"),
        ] {
            assert!(check(good).is_empty(), "{good}: {:?}", check(good));
            assert!(!check(bad).is_empty(), "{bad}");
        }
        assert!(dns_label(&"a".repeat(63)).is_empty());
        assert_eq!(dns_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert_eq!(label_value(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert_eq!(qualified_name(&"a".repeat(64)), ["name part must be no more than 63 bytes"]);
        assert_eq!(dns_label("a.b"), ["must not contain dots"]);
        assert_eq!(env_name(""), ["environment variable name must be non-empty"]);
        assert!(dns_subdomain_prefix("ab-").is_empty() && !dns_subdomain_prefix("A-b-").is_empty());
    }

    #[test]
    fn messages_are_upstreams() {
        assert_eq!(
            dns_subdomain("Bad_Name"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
              must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
    }
}
