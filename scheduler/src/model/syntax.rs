//! The syntax of labels and of the names that they are made of. Each check returns its complaints in upstream's words,
//! none when the text is fine. Pure; what other names look like is the kinds' affair.

pub(crate) const DNS_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
    or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED_NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
    an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
    '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
    used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

pub(crate) const MAX_LABEL: usize = 63;
pub(crate) const MAX_SUBDOMAIN: usize = 253;

pub(crate) fn collect(complaints: &[(bool, &str)]) -> Vec<String> {
    complaints.iter().filter(|(wrong, _)| *wrong).map(|(_, text)| (*text).to_owned()).collect()
}

pub(crate) fn max_bytes(length: usize) -> String {
    format!("must be no more than {length} bytes")
}

pub(crate) fn ends(text: &str, legal: impl Fn(char) -> bool) -> bool {
    text.starts_with(&legal) && text.ends_with(&legal)
}

pub(crate) fn is_lower(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

pub(crate) fn is_dns_label(text: &str) -> bool {
    ends(text, is_lower) && text.chars().all(|c| is_lower(c) || c == '-')
}

pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    text.split('.').all(is_dns_label)
}

fn is_word(text: &str) -> bool {
    ends(text, |c| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// A label or annotation key, a taint key, a finalizer: a name with an optional DNS prefix.
pub fn qualified_name(text: &str) -> Vec<String> {
    let (prefix, name) = match text.split('/').collect::<Vec<_>>().as_slice() {
        [name] => (None, *name),
        [prefix, name] => (Some(*prefix), *name),
        _ => {
            let tail = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {QUALIFIED_NAME} {tail}")];
        }
    };
    let mut out = Vec::new();
    match prefix {
        Some("") => out.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            let wrong = [
                (prefix.len() > MAX_SUBDOMAIN, max_bytes(MAX_SUBDOMAIN)),
                (!is_dns_subdomain(prefix), DNS_SUBDOMAIN.to_owned()),
            ];
            out.extend(
                wrong.into_iter().filter(|(wrong, _)| *wrong).map(|(_, why)| format!("prefix part {why}")),
            );
        }
        None => {}
    }
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if name.len() > MAX_LABEL {
        out.push(format!("name part {}", max_bytes(MAX_LABEL)));
    }
    if !is_word(name) {
        out.push(format!("name part {QUALIFIED_NAME}"));
    }
    out
}

/// The value of a label.
pub fn label_value(text: &str) -> Vec<String> {
    let legal = text.is_empty() || is_word(text);
    collect(&[(text.len() > MAX_LABEL, &max_bytes(MAX_LABEL)), (!legal, LABEL_VALUE)])
}
