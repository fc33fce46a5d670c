//! Container logs on disk in the CRI format: writing, rotation, reading, following.
