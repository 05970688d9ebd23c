//! The house's own rules, held against its source: which room may use which, what
//! a pure room may not know, how long a file may be, that nothing is left
//! unfinished. Each check is first shown a sample that breaks it.

#[path = "architecture/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path as FilePath, PathBuf};

use source::{Path, Source};

/// Rooms without tokio, clock, file, socket or global.
const PURE: &[&str] = &["snapshot", "sync", "wire", "state"];

/// Who may use whom. A room that stands in no line may use nothing; a room that
/// comes later gets its line here.
const EDGES: &[(&str, &[&str])] = &[
    ("main", &["cli", "config", "telemetry"]),
    ("cli", &["node", "config", "telemetry"]),
    (
        "node",
        &[
            "api",
            "store",
            "net",
            "comet",
            "abci",
            "sdk",
            "xian",
            "ledger",
            "snapshot",
            "sync",
            "wire",
            "state",
            "config",
            "telemetry",
        ],
    ),
    // It gives each room's plain Stats their names as metrics.
    (
        "telemetry",
        &[
            "api", "store", "net", "comet", "abci", "sdk", "xian", "ledger", "snapshot", "sync",
            "wire", "state",
        ],
    ),
    ("api", &["snapshot", "sync", "wire", "state"]),
    ("store", &["snapshot", "sync", "wire", "state"]),
    ("net", &["snapshot", "sync", "wire", "state"]),
    ("comet", &["snapshot", "sync", "wire", "state"]),
    ("abci", &["snapshot", "sync", "wire", "state"]),
    ("sdk", &["snapshot"]),
    ("xian", &["snapshot", "sync", "wire", "state"]),
    ("ledger", &["snapshot", "sync", "wire", "state"]),
    ("sync", &["snapshot"]),
    ("wire", &["snapshot"]),
    ("state", &["snapshot"]),
];

/// Crates that compute and do nothing else.
const PURE_CRATES: &[&str] = &[
    "bytes",
    "cid",
    // It is used to check signatures; whoever makes one has the key elsewhere.
    "ed25519_consensus",
    "hex",
    "prost",
    "rand",
    "rand_chacha",
    "serde",
    "sha2",
    "tape_sha256",
    "thiserror",
    "unsigned_varint",
    // From memory to memory, and the same bytes on every machine.
    "zstd",
];

/// What a pure room does not name, and why. A rule fits where its names follow
/// each other anywhere in a path.
const IMPURE: &[(&[&str], &str)] = &[
    (&["async"], "a pure room waits for nothing"),
    (&["await"], "a pure room waits for nothing"),
    (&["std", "fs"], "no files"),
    (&["std", "net"], "no sockets"),
    (&["std", "os"], "no system"),
    (&["std", "env"], "settings are arguments"),
    (&["std", "process"], "no processes"),
    (&["std", "thread"], "no threads"),
    (&["std", "sync", "mpsc"], "no threads"),
    (&["stdin"], "no streams"),
    (&["stdout"], "no streams"),
    (&["stderr"], "no streams"),
    (&["println"], "no streams"),
    (&["eprintln"], "no streams"),
    (&["dbg"], "no streams"),
    (&["Instant", "now"], "time is an argument"),
    (&["elapsed"], "time is an argument"),
    (&["SystemTime"], "time is an argument"),
    (&["HashMap"], "its order differs from run to run"),
    (&["HashSet"], "its order differs from run to run"),
    (&["RandomState"], "it differs from run to run"),
    (&["rand", "rng"], "randomness is an argument"),
    (&["rand", "random"], "randomness is an argument"),
    (&["rand", "random_range"], "randomness is an argument"),
    (&["ThreadRng"], "randomness is an argument"),
    (&["SysRng"], "randomness is an argument"),
    (&["static"], "no globals"),
    (&["thread_local"], "no globals"),
    (&["Mutex"], "a state machine has one owner"),
    (&["RwLock"], "a state machine has one owner"),
    (&["OnceLock"], "no globals"),
    (&["LazyLock"], "no globals"),
    (&["atomic"], "a state machine has one owner"),
    (&["unsafe"], "nothing here needs it"),
];

/// Lines of a file. Past 400 one looks for the second thing inside.
const MAX_FILE_LINES: usize = 600;

/// Words that mark a place as unfinished.
const UNFINISHED: &[&str] = &["TODO", "FIXME", "XXX", "HACK", "todo!", "unimplemented!"];

fn root() -> &'static FilePath {
    FilePath::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder that end so, with their path from the checkout.
