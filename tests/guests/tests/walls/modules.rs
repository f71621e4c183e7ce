//! The modules inside each crate: who uses whom, as their imports say, without a circle.
//!
//! A module is a file or directory at the top of a crate; parents and children inside a directory may use each other. What
//! only tests and comments mention does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::{root, sources, table};

type Uses = BTreeMap<String, BTreeSet<String>>;

const CRATES: [(&str, &str); 9] = [
    ("snapshot", "snapshot/src"),
    ("recoverable", "snapshot/recoverable/src"),
    ("devices", "devices/src"),
    ("replication", "replication/src"),
    ("outlast-api", "vmm/api/src"),
    ("machine", "vmm/machine/src"),
    ("protect", "vmm/protect/src"),
    ("vmm", "vmm/src"),
    ("bench", "vmm/bench/src"),
];

/// Of each module of the crate in `src`, the modules that it uses.
fn uses(src: &Path) -> Uses {
    let mut texts: BTreeMap<String, Vec<(bool, String)>> = BTreeMap::new();
    for path in sources(src) {
        let relative = path.strip_prefix(src).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs").to_owned();
        let is_test = relative.components().any(|part| {
            let part = part.as_os_str().to_str().unwrap();
            part == "tests" || part.ends_with("tests.rs")
        });
        if is_test || ["lib", "main", "bin", "fuzzing", "testing"].contains(&module.as_str()) {
            continue;
        }
        // `super` of a file at the top, or of a directory's `mod.rs`, is the crate.
        let depth = relative.components().count();
        let is_top = depth == 1 || (depth == 2 && relative.ends_with("mod.rs"));
        texts.entry(module).or_default().push((is_top, code_of(&fs::read_to_string(&path).unwrap())));
    }
    let names: BTreeSet<String> = texts.keys().cloned().collect();
    let exported = exported(&code_of(&fs::read_to_string(src.join("lib.rs")).unwrap_or_default()), &names);
    let of = |module: &String, files: &Vec<(bool, String)>| {
        let prefixes = |is_top| if is_top { &["crate::", "super::"][..] } else { &["crate::"][..] };
        let used = files.iter().flat_map(|(is_top, text)| {
            prefixes(*is_top).iter().flat_map(|prefix| text.split(prefix).skip(1).flat_map(first_names))
        });
        let used =
            used.filter_map(|name| if names.contains(&name) { Some(name) } else { exported.get(&name).cloned() });
        used.filter(|used| used != module).collect()
    };
    texts.iter().map(|(module, files)| (module.clone(), of(module, files))).collect()
}

/// The program without comments and without its tests.
fn code_of(text: &str) -> String {
    let program = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let without = |line: &str| line.split("//").next().unwrap().to_owned();
    program.lines().map(without).collect::<Vec<_>>().join("\n")
}

/// The names at the beginning of a path: one, or those of a group.
fn first_names(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else { return vec![identifier(path)] };
    let (mut depth, mut names, mut at) = (0, Vec::new(), 0);
    for (index, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(identifier(group[at..index].trim()));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(identifier(group[at..index].trim()));
                at = index + 1;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

/// What the crate's root re-exports, and of which module it is.
fn exported(root: &str, modules: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut exported = BTreeMap::new();
    for export in root.split("pub use ").skip(1) {
        let (path, _) = export.split_once(';').unwrap();
        let module = identifier(path.trim_start_matches("crate::"));
        if let (true, Some((_, names))) = (modules.contains(&module), path.split_once("::")) {
            let names = names.split(['{', '}', ',', '\n', ' ', ':']).filter(|name| !name.is_empty());
            exported.extend(names.map(|name| (name.to_owned(), module.clone())));
        }
    }
    exported
}

/// Modules that use each other, one after the other, if there are such.
fn circle(uses: &Uses) -> Option<Vec<String>> {
    let mut left: Uses = uses.clone();
    loop {
        let done: BTreeSet<String> = left
            .iter()
            .filter(|(_, used)| used.iter().all(|used| !left.contains_key(used)))
            .map(|(m, _)| m.clone())
            .collect();
        if done.is_empty() {
            break;
        }
        left.retain(|module, _| !done.contains(module));
    }
    // Whoever is left uses somebody who is left too: following that comes back some time.
    let mut path = vec![left.keys().next()?.clone()];
    loop {
        let next = left[path.last().unwrap()].iter().find(|used| left.contains_key(*used)).unwrap();
        if let Some(at) = path.iter().position(|module| module == next) {
            return Some(path.split_off(at));
        }
        path.push(next.clone());
    }
}

#[test]
fn walls_modules_of_no_crate_form_a_circle() {
    for (name, src) in CRATES {
        let uses = uses(&root().join(src));
        assert!(uses.len() > 3, "{name} has modules");
        assert_eq!(circle(&uses), None, "{name}");
    }
}

#[test]
fn walls_modules_use_what_the_page_says() {
    for (name, src) in CRATES {
        let page = table(&format!("Modules of `{name}`"));
        let found = uses(&root().join(src));
        let said: Uses = page.into_iter().map(|(module, cells)| (module, super::names(&cells[0]))).collect();
        let rows = |uses: &Uses| {
            let row = |(module, used): (&String, &BTreeSet<String>)| {
                format!("| `{module}` | {} |", used.iter().cloned().collect::<Vec<_>>().join(", "))
            };
            uses.iter().map(row).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(said, found, "docs/WALLS.md and the imports of {name} differ; the imports:\n{}", rows(&found));
    }
}

#[test]
fn walls_circles_are_found_and_groups_are_read() {
    let of = |pairs: &[(&str, &[&str])]| -> Uses {
        pairs.iter().map(|(m, used)| ((*m).into(), used.iter().map(|u| (*u).into()).collect())).collect()
    };
    assert_eq!(circle(&of(&[("a", &["b"]), ("b", &["c"]), ("c", &[])])), None);
    assert_eq!(circle(&of(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])])), Some(vec!["b".into(), "c".into()]));
    assert_eq!(first_names("{a::{b, c}, d::e, F};"), ["a", "d", "F"]);
    assert_eq!(code_of("use crate::a; // crate::b\n#[cfg(test)]\nmod tests {\n use crate::c;"), "use crate::a; ");
}
