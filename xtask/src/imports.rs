//! Which module knows which: read from the sources, and held against the map in ARCHITECTURE.md. The rows of its tables
//! stand in the order of imports: a module knows those above it and no others. Within a directory nothing imports in a
//! circle. What a row says that its module never does is held as far as imports show it.
//!
//! In: the tree. Out: what is against the rules, each with its file. Never: a judgement of what code does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
};

use anyhow::{Context, Result, ensure};

use self::source::Module;

mod circles;
mod source;

/// What a module may not name, and the words of the map that say so.
struct Never {
    /// Directory or file below the root, without its end.
    module: &'static str,
    words: &'static str,
    paths: &'static [&'static str],
}

/// What reaches outside the process, or differs from one call to the next.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::process",
    "std::env",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "jiff::Timestamp::now",
    "k8s_openapi::jiff::Timestamp::now",
    "tokio",
    "rand",
    "nix::fcntl",
    "nix::mount",
    "nix::net",
    "nix::sys::socket",
    "nix::sys::stat",
    "nix::unistd",
    "libc",
    "rusqlite",
];
const HTTP: &[&str] = &["http", "hyper", "axum", "tonic"];

const NEVER: &[Never] = &[
    Never { module: "scheduler/src/kinds", words: "does IO or reads a clock", paths: IMPURE },
    Never { module: "scheduler/src/patch", words: "does IO or reads a clock", paths: IMPURE },
    Never { module: "scheduler/src/objects", words: "knows HTTP or one kind", paths: HTTP },
    Never { module: "scheduler/src/controllers", words: "runs one key in two hands", paths: HTTP },
    Never { module: "agent/src/plan", words: "does IO, reads a clock, draws a random number", paths: IMPURE },
];

/// A crate that only some modules may name, as the map's reason says.
struct Only {
    path: &'static str,
    below: &'static str,
    modules: &'static [&'static str],
}

const ONLY: &[Only] = &[
    Only { path: "gantry_proto", below: "agent/src", modules: &["agent/src/control"] },
    Only {
        path: "containerd_client",
        below: "agent/src",
        modules: &["agent/src/containerd", "agent/src/runtime", "agent/src/images"],
    },
    Only { path: "cgroups_rs", below: "agent/src", modules: &["agent/src/cgroup"] },
    Only { path: "procfs", below: "agent/src", modules: &["agent/src/proc"] },
    Only { path: "rusqlite", below: "scheduler/src", modules: &["scheduler/src/store"] },
    Only { path: "aya", below: "agent/src", modules: &["agent/src/dataplane", "agent/src/sys"] },
];

/// Checks the daemons and this program; says how many imports were looked at.
pub(crate) fn go_one_way(root: &Path) -> Result<String> {
    let map = std::fs::read_to_string(root.join("ARCHITECTURE.md"))?;
    let (mut faults, mut looked_at) = (Vec::new(), 0);
    for sources in ["agent/src", "scheduler/src", "xtask/src"] {
        let modules = source::read(root, sources)?;
        looked_at += modules.values().map(|module| module.knows.len() + module.names.len()).sum::<usize>();
        faults.extend(circles::find(&modules).iter().map(|circle| format!("{sources}: {circle}")));
        faults.extend(against_never(&modules));
        if sources != "xtask/src" {
            faults.extend(against_order(&modules, &rows(&map, sources), sources));
        }
    }
    for never in NEVER {
        let row = map.lines().find(|line| line.starts_with(&format!("| `{}", never.module)));
        let row = row.with_context(|| format!("ARCHITECTURE.md has no row of {}", never.module))?;
        ensure!(row.contains(never.words), "ARCHITECTURE.md: {} no longer {:?}", never.module, never.words);
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(format!("{looked_at} paths"))
}

/// The top modules of a crate in the order of the map's rows, each with its place.
fn rows<'a>(map: &'a str, sources: &str) -> BTreeMap<&'a str, usize> {
    let start = format!("| `{sources}/");
    let named =
        map.lines().filter_map(|line| line.strip_prefix(&start)?.split_once('`')).map(|(path, _)| path);
    let tops = named.map(|path| path.trim_end_matches('/').trim_end_matches(".rs"));
    let mut places = BTreeMap::new();
    for (place, top) in tops.filter(|path| !path.contains('/')).enumerate() {
        places.entry(top).or_insert(place);
    }
    places
}

