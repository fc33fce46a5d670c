//! Circles among siblings: modules of one directory, each with all that is below it, that import each other around. A
//! module and those inside it are one thing.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Module;

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Every circle, as `a -> b (in file) -> a`.
pub(super) fn find(modules: &BTreeMap<String, Module>) -> Vec<String> {
    let (mut graph, mut reasons) = (Graph::new(), BTreeMap::new());
    for (name, module) in modules {
        for known in &module.knows {
            if let Some((from, to)) = siblings(name, known) {
                reasons.entry((from.clone(), to.clone())).or_insert(module.file.as_str());
                graph.entry(from).or_default().insert(to);
            }
        }
    }
    let mut circles: Vec<Vec<&str>> = Vec::new();
    for start in graph.keys() {
        let is_known = circles.iter().any(|circle| circle.contains(&start.as_str()));
        if let (false, Some(circle)) = (is_known, around(&graph, start)) {
            circles.push(circle);
        }
    }
    let told = |circle: &Vec<&str>| {
        let steps = circle.iter().zip(circle.iter().cycle().skip(1));
        let steps = steps.map(|(from, to)| {
            let file = reasons.get(&((*from).to_owned(), (*to).to_owned())).copied().unwrap_or_default();
            format!("{from} imports {to} (in {file})")
        });
        format!("a circle: {}", steps.collect::<Vec<_>>().join(", "))
    };
    circles.iter().map(told).collect()
}

/// The two modules of one directory that an import of `known` in `name` connects; none when one is inside the other.
fn siblings(name: &str, known: &str) -> Option<(String, String)> {
    let (from, to): (Vec<&str>, Vec<&str>) = (name.split("::").collect(), known.split("::").collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let inside = common == from.len() || common == to.len() || name.is_empty() || known.is_empty();
    (!inside).then(|| (from[..=common].join("::"), to[..=common].join("::")))
}

/// The shortest way from a module back to itself.
fn around<'a>(graph: &'a Graph, start: &'a str) -> Option<Vec<&'a str>> {
    let mut ways = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = way.last().and_then(|last| graph.get(*last));
            for next in last.into_iter().flatten() {
                if next == start {
                    return Some(way);
                }
                if seen.insert(next.as_str()) {
                    longer.push(way.iter().copied().chain([next.as_str()]).collect());
                }
            }
        }
        ways = longer;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> BTreeMap<String, Module> {
        let of = |(name, knows): &(&str, &[&str])| {
            let knows = knows.iter().map(|known| (*known).to_owned()).collect();
            ((*name).to_owned(), Module { file: format!("{name}.rs"), knows, ..Module::default() })
        };
        edges.iter().map(of).collect()
    }

    #[test]
    fn a_circle_is_told_once_with_the_files_that_make_it() {
        let found = find(&graph(&[("a::x", &["b"]), ("b", &["c"]), ("c", &["a::y"]), ("d", &["a"])]));
        assert_eq!(
            found,
            ["a circle: a imports b (in a::x.rs), b imports c (in b.rs), c imports a (in c.rs)"]
        );
    }

    #[test]
    fn a_module_and_those_inside_it_are_one_thing() {
        assert_eq!(
            find(&graph(&[("a", &["a::x", "b"]), ("a::x", &["a"]), ("b", &[]), ("", &["a"])])),
            [""; 0]
        );
        let inner = find(&graph(&[("a::x", &["a::y"]), ("a::y", &["a::x"])]));
        assert_eq!(inner, ["a circle: a::x imports a::y (in a::x.rs), a::y imports a::x (in a::y.rs)"]);
    }
}
