//! The control loops: each a pure `plan` and a thin applier, all run by one [`runner`].

pub mod runner;
