//! The modules of a crate, and what each names: paths of `use` and of everything else, with what `use` calls them made
//! whole. Tests are left out: they look at anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, Item, ItemMod, ItemUse, Macro, Meta, UseTree,
    visit::{self, Visit},
};

/// One source file.
#[derive(Debug, Default)]
pub(super) struct Module {
    /// Below the root.
    pub(super) file: String,
    /// Other modules of the crate, as `a::b`; the root is empty.
    pub(super) knows: BTreeSet<String>,
    /// Paths into other crates.
    pub(super) names: BTreeSet<String>,
}

/// The first step of a module's name; none for the root.
pub(super) fn top(name: &str) -> Option<&str> {
    name.split("::").next().filter(|top| !top.is_empty())
}

/// Reads a crate's sources, by the names of their modules.
pub(super) fn read(root: &Path, sources: &str) -> Result<BTreeMap<String, Module>> {
    let mut files = Vec::new();
    crate::structure::collect(&root.join(sources), &mut files)?;
    let mut parsed = BTreeMap::new();
    let mut tests = BTreeSet::new();
    // Programs beside the main one are crates of their own.
    for file in files.into_iter().filter(|file| !file.starts_with(root.join(sources).join("bin"))) {
        let name = name_of(file.strip_prefix(root.join(sources))?);
        let text = std::fs::read_to_string(&file)?;
        let syntax = syn::parse_file(&text).with_context(|| format!("cannot read {}", file.display()))?;
        for item in &syntax.items {
            if let Item::Mod(inner) = item
                && is_test(&inner.attrs)
            {
                tests.insert(joined(&name, &inner.ident.to_string()));
            }
        }
        parsed.insert(name, (file, syntax));
    }
    parsed.retain(|name, _| !tests.iter().any(|test| name == test || name.starts_with(&format!("{test}::"))));
    let all: BTreeSet<String> = parsed.keys().cloned().collect();
    let of = |(name, (file, syntax)): (&String, &(PathBuf, syn::File))| -> Result<(String, Module)> {
        let mut reader = Reader::default();
        reader.visit_file(syntax);
        let file = file.strip_prefix(root)?.display().to_string();
        Ok((name.clone(), reader.resolve(name, &all, file)))
    };
    parsed.iter().map(of).collect()
}

fn name_of(file: &Path) -> String {
    let mut steps: Vec<String> =
        file.with_extension("").iter().map(|step| step.to_string_lossy().into_owned()).collect();
    if steps.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        steps.pop();
    }
    steps.join("::")
}

fn joined(module: &str, child: &str) -> String {
    if module.is_empty() { child.to_owned() } else { format!("{module}::{child}") }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string().contains("test"),
        _ => false,
    })
}

/// What a file says, before it is known what that means.
#[derive(Default)]
struct Reader {
    /// Paths as they stand.
    paths: Vec<Vec<String>>,
    /// What `use` makes known, and as what.
    uses: BTreeMap<String, Vec<String>>,
}

impl Reader {
    fn tree(&mut self, prefix: &[String], tree: &UseTree) {
        let with = |step: String| prefix.iter().cloned().chain([step]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.tree(&with(path.ident.to_string()), &path.tree),
            UseTree::Name(name) if name.ident == "self" => {
                self.known(prefix.last().cloned(), prefix.to_vec());
            }
            UseTree::Name(name) => {
                self.known(Some(name.ident.to_string()), with(name.ident.to_string()));
            }
            UseTree::Rename(name) => {
                self.known(Some(name.rename.to_string()), with(name.ident.to_string()));
            }
            UseTree::Glob(_) => self.paths.push(prefix.to_vec()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(prefix, tree)),
        }
    }

    fn known(&mut self, name: Option<String>, path: Vec<String>) {
        self.paths.push(path.clone());
        self.uses.extend(name.map(|name| (name, path)));
    }

    /// Paths in the arguments of a macro, which are no syntax yet: identifiers with `::` between them.
    fn tokens(&mut self, tokens: TokenStream) {
        let (mut path, mut colons) = (Vec::new(), 0);
        let mut close = |path: &mut Vec<String>| {
            if path.len() > 1 {
                self.paths.push(std::mem::take(path));
            }
            path.clear();
        };
        let mut inner = Vec::new();
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        close(&mut path);
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    close(&mut path);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        inner.push(group.stream());
                    }
                }
            }
        }
        close(&mut path);
        inner.into_iter().for_each(|tokens| self.tokens(tokens));
    }

    fn resolve(self, module: &str, all: &BTreeSet<String>, file: String) -> Module {
        let mut found = Module { file, ..Module::default() };
        for path in &self.paths {
            let Some((first, rest)) = path.split_first() else { continue };
            let whole = match self.uses.get(first) {
                Some(known) if known != path => known.iter().chain(rest).cloned().collect(),
                _ => path.clone(),
            };
            match within(module, &whole, all) {
                Some(inside) => {
                    let known = longest(&inside, all);
                    if known != module {
                        found.knows.insert(known);
                    }
                }
                None => drop(found.names.insert(whole.join("::"))),
            }
        }
        found
    }
}

/// The path from the crate's root; none for one into another crate.
fn within(module: &str, path: &[String], all: &BTreeSet<String>) -> Option<Vec<String>> {
    let mut here: Vec<String> =
        module.split("::").filter(|step| !step.is_empty()).map(str::to_owned).collect();
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some(here.into_iter().chain(rest.iter().cloned()).collect()),
        "super" => {
            let up = path.iter().take_while(|step| *step == "super").count();
            here.truncate(here.len().saturating_sub(up));
            Some(here.into_iter().chain(path[up..].iter().cloned()).collect())
        }
        child if all.contains(&joined(module, child)) => {
            Some(here.into_iter().chain(path.iter().cloned()).collect())
        }
        _ => None,
    }
}

/// The module that a path leads into.
fn longest(path: &[String], all: &BTreeSet<String>) -> String {
    let lengths = (0..=path.len()).rev();
    lengths.map(|length| path[..length].join("::")).find(|name| all.contains(name)).unwrap_or_default()
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_test(&item.attrs) {
            self.tree(&[], &item.tree);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if !is_test(&item.attrs) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let steps: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if steps.len() > 1 {
            self.paths.push(steps);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, macro_: &'ast Macro) {
        self.tokens(macro_.tokens.clone());
        visit::visit_macro(self, macro_);
    }
}
