//! Which entry of an image index is for this machine. Pure.

use serde::Deserialize;

/// An index or a manifest, as far as telling them apart needs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    /// Present in an index.
    pub(crate) manifests: Option<Vec<Entry>>,
    /// Of the document itself; optional in older ones.
    pub(crate) media_type: Option<String>,
}

/// One image of an index.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Entry {
    /// Of the manifest.
    pub(crate) digest: String,
    /// Absent in an index of one.
    pub(crate) platform: Option<Platform>,
}

/// Where an image runs.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Platform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// The machine's architecture in the names of the image specification.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The best entry for this machine.
pub(crate) fn select(entries: &[Entry]) -> Option<&Entry> {
    select_for(entries, architecture())
}

/// The plain variant first (amd64 rather than amd64/v3, which this machine may not be able to run); an entry
/// without a platform is taken when it is the only one.
fn select_for<'a>(entries: &'a [Entry], architecture: &str) -> Option<&'a Entry> {
    let ours = entries.iter().filter_map(|entry| {
        let platform = entry.platform.as_ref()?;
        let fits = platform.os == "linux" && platform.architecture == architecture;
        fits.then_some((rank(&platform.variant), entry))
    });
    let best = ours.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry);
    best.or(match entries {
        [only] if only.platform.is_none() => Some(only),
        _ => None,
    })
}

fn rank(variant: &str) -> u32 {
    match variant {
        // arm64 is v8.
        "" | "v8" | "v1" => 0,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(digest: &str, platform: Option<(&str, &str, &str)>) -> Entry {
        let platform = platform.map(|(os, architecture, variant)| Platform {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.into(),
        });
        Entry { digest: digest.into(), platform }
    }

    #[test]
    fn takes_the_plain_variant_of_the_right_platform() {
        let entries = [
            entry("attestation", Some(("unknown", "unknown", ""))),
            entry("v3", Some(("linux", "amd64", "v3"))),
            entry("arm", Some(("linux", "arm64", "v8"))),
            entry("plain", Some(("linux", "amd64", ""))),
            entry("windows", Some(("windows", "amd64", ""))),
        ];
        assert_eq!(select_for(&entries, "amd64").unwrap().digest, "plain");
        assert_eq!(select_for(&entries, "arm64").unwrap().digest, "arm");
        assert!(select_for(&entries, "riscv64").is_none());
    }

    #[test]
    fn a_single_entry_without_platform_is_for_everybody() {
        assert_eq!(select_for(&[entry("only", None)], "amd64").unwrap().digest, "only");
        assert!(select_for(&[entry("a", None), entry("b", None)], "amd64").is_none());
    }
}
