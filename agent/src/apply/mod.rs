//! Carries plans out: the only caller of mutating ports.
