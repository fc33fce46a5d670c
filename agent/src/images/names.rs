//! What an image reference means: its normal form (`postgres:16.1` is `docker.io/library/postgres:16.1`), the name it
//! is kept under, and where it is pulled from after aliases. Pure.

use std::collections::BTreeMap;

use oci_client::Reference;

use super::{ImageError, reference};

/// Names that are served under another: a whole reference, a repository, or a prefix of it that ends at a slash, as
/// manifests write it or in normal form.
pub(super) type Aliases = BTreeMap<String, String>;

/// A reference that parses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    written: String,
    normal: Reference,
}

impl Name {
    pub(super) fn parse(written: &str) -> Result<Self, ImageError> {
        let invalid = |why: String| ImageError::InvalidName { reference: written.to_owned(), why };
        if written.trim() != written {
            return Err(invalid("image name must not have leading or trailing whitespace".into()));
        }
        let unparsable = |error| invalid(format!("couldn't parse image name {written:?}: {error}"));
        let normal = reference::parse(written).map_err(unparsable)?;
        Ok(Self { written: written.to_owned(), normal })
    }

    /// Name in the image store.
    pub(super) fn local(&self) -> String {
        self.normal.whole()
    }

    /// Registry and repository, for `imageID`.
    pub(super) fn repository(&self) -> String {
        format!("{}/{}", self.normal.registry(), self.normal.repository())
    }

    /// Where to pull from: the longest matching alias, or what it says itself.
    pub(super) fn source(&self, aliases: &Aliases) -> Result<Reference, ImageError> {
        let normal = self.normal.whole();
        let matches = aliases.iter().filter_map(|(from, to)| {
            let served = [&self.written, &normal].into_iter().find_map(|name| serve(name, from, to))?;
            Some((from.len(), served))
        });
        match matches.max_by_key(|(length, _)| *length) {
            None => Ok(self.normal.clone()),
            Some((_, target)) => reference::parse(&target).map_err(|error| ImageError::InvalidName {
                reference: self.written.clone(),
                why: format!("its alias {target:?} is not an image name: {error}"),
            }),
        }
    }
}

/// The name with the alias applied, when it applies.
fn serve(name: &str, from: &str, to: &str) -> Option<String> {
    let rest = name.strip_prefix(from.trim_end_matches('/'))?;
    match rest.as_bytes().first() {
        None => Some(to.to_owned()),
        Some(b'/' | b':' | b'@') => Some(format!("{}{rest}", to.trim_end_matches('/'))),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(written: &str, aliases: &[(&str, &str)]) -> String {
        let aliases: Aliases = aliases.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect();
        Name::parse(written).unwrap().source(&aliases).unwrap().whole()
    }

    #[test]
    fn short_names_are_of_docker_hub_and_latest() {
        assert_eq!(Name::parse("postgres").unwrap().local(), "docker.io/library/postgres:latest");
        assert_eq!(Name::parse("fluent/fluent-bit:2.2").unwrap().local(), "docker.io/fluent/fluent-bit:2.2");
        assert_eq!(Name::parse("127.0.0.1:5000/a").unwrap().local(), "127.0.0.1:5000/a:latest");
        assert_eq!(Name::parse("a/b:1").unwrap().repository(), "docker.io/a/b");
    }

    #[test]
    fn bad_names_are_refused_in_upstreams_words() {
        for bad in ["UPPER/case", "a b", " a", "a:", "", "a@sha256:short"] {
            let error = Name::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("Failed to apply default image tag"), "{error}");
        }
    }

    #[test]
    fn repository_alias_keeps_the_tag() {
        let aliases = [("registry.company.com/web-app", "127.0.0.1:5000/gantry/web-app")];
        assert_eq!(
            source("registry.company.com/web-app:2.1.0", &aliases),
            "127.0.0.1:5000/gantry/web-app:2.1.0"
        );
        assert_eq!(source("registry.company.com/web-app2:1", &aliases), "registry.company.com/web-app2:1");
    }

    #[test]
    fn aliases_match_the_written_and_the_normal_form() {
        for from in ["postgres", "docker.io/library/postgres", "library/postgres"] {
            let expected =
                if from == "library/postgres" { "docker.io/library/postgres:16.1" } else { "r.io/pg:16.1" };
            assert_eq!(source("postgres:16.1", &[(from, "r.io/pg")]), expected, "{from}");
        }
        assert_eq!(source("library/postgres:16.1", &[("library/postgres", "r.io/pg")]), "r.io/pg:16.1");
    }

    #[test]
    fn whole_reference_wins_over_repository_over_registry() {
        let aliases = [("a.io", "x.io/all"), ("a.io/b/c", "y.io/c"), ("a.io/b/c:1", "z.io/c:9")];
        assert_eq!(source("a.io/b/c:1", &aliases), "z.io/c:9");
        assert_eq!(source("a.io/b/c:2", &aliases), "y.io/c:2");
        assert_eq!(source("a.io/d:2", &aliases), "x.io/all/d:2");
    }

    #[test]
    fn digests_stay() {
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(source(&format!("a.io/b@{digest}"), &[("a.io/b", "c.io/d")]), format!("c.io/d@{digest}"));
    }
}