fn files(folder: &str, ending: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// Names of the modules down to a file: `src/net/pieces/mod.rs` is net, pieces.
fn module_of(file: &FilePath) -> Vec<String> {
    let inside = file.strip_prefix("src").unwrap().with_extension("");
    let mut names: Vec<String> = inside
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    if names.last().is_some_and(|last| last == "mod") {
        names.pop();
    }
    names
}

/// A file of `src/` as a module of a room.
struct Module {
    file: PathBuf,
    names: Vec<String>,
    source: Source,
}

impl Module {
    fn read(file: &FilePath, text: &str) -> Self {
        let names = module_of(file);
        // The roots of the library and of the program are not modules of a room.
        let is_root = names == ["lib"] || names == ["main"];
        let depth = if is_root { 0 } else { names.len() };
        Self {
            file: file.to_owned(),
            source: Source::read(text, depth),
            names,
        }
    }

    fn room(&self) -> &str {
        &self.names[0]
    }

    fn at(&self, path: &Path) -> String {
        let text = path.segments.join("::");
        format!("{}:{}: {text}", self.file.display(), path.line)
    }
}

fn modules() -> Vec<Module> {
    let files = files("src", ".rs");
    assert!(files.len() > 10, "the source was not found");
    files
        .iter()
        .map(|(file, text)| Module::read(file, text))
        .collect()
}

/// The room that a path leads to, where it goes through the crate's root.
fn target(path: &Path) -> Option<&str> {
    let segments = &path.segments;
    let supers = segments.iter().take_while(|name| *name == "super").count();
    let at = match segments[0].as_str() {
        "crate" | "snapswarm" => 1,
        "super" if supers >= path.depth => path.depth,
        "self" if path.depth == 0 => 1,
        _ => return None,
    };
    match segments.get(at) {
        Some(room) => Some(room),
        // `pub(crate)` alone is no path; `crate as x` hides what is used.
        None => (segments.len() > 1).then_some("*"),
    }
}

/// Uses of rooms that the table does not allow.
fn wrong_edges(modules: &[Module]) -> Vec<String> {
    let mut wrong = Vec::new();
    for module in modules {
        let allowed = EDGES.iter().find(|(room, _)| *room == module.room());
        let allowed = allowed.map_or(&[][..], |(_, rooms)| rooms);
        for path in &module.source.paths {
            let Some(target) = target(path) else {
                continue;
            };
            if target != module.room() && !allowed.contains(&target) {
                let room = module.room();
                wrong.push(format!("{}: {room} may not use {target}", module.at(path)));
            }
        }
    }
    wrong
}

/// Whether a module, or one above it, is declared for tests only.
fn is_test_module(module: &Module, modules: &[Module]) -> bool {
    modules.iter().any(|parent| {
        let depth = parent.names.len();
        module.names.starts_with(&parent.names)
            && (module.names.get(depth))
                .is_some_and(|name| parent.source.test_modules.contains(name))
    })
}

/// What pure rooms name and may not. `crates` are the crate's dependencies.
fn impurities(modules: &[Module], crates: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for module in modules {
        if !PURE.contains(&module.room()) || is_test_module(module, modules) {
            continue;
        }
        for path in module.source.paths.iter().filter(|path| !path.in_test) {
            for (names, reason) in IMPURE {
                let fits = |part: &[String]| part.iter().eq(names.iter());
                if path.segments.windows(names.len()).any(fits) {
                    wrong.push(format!("{}: {reason}", module.at(path)));
                }
            }
            let first = &path.segments[0];
            if path.segments.len() > 1
                && crates.contains(first)
                && !PURE_CRATES.contains(&first.as_str())
            {
                let at = module.at(path);
                wrong.push(format!("{at}: {first} is no crate for a pure room"));
            }
        }
    }
    wrong
}

fn dependencies() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let cargo: toml::Table = text.parse().unwrap();
    let names = cargo["dependencies"].as_table().unwrap().keys();
    names.map(|name| name.replace('-', "_")).collect()
}

fn unfinished(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for word in UNFINISHED {
            let is_word = |(start, _): (usize, &str)| {
                let ends = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
                ends(line[..start].chars().next_back())
                    && ends(line[start + word.len()..].chars().next())
            };
            if line.match_indices(word).any(is_word) {
                found.push(format!("{}: {word}", at + 1));
            }
        }
    }
    found
}

fn begins_with_its_doc(text: &str) -> bool {
    text.starts_with("//! ")
}

#[track_caller]
fn assert_none(wrong: &[String]) {
    let mut text = String::new();
    for line in wrong {
        writeln!(text, "  {line}").unwrap();
    }
    assert!(wrong.is_empty(), "{}:\n{text}", wrong.len());
}

