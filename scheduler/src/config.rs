//! The configuration file of the scheduler: raw TOML in, a `Config` that cannot be invalid out.
