//! The control loops: a pure plan each and one shared runner.
