//! The configuration files that are shipped, read by the daemon's own parser.

use std::{fs, path::Path};

use gantry_scheduler::config::Config;

#[test]
fn the_annotated_file_shows_every_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/scheduler.toml");
    let text = fs::read_to_string(&path).unwrap();
    let shown = Config::parse(&text, &path).unwrap();
    let defaults = Config::parse("", Path::new("defaults")).unwrap();
    assert_eq!(shown, defaults);
}