#[test]
fn rooms_use_only_the_rooms_that_they_may() {
    assert_none(&wrong_edges(&modules()));
}

#[test]
fn every_room_has_its_line_in_the_table() {
    for module in modules() {
        let room = module.room();
        let is_leaf = ["lib", "config", "snapshot"].contains(&room);
        assert!(
            is_leaf || EDGES.iter().any(|(name, _)| *name == room),
            "{room} stands in no line of EDGES"
        );
    }
}

#[test]
fn pure_rooms_know_no_runtime_clock_file_socket_or_global() {
    assert_none(&impurities(&modules(), &dependencies()));
}

#[test]
fn every_room_begins_with_what_it_is() {
    let modules = modules();
    let rooms: BTreeSet<&str> = modules.iter().map(Module::room).collect();
    for room in rooms.iter().filter(|room| **room != "main") {
        let alone = root().join(format!("src/{room}.rs"));
        let text = fs::read_to_string(alone)
            .or_else(|_| fs::read_to_string(root().join(format!("src/{room}/mod.rs"))))
            .unwrap();
        assert!(begins_with_its_doc(&text), "{room} has no doc comment");
    }
}

#[test]
fn no_file_is_longer_than_can_be_read() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests", "testnet", "benches", "examples"] {
        for (file, text) in files(folder, ".rs") {
            let lines = text.lines().count();
            if lines > MAX_FILE_LINES {
                wrong.push(format!("{} has {lines} lines", file.display()));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut wrong = Vec::new();
    for folder in ["src", "proto", "tests", "testnet", "benches", "examples"] {
        for ending in [".rs", ".proto", ".sh", ".py", ".toml"] {
            for (file, text) in files(folder, ending) {
                if file == FilePath::new("tests/architecture.rs") {
                    continue;
                }
                let found = unfinished(&text).into_iter();
                wrong.extend(found.map(|place| format!("{}:{place}", file.display())));
            }
        }
    }
    assert_none(&wrong);
}

/// A file of the sample house.
fn sample(file: &str, text: &str) -> Module {
    Module::read(FilePath::new(file), text)
}

fn edges_of(file: &str, text: &str) -> usize {
    wrong_edges(&[sample(file, text)]).len()
}

#[test]
fn a_wrong_edge_is_seen_however_it_is_written() {
    for text in [
        "use crate::store::Store;",
        "use crate::{snapshot::Manifest, store::{self}};",
        "pub use crate::store;",
        "fn f() { let x = crate::store::open(); }",
        "fn f(store: &crate::store::Store) {}",
        "use super::store;",
        "use super::*;",
        "use crate::*;",
        "mod inner { use super::super::store; }",
        "mod tests { fn f() { println!(\"{}\", super::super::store::X); } }",
        "#[cfg(test)] mod tests { use crate::store::Store; }",
        "macro_rules! m { () => { $crate::store::f() } }",
        "use crate :: /* far */ store;",
    ] {
        assert_eq!(edges_of("src/net/mod.rs", text), 1, "{text}");
    }
    assert_eq!(
        edges_of(
            "src/net/pieces/client.rs",
            "use super::super::super::store;"
        ),
        1
    );
    assert_eq!(
        edges_of("src/main.rs", "use snapswarm::{cli::Cli, node};"),
        1
    );
    assert_eq!(edges_of("src/cli/fetch.rs", "use crate::net::Net;"), 1);
    assert_eq!(
        edges_of("src/api/mod.rs", "use crate::node::command::Command;"),
        1
    );
    assert_eq!(edges_of("src/snapshot/mod.rs", "use crate::wire::Ask;"), 1);
    assert_eq!(edges_of("src/sync/mod.rs", "use crate::wire::Ask;"), 1);
    assert_eq!(edges_of("src/net/mod.rs", "use crate::config::Config;"), 1);
    assert_eq!(
        edges_of("src/store/mod.rs", "use crate::telemetry::log;"),
        1
    );
    assert_eq!(
        edges_of("src/newroom.rs", "use crate::snapshot::Manifest;"),
        1
    );
}

#[test]
fn a_right_edge_is_no_fault_and_text_is_no_edge() {
    for text in [
        "use crate::snapshot::{Manifest, hash};",
        "use crate::{snapshot, wire::{Ask, Answer}, sync};",
        "use crate::net::Library;",
        "//! See [`crate::store`].\n/// And crate::store.\npub(crate) struct X;",
        "// crate::store\nconst TEXT: &str = \"crate::store\";",
        "pub(in crate::net) fn f() {}",
        "mod inner { use super::Library; }",
        "use super::snapshot;",
        "use self::pieces::Client; use libp2p::swarm;",
    ] {
        assert_eq!(edges_of("src/net/mod.rs", text), 0, "{text}");
    }
    assert_eq!(
        edges_of("src/net/pieces/client.rs", "use super::super::store;"),
        0
    );
    assert_eq!(
        edges_of("src/node/mod.rs", "use crate::{net, store, comet, config};"),
        0
    );
    assert_eq!(
        edges_of("src/main.rs", "use snapswarm::{cli::Cli, telemetry};"),
        0
    );
}

#[test]
fn an_impurity_is_seen_however_it_is_written() {
    let crates = ["tokio", "tracing", "bytes", "libp2p"].map(str::to_owned);
    let crates = BTreeSet::from(crates);
    let faults = |text: &str| impurities(&[sample("src/sync/fetch.rs", text)], &crates);
    for text in [
        "use tokio::time::sleep;",
        "fn f(peer: libp2p::PeerId) {}",
        "fn f() { tracing::info!(\"x\"); }",
        "use std::{collections::BTreeMap, fs};",
        "use std::net::TcpStream;",
        "fn f() { let now = std::time::Instant::now(); }",
        "use std::time; fn f() { let now = time::Instant::now(); }",
        "fn f(start: std::time::Instant) { start.elapsed(); }",
        "use std::time::SystemTime;",
        "use std::collections::HashMap;",
        "fn f() { let set = std::collections::HashSet::<u8>::new(); }",
        "fn f() { std::thread::spawn(|| {}); }",
        "fn f() { std::env::var(\"X\"); }",
        "fn f() { std::process::exit(1); }",
        "static mut COUNT: u32 = 0;",
        "static TABLE: [u8; 1] = [0];",
        "use std::sync::{Arc, Mutex};",
        "use std::sync::OnceLock;",
        "use std::sync::atomic::AtomicU64;",
        "async fn f() {}",
        "fn f() { println!(\"x\"); }",
        "fn f() { rand::rng(); }",
        "#[cfg(not(test))] fn f() { std::process::abort(); }",
    ] {
        assert_eq!(faults(text).len(), 1, "{text}: {:?}", faults(text));
    }
}

#[test]
fn a_pure_room_may_compute_and_its_tests_may_look_at_the_clock() {
    let crates = BTreeSet::from(["tokio", "bytes"].map(str::to_owned));
    let faults = |text: &str| impurities(&[sample("src/sync/fetch.rs", text)], &crates);
    for text in [
        "use std::time::{Duration, Instant}; fn f(now: Instant) -> Instant { now }",
        "use std::collections::{BTreeMap, BTreeSet};",
        "use bytes::Bytes; use std::sync::Arc;",
        "fn f() -> &'static str { \"tokio::spawn(async {})\" }",
        "struct Fetch<'async_> { tokio: &'async_ u8 }",
        "#[cfg(test)]\nmod tests { use std::time::Instant; fn t() { Instant::now(); } }",
        "#[cfg(test)] #[derive(Debug)] struct X(std::collections::HashMap<u8, u8>);",
        "#[cfg(all(test, unix))] use std::fs;",
    ] {
        assert_eq!(faults(text), [""; 0], "{text}");
    }
    let after = "#[cfg(test)] mod tests { } use std::fs;";
    assert_eq!(faults(after).len(), 1, "the exemption ends with the item");

    let declared = sample("src/sync/mod.rs", "#[cfg(test)]\npub(crate) mod tests;");
    let test_file = sample("src/sync/tests/clock.rs", "use std::fs;");
    assert_eq!(impurities(&[declared, test_file], &crates), [""; 0]);
    let undeclared = sample("src/sync/mod.rs", "mod tests;");
    let test_file = sample("src/sync/tests/clock.rs", "use std::fs;");
    assert_eq!(impurities(&[undeclared, test_file], &crates).len(), 1);
    let elsewhere = sample("src/store/mod.rs", "use std::fs;");
    assert_eq!(impurities(&[elsewhere], &crates), [""; 0]);
}

#[test]
fn the_checks_of_text_see_what_breaks_them() {
    assert_eq!(unfinished("let x = 1;\n// TODO: more\n").len(), 1);
    assert_eq!(
        unfinished("todo!()\nunimplemented!(\"x\")\n# FIXME\n").len(),
        3
    );
    assert!(unfinished("let todo = todos(); // a HACKER, mTODO\n").is_empty());
    assert!(begins_with_its_doc("//! What it is.\nfn f() {}"));
    assert!(!begins_with_its_doc("\n//! Late."));
    assert!(!begins_with_its_doc("// no doc"));
}
