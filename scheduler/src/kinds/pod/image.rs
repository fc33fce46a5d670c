//! References to images: as much of their grammar as decides how often an image is pulled.

/// The longest name of a repository, registry included.
const MAX_NAME: usize = 255;

/// `Always` or `IfNotPresent`: what upstream fills in for a pull policy. An image without tag and digest is `latest`;
/// text that is no reference has no tag at all.
pub(super) fn pull_policy(image: &str) -> &'static str {
    let latest = match tag(image) {
        Some(Tag::None) => true,
        Some(Tag::Named(tag)) => tag == "latest",
        Some(Tag::Digest) | None => false,
    };
    if latest { "Always" } else { "IfNotPresent" }
}

enum Tag<'a> {
    None,
    Named(&'a str),
    Digest,
}

/// The tag of a reference; `None` when it is none.
fn tag(image: &str) -> Option<Tag<'_>> {
    let is_id = image.len() == 64 && image.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_id {
        return None;
    }
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    let (domain, rest) = match rest.split_once('/') {
        Some((first, rest)) if is_domain_like(first) => (first, rest),
        _ => ("docker.io", rest),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    let legal = is_domain(domain)
        && path.split('/').all(is_component)
        && domain.len() + 1 + path.len() <= MAX_NAME
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest);
    if !legal {
        return None;
    }
    Some(match (tag, digest) {
        (Some(tag), _) => Tag::Named(tag),
        (None, Some(_)) => Tag::Digest,
        (None, None) => Tag::None,
    })
}

/// What stands before the first slash is a registry when no repository could be called so.
fn is_domain_like(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase)
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let word = |label: &str| {
        let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        end(label.chars().next())
            && end(label.chars().last())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let legal_host = match address {
        Some(address) => address.chars().all(|c| c.is_ascii_hexdigit() || c == ':') && !address.is_empty(),
        None => host.split('.').all(word),
    };
    legal_host && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower case words, between which stand a dot, one or two underscores or any number of hyphens.
fn is_component(component: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = component.starts_with(is_word) && component.ends_with(is_word);
    let mut separators = component.split(is_word).filter(|between| !between.is_empty());
    ends && separators.all(|between| matches!(between, "." | "_" | "__") || between.chars().all(|c| c == '-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&tag.len())
        && tag.starts_with(is_word)
        && tag.chars().all(|c| is_word(c) || matches!(c, '.' | '-'))
}

/// Of the algorithms that there are, in lower case.
fn is_digest(digest: &str) -> bool {
    let length = match digest.split_once(':').map(|(algorithm, _)| algorithm) {
        Some("sha256") => 64,
        Some("sha384") => 96,
        Some("sha512") => 128,
        _ => return false,
    };
    let hex = digest.split_once(':').map_or("", |(_, hex)| hex);
    hex.len() == length && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        let digest = format!("nginx@sha256:{}", "0".repeat(64));
        let tagged = format!("nginx:latest@sha256:{}", "0".repeat(64));
        for (image, expected) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("reg:5000/nginx", "Always"),
            ("reg:5000/a:1", "IfNotPresent"),
            ("localhost/a/b", "Always"),
            ("1.2.3.4", "Always"),
            ("10.0.0.0/8", "Always"),
            ("a__b/c-d.e", "Always"),
            (digest.as_str(), "IfNotPresent"),
            (tagged.as_str(), "Always"),
        ] {
            assert_eq!(pull_policy(image), expected, "{image}");
        }
    }

    #[test]
    fn what_is_no_reference_is_not_pulled_each_time() {
        let id = "a".repeat(64);
        for image in ["", "FOO", "A_b c", "/a/../b", "a_", "a___b", "a/B", "nginx:", "nginx@sha256:00", &id] {
            assert_eq!(pull_policy(image), "IfNotPresent", "{image}");
        }
    }
}
