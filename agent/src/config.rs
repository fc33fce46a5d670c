//! The configuration file of the agent: raw TOML in, a `Config` that cannot be invalid out.