fn against_order(
    modules: &BTreeMap<String, Module>,
    rows: &BTreeMap<&str, usize>,
    sources: &str,
) -> Vec<String> {
    let mut faults = BTreeSet::new();
    for (name, module) in modules {
        let top = source::top(name);
        // The root of the crate only declares.
        let Some(top) = top else { continue };
        let Some(place) = rows.get(top) else {
            faults.insert(format!("ARCHITECTURE.md has no row of {sources}/{top}"));
            continue;
        };
        for known in module.knows.iter().filter_map(|known| source::top(known)).filter(|known| *known != top)
        {
            if rows.get(known).is_some_and(|known| known >= place) {
                faults.insert(format!("{}: imports {known}, whose row is below that of {top}", module.file));
            }
        }
    }
    faults.into_iter().collect()
}

fn against_never(modules: &BTreeMap<String, Module>) -> Vec<String> {
    let is_in = |file: &str, module: &str| {
        file.strip_prefix(module).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
    };
    let is_below = |name: &str, path: &str| {
        name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let mut faults = Vec::new();
    for module in modules.values() {
        let nevers = NEVER.iter().filter(|never| is_in(&module.file, never.module));
        for never in nevers {
            for path in never.paths {
                if let Some(found) = module.names.iter().find(|name| is_below(name, path)) {
                    faults.push(format!("{}: names {found}, but never {}", module.file, never.words));
                }
            }
        }
        for only in ONLY.iter().filter(|only| module.file.starts_with(only.below)) {
            let allowed = only.modules.iter().any(|allowed| is_in(&module.file, allowed));
            if !allowed && module.names.iter().any(|name| is_below(name, only.path)) {
                let mut fault = format!("{}: names {}, which is for ", module.file, only.path);
                // Writing to a String cannot fail.
                let _ = write!(fault, "{} alone", only.modules.join(", "));
                faults.push(fault);
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(files: &[(&str, &str)]) -> BTreeMap<String, Module> {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        source::read(dir.path(), "scheduler/src").unwrap()
    }

    const MAP: &str = "| `scheduler/src/model/` | data |\n| `scheduler/src/kinds/` | rows |\n";

    #[test]
    fn an_import_of_a_lower_row_is_told_with_its_file() {
        let found = |model: &str| {
            let modules = modules(&[
                ("scheduler/src/lib.rs", "mod model; mod kinds;"),
                ("scheduler/src/model/mod.rs", model),
                ("scheduler/src/kinds/mod.rs", "use crate::model::Key;"),
            ]);
            against_order(&modules, &rows(MAP, "scheduler/src"), "scheduler/src")
        };
        assert_eq!(found("pub struct Key;"), [""; 0]);
        let told = "scheduler/src/model/mod.rs: imports kinds, whose row is below that of model";
        assert_eq!(found("use crate::{kinds::Kind, model};"), [told]);
        assert_eq!(found("fn f() { crate::kinds::all() }"), [told]);
        assert_eq!(found("fn f() { println!(\"{}\", crate::kinds::all()) }"), [told], "in a macro too");
        assert_eq!(
            found("#[cfg(test)] mod tests { use crate::kinds::Kind; }"),
            [""; 0],
            "tests look anywhere"
        );
    }

    #[test]
    fn a_module_without_a_row_is_told() {
        let modules = modules(&[("scheduler/src/lib.rs", "mod new;"), ("scheduler/src/new.rs", "")]);
        let faults = against_order(&modules, &rows(MAP, "scheduler/src"), "scheduler/src");
        assert_eq!(faults, ["ARCHITECTURE.md has no row of scheduler/src/new"]);
    }

    #[test]
    fn what_a_module_never_does_is_found_by_name_and_by_alias() {
        let found = |text: &str| {
            against_never(&modules(&[
                ("scheduler/src/lib.rs", "mod kinds;"),
                ("scheduler/src/kinds/mod.rs", text),
            ]))
        };
        let told = |name: &str| {
            vec![format!("scheduler/src/kinds/mod.rs: names {name}, but never does IO or reads a clock")]
        };
        assert_eq!(found("use std::time::SystemTime;"), told("std::time::SystemTime"));
        assert_eq!(found("use std::time; fn f() { time::Instant::now(); }"), told("std::time::Instant::now"));
        assert_eq!(found("use jiff::Timestamp; fn f() { Timestamp::now(); }"), told("jiff::Timestamp::now"));
        assert_eq!(found("use jiff::Timestamp; fn f(_: Timestamp) {}"), [""; 0]);
        let database = found("use rusqlite::Connection;");
        assert!(database.iter().any(|fault| fault.ends_with("scheduler/src/store alone")), "{database:?}");
    }
}
