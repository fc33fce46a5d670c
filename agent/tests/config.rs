//! The files below `config/`, read by those who will read them: the agent's own parser, a unit file's rules, and
//! for the dashboard the names that the daemons' sources give their metrics.

#![expect(clippy::unwrap_used, reason = "a failure here is the test's failure")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use gantry_agent::config::Config;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("agent.toml")).unwrap()
}

#[test]
fn the_annotated_file_shows_every_default() {
    let shown = read("config/agent.toml");
    let table: toml::Table = toml::from_str(&shown).unwrap();
    let scheduler = toml::Table::from_iter([("scheduler".to_owned(), table["scheduler"].clone())]);
    let defaults = parse(&scheduler.to_string());
    assert_eq!(format!("{:#?}", parse(&shown)), format!("{defaults:#?}"));
}

#[test]
fn what_is_commented_out_is_valid_too() {
    let shown = read("config/agent.toml");
    // A commented key is a `#`, a space and an assignment; prose has no assignment.
    let is_key = |line: &&str| {
        line.strip_prefix("# ").is_some_and(|rest| {
            rest.split_once(" = ").is_some_and(|(key, _)| !key.trim_matches('"').contains(' '))
        })
    };
    let keys = shown.lines().filter(is_key).count();
    assert!(keys >= 8, "{keys}");
    let enabled: Vec<&str> =
        shown.lines().map(|line| if is_key(&line) { &line[2..] } else { line }).collect();
    parse(&enabled.join("\n"));
}

#[test]
fn units_name_what_is_installed_and_keep_pods_running() {
    for daemon in ["agent", "scheduler"] {
        let unit = read(&format!("config/systemd/gantry-{daemon}.service"));
        let has = |line: &str| unit.lines().any(|l| l == line);
        assert!(has("Type=notify") && has("Restart=always") && has("WatchdogSec=30s"), "{daemon}");
        let start = format!("ExecStart=/usr/local/bin/gantry-{daemon} --config /etc/gantry/{daemon}.toml");
        assert!(has(&start), "{daemon}");
        if daemon == "agent" {
            assert!(has("KillMode=process") && has("Delegate=yes"), "pods must survive the agent");
        }
    }
}

/// Metric names in the expressions of a dashboard or rule: words with an underscore, which no function that is used
/// here is mistaken for.
fn names(expression: &str) -> BTreeSet<String> {
    let mut outside = String::new();
    let mut depth = 0;
    for c in expression.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ if depth == 0 => outside.push(c),
            _ => {}
        }
    }
    let functions = ["histogram_quantile", "label_values", "count_values", "__rate_interval"];
    let words = outside.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|w| w.contains('_') && !functions.contains(w)).map(str::to_owned).collect()
}

fn sources(directory: &Path, text: &mut String) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("config/dashboards/gantry.json")).unwrap();
    let mut known = String::new();
    sources(&root().join("agent/src"), &mut known);
    sources(&root().join("scheduler/src"), &mut known);
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() >= 8);
    for panel in panels {
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        for target in targets {
            for name in names(target["expr"].as_str().unwrap()) {
                let family = ["_total", "_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| name.strip_suffix(suffix))
                    .unwrap_or(&name);
                let exists =
                    known.contains(&format!("\"{family}\"")) || known.contains(&format!("\"{name}\""));
                assert!(exists || is_grouping(&name), "{name} in {:?}", panel["title"]);
            }
        }
    }
}

/// Labels in `by (...)` and template variables.
fn is_grouping(name: &str) -> bool {
    ["container_state"].contains(&name)
}
