//! Paths that a pod names: none climbs out of where it begins.

use crate::kinds::validate::{Path, Problems};

/// No path climbs out of where it begins.
pub(super) fn no_backsteps(value: &str, path: &Path, problems: &mut Problems) {
    if value.split('/').any(|part| part == "..") {
        problems.invalid(path, value, "must not contain '..'");
    }
}

/// A path below some directory: neither absolute nor climbing out.
pub(super) fn relative(value: &str, path: &Path, problems: &mut Problems) {
    if value.starts_with('/') {
        problems.invalid(path, value, "must be a relative path");
    }
    no_backsteps(value, path, problems);
}
