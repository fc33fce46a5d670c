//! The grammar of image references. `oci-spec` has it as one regular expression, which costs 8 MB of memory for as long
//! as the process lives and twice that while it is compiled; here it is a walk over the bytes, held against that
//! expression by a property test. Pure.

use oci_client::Reference;

const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_LEGACY: &str = "index.docker.io";
/// Repository of images without one on Docker Hub.
const OFFICIAL: &str = "library";
const DEFAULT_TAG: &str = "latest";
/// Longest repository and longest tag, of the distribution specification.
const REPOSITORY_LENGTH: usize = 255;
const TAG_LENGTH: usize = 128;

/// Why a text is no image reference; in the words of the distribution project, which users know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    #[error("repository name must not be more than {REPOSITORY_LENGTH} characters")]
    TooLong,
    #[error("unsupported digest algorithm")]
    Algorithm,
    #[error("invalid checksum digest length")]
    DigestLength,
}

/// `[registry/]repository[:tag][@digest]` in normal form: registry and tag filled in where they are missing.
pub(super) fn parse(text: &str) -> Result<Reference, ReferenceError> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon before the last slash belongs to the registry's port.
    let tag_at = rest.rfind(':').filter(|at| !rest[*at..].contains('/'));
    let (name, tag) = match tag_at {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    if !tag.is_none_or(is_tag) {
        return Err(ReferenceError::Format);
    }
    digest.map_or(Ok(()), check_digest)?;
    let (registry, repository) = split(name);
    check_name(name, &repository)?;
    let (registry, digest) = (registry.to_owned(), digest.map(str::to_owned));
    Ok(match (tag, digest) {
        (Some(tag), Some(digest)) => {
            Reference::with_tag_and_digest(registry, repository, tag.to_owned(), digest)
        }
        (None, Some(digest)) => Reference::with_digest(registry, repository, digest),
        (tag, None) => Reference::with_tag(registry, repository, tag.unwrap_or(DEFAULT_TAG).to_owned()),
    })
}

/// Registry and repository: the first part is a registry when it cannot be anything else.
fn split(name: &str) -> (&str, String) {
    let is_registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => (DOCKER_HUB, name),
    };
    let registry = if registry == DOCKER_HUB_LEGACY { DOCKER_HUB } else { registry };
    if registry == DOCKER_HUB && !repository.contains('/') {
        return (registry, format!("{OFFICIAL}/{repository}"));
    }
    (registry, repository.to_owned())
}

fn check_name(name: &str, repository: &str) -> Result<(), ReferenceError> {
    if !is_name(&name.to_ascii_lowercase()) {
        return Err(ReferenceError::Format);
    }
    if !is_name(name) || repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(ReferenceError::Uppercase(repository.to_owned()));
    }
    if repository.len() > REPOSITORY_LENGTH { Err(ReferenceError::TooLong) } else { Ok(()) }
}

/// What stands first is a registry or a component like the others.
fn is_name(name: &str) -> bool {
    let mut parts = name.split('/');
    let first = parts.next().unwrap_or_default();
    (is_component(first) || name.contains('/') && is_domain(first)) && parts.all(is_component)
}

/// Runs of `[a-z0-9]` with one of `.`, `_`, `__` or any number of `-` between two of them.
fn is_component(part: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends_well =
        bytes.first().copied().is_some_and(is_inner) && bytes.last().copied().is_some_and(is_inner);
    let mut separators = bytes.split(|b| is_inner(*b)).filter(|run| !run.is_empty());
    ends_well && separators.all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

/// Host name labels, and a port.
fn is_domain(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let all = bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
        ends(bytes.first()) && ends(bytes.last()) && all
    };
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    host.split('.').all(is_label) && port.is_none_or(is_port)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first = tag.bytes().next().is_some_and(is_word);
    first && tag.len() <= TAG_LENGTH && tag.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

fn check_digest(digest: &str) -> Result<(), ReferenceError> {
    let (algorithm, hex) = digest.split_once(':').ok_or(ReferenceError::Format)?;
    if hex.len() < 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ReferenceError::Format);
    }
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(ReferenceError::Algorithm),
    };
    if hex.len() == length { Ok(()) } else { Err(ReferenceError::DigestLength) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the regular expression of `oci-spec` says, with the lower case that upstream asks for besides. (Its tags may
    /// also have letters beyond ASCII, which upstream's may not: none are drawn here.)
    fn oracle(text: &str) -> Option<Reference> {
        let parsed: Reference = text.parse().ok()?;
        (!parsed.repository().bytes().any(|b| b.is_ascii_uppercase())).then_some(parsed)
    }

    fn piece() -> impl Strategy<Value = String> {
        let digest = |algorithm: &str, length: usize| {
            format!("@{algorithm}:{}", "0aF".repeat(43)[..length].to_owned())
        };
        prop_oneof![
            8 => "[a-z0-9]{1,3}",
            2 => prop::sample::select(vec![".", "_", "__", "-", "--", "..", ":", "/", "//", "@", "A", "localhost",
                "index.docker.io", "docker.io", "a.io", ":5000", ":5000/", "-x", " "])
                .prop_map(str::to_owned),
            1 => (prop::sample::select(vec!["sha256", "sha384", "sha512", "md5", "sha+x", ""]),
                prop::sample::select(vec![31, 32, 64, 96, 128])).prop_map(move |(a, n)| digest(a, n)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn agrees_with_the_regular_expression(pieces in prop::collection::vec(piece(), 0..8)) {
            let text = pieces.concat();
            prop_assert_eq!(parse(&text).ok(), oracle(&text), "{:?}", text);
        }
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(parse(&format!("a/{}", "b".repeat(253))).is_ok());
        assert_eq!(parse(&format!("a/{}", "b".repeat(254))), Err(ReferenceError::TooLong));
        assert!(parse(&format!("a:{}", "t".repeat(128))).is_ok());
        assert_eq!(parse(&format!("a:{}", "t".repeat(129))), Err(ReferenceError::Format));
    }

    #[test]
    fn says_when_only_the_case_is_wrong() {
        assert_eq!(parse("a/B"), Err(ReferenceError::Uppercase("a/B".into())));
        assert_eq!(parse("Web App"), Err(ReferenceError::Format));
    }
}
