//! The rules of the view: who keeps a name, who is shown, and that all nodes agree.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::base::ids::NodeId;
use crate::catalog::entry::Entry;
use crate::catalog::fixture;
use crate::catalog::tree::{FileFacts, TREE_ROOT, TreeIndex, ViewFile};

type Catalog = Vec<Entry>;

fn entry(path: &str, tag: u8, secs: i64) -> Entry {
    Entry { executable: tag == 1, ..fixture::entry(path, tag, secs, 1) }
}

fn catalog(entries: &[(&str, u8)]) -> Catalog {
    entries.iter().map(|(path, tag)| entry(path, *tag, i64::from(*tag))).collect()
}

/// A file as it is seen.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    facts: FileFacts,
    sources: Vec<NodeId>,
    state: FileState,
}

fn seen(tree: &ViewTree) -> BTreeMap<String, Seen> {
    let one = |(index, file): (TreeIndex, ViewFile<'_>)| {
        let seen = Seen { facts: file.facts(), sources: file.sources().collect(), state: file.state() };
        (tree.path(index).unwrap().to_string(), seen)
    };
    let files: Vec<_> = tree.files(TREE_ROOT).map(one).collect();
    let names: BTreeMap<_, _> = files.iter().cloned().collect();
    assert_eq!(names.len(), files.len(), "a path twice");
    names
}

fn parties(catalogs: &[(u8, Standing, &Catalog)]) -> Vec<Party> {
    let party = |(tag, standing, catalog): &(u8, Standing, &Catalog)| Party {
        copy: fixture::copy(*tag, catalog),
        standing: *standing,
    };
    catalogs.iter().map(party).collect()
}

fn merged(catalogs: &[(u8, Standing, &Catalog)], whole: &[u8]) -> BTreeMap<String, Seen> {
    seen(&merge(&ViewTree::default(), parties(catalogs), &|content| whole.contains(&content.root.0[0])))
}

use Standing::{Away, Lapsed, Lingering, Live, Offline};

#[test]
fn the_same_file_is_one_with_several_sources() {
    let (mut a, b) = (catalog(&[("x/f.iso", 1)]), catalog(&[("x/f.iso", 1)]));
    a[0].mtime.secs = 50;
    let view = merged(&[(1, Live, &a), (2, Live, &b)], &[]);
    assert_eq!(view.len(), 1);
    let file = &view["x/f.iso"];
    assert_eq!((file.sources.len(), file.facts.mtime.secs, file.facts.executable), (2, 1, true));
}

#[test]
fn most_nodes_keep_the_name_and_the_others_get_a_suffix() {
    let (a, b, c) = (catalog(&[("f.iso", 1)]), catalog(&[("f.iso", 2)]), catalog(&[("f.iso", 2)]));
    let view = merged(&[(1, Live, &a), (2, Live, &b), (3, Away, &c)], &[]);
    assert_eq!(view.keys().collect::<Vec<_>>(), ["f.iso", "f~010101010101.iso"]);
    assert_eq!(view["f.iso"].facts.content.root.0[0], 2);
    // The name stays free for its owner while the owner is away.
    let view = merged(&[(1, Live, &a), (2, Away, &b), (3, Away, &c)], &[]);
    assert_eq!(view.keys().collect::<Vec<_>>(), ["f~010101010101.iso"]);
    // And falls to the next when the claims lapse.
    let view = merged(&[(1, Live, &a), (2, Lapsed, &b), (3, Lapsed, &c)], &[]);
    assert_eq!(view.keys().collect::<Vec<_>>(), ["f.iso"]);
    // Equal numbers: the smaller root.
    let view = merged(&[(1, Live, &a), (2, Live, &b)], &[]);
    assert_eq!(view["f.iso"].facts.content.root.0[0], 1);
}

#[test]
fn a_folder_beats_a_file() {
    let (a, b) = (catalog(&[("data", 1)]), catalog(&[("data/x", 2)]));
    let view = merged(&[(1, Live, &a), (2, Live, &b)], &[]);
    assert_eq!(view.keys().collect::<Vec<_>>(), ["data/x", "data~010101010101"]);
}

#[test]
fn what_is_shown_depends_on_who_is_there() {
    let a = catalog(&[("f", 1)]);
    let state = |standing, whole: &[u8]| merged(&[(1, standing, &a)], whole).get("f").map(|file| file.state);
    assert_eq!(state(Live, &[]), Some(FileState::Live));
    assert_eq!(state(Lingering, &[]), Some(FileState::Lingering));
    assert_eq!(state(Away, &[]), None);
    assert_eq!(state(Away, &[1]), Some(FileState::Cached));
    assert_eq!(state(Lapsed, &[1]), Some(FileState::Cached));
    assert_eq!(state(Offline, &[]), Some(FileState::Offline));
}

#[test]
fn long_and_taken_names_still_get_a_suffix() {
    let long = format!("{}.tar.gz", "ä".repeat(124));
    let (a, b) = (catalog(&[(&long, 1)]), catalog(&[(&long, 2)]));
    let view = merged(&[(1, Live, &a), (2, Live, &b)], &[]);
    assert_eq!(view.len(), 2);
    assert!(view.keys().all(|name| name.len() <= 255));
    let (a, b) = (catalog(&[("f", 1)]), catalog(&[("f", 2), ("f~020202020202", 3)]));
    let view = merged(&[(1, Live, &a), (2, Live, &b)], &[]);
    assert_eq!(view.keys().collect::<Vec<_>>(), ["f", "f~020202020202", "f~02020202020202020202"]);
}

fn catalogs() -> impl Strategy<Value = Vec<BTreeMap<String, u8>>> {
    let path = prop_oneof!["[ab](\\.x)?", "[ab]/[ab]", "[ab]/[ab]/[ab]"];
    proptest::collection::vec(proptest::collection::btree_map(path, 1u8..4, 0..8), 1..5)
}

proptest! {
    #[test]
    fn every_live_content_is_reachable_and_names_do_not_depend_on_who_is_live(
        catalogs in catalogs(), live in proptest::collection::vec(any::<bool>(), 5), order: bool,
    ) {
        // A node's own catalog never has a file where it has a folder.
        let clean: Vec<Catalog> = catalogs.iter().map(|catalog| {
            let is_folder = |path: &String| catalog.keys().any(|other| other.starts_with(&format!("{path}/")));
            catalog.iter().filter(|(path, _)| !is_folder(path)).map(|(path, tag)| entry(path, *tag, 0)).collect()
        }).collect();
        let standing = |i: usize| if live[i] { Live } else { Away };
        let mut some: Vec<_> = clean.iter().enumerate().map(|(i, catalog)| (i as u8, standing(i), catalog)).collect();
        let all: Vec<_> = clean.iter().enumerate().map(|(i, catalog)| (i as u8, Live, catalog)).collect();
        if order {
            some.reverse();
        }
        let (some, all) = (merged(&some, &[]), merged(&all, &[]));
        for (name, file) in &some {
            prop_assert_eq!(all.get(name).map(|file| file.facts.content), Some(file.facts.content));
        }
        let contents: HashSet<(String, u8)> = clean.iter().enumerate().filter(|(i, _)| live[*i])
            .flat_map(|(_, catalog)| catalog.iter().map(|entry| (entry.path.to_string(), entry.content.root.0[0])))
            .collect();
        prop_assert_eq!(some.len(), contents.len());
        // No path is both a file and a folder.
        for name in all.keys() {
            let below = format!("{name}/");
            prop_assert!(!all.keys().any(|other| other.starts_with(&below)));
        }
    }
}

#[test]
fn folders_appear_once() {
    let (a, b) = (catalog(&[("d-e", 1), ("d/x", 1)]), catalog(&[("d.e", 1), ("d/y", 2)]));
    let tree = merge(&ViewTree::default(), parties(&[(1, Live, &a), (2, Live, &b)]), &|_| false);
    let names: Vec<_> = tree.named_children(TREE_ROOT).map(|(name, _)| String::from_utf8_lossy(name)).collect();
    assert_eq!(names, ["d", "d-e", "d.e"]);
    assert_eq!(tree.children(tree.children(TREE_ROOT)[0]).len(), 2);
}

#[test]
fn an_empty_file_does_not_outlive_its_nodes() {
    let mut a = catalog(&[("empty", 1), ("full", 2)]);
    a[0].content.size = 0;
    let names =
        |standing| merged(&[(1, standing, &a), (2, Live, &Vec::new())], &[1, 2]).into_keys().collect::<Vec<_>>();
    assert_eq!(names(Live), ["empty", "full"]);
    assert_eq!(names(Lingering), ["empty", "full"]);
    assert_eq!(names(Offline), ["empty", "full"]);
    assert_eq!(names(Away), ["full"]);
}

/// The rules once more, without a thought of cost.
fn naive(catalogs: &[(u8, Standing, &Catalog)], whole: &[u8]) -> BTreeMap<String, Seen> {
    type Nodes<'a> = Vec<(NodeId, Standing, &'a Entry)>;
    let mut claims: BTreeMap<String, BTreeMap<ContentId, Nodes<'_>>> = BTreeMap::new();
    for (tag, standing, catalog) in catalogs {
        for entry in *catalog {
            let nodes = claims.entry(entry.path.to_string()).or_default().entry(entry.content).or_default();
            nodes.push((fixture::key(*tag).0, *standing, entry));
        }
    }
    let is_folder = |path: &str| claims.keys().any(|other| other.starts_with(&format!("{path}/")));
    let mut files = BTreeMap::new();
    // In the order of the walk: of two that would take one name the first has it.
    let mut paths: Vec<&String> = claims.keys().collect();
    paths.sort_by_key(|path| path.split('/').collect::<Vec<_>>());
    for path in paths {
        let mut ranked: Vec<_> = claims[path].iter().collect();
        ranked.sort_by_key(|(_, of)| std::cmp::Reverse(of.iter().filter(|(_, at, _)| *at != Lapsed).count()));
        for (rank, (content, of)) in ranked.into_iter().enumerate() {
            let any = |standing| of.iter().any(|(_, at, _)| *at == standing);
            let state = match () {
                () if any(Live) => FileState::Live,
                () if any(Lingering) => FileState::Lingering,
                () if content.size > 0 && whole.contains(&content.root.0[0]) => FileState::Cached,
                () if any(Offline) => FileState::Offline,
                () => continue,
            };
            let mut name = Some(path.clone());
            if rank > 0 || is_folder(path) {
                let (stem, extension) = path.split_at(path.find('.').unwrap_or(path.len()));
                let other = |digits| format!("{stem}~{}{extension}", content.root.short(digits));
                let free = |path: &String| !claims.contains_key(path) && !is_folder(path);
                name = [12, 20, 32, 64].into_iter().map(other).find(free);
            }
            let mut sources: Vec<NodeId> = of.iter().filter(|(_, at, _)| *at == Live).map(|(node, ..)| *node).collect();
            sources.sort();
            let mtime = of.iter().map(|(.., entry)| entry.mtime).min().unwrap();
            let executable = of.iter().any(|(.., entry)| entry.executable);
            let seen = Seen { facts: FileFacts { content: *content, mtime, executable }, sources, state };
            name.map(|name| files.entry(name).or_insert(seen));
        }
    }
    files
}

/// A step: whose catalog, what it has then (nothing: it goes; `None`: as before), and how the node stands.
type Step = (u8, Option<BTreeMap<String, (u8, bool)>>, u8);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let path = prop_oneof![
        "[ab](\\.x)?",
        "[ab]/[ab]",
        "[ab-]/[ab]/[ab]",
        Just("a~010101010101".to_owned()),
        Just("b/a~020202020202".to_owned()),
        Just("a~010101010101/a".to_owned()),
    ];
    let catalog = proptest::collection::btree_map(path, (1u8..4, any::<bool>()), 0..10);
    proptest::collection::vec((0u8..5, proptest::option::of(catalog), 0u8..5), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn merging_step_by_step_is_merging_from_nothing(steps in steps(), whole in proptest::collection::vec(1u8..4, 0..2)) {
        let mut catalogs: BTreeMap<u8, (Catalog, Party)> = BTreeMap::new();
        let mut step_by_step = ViewTree::default();
        let is_whole = |content: &ContentId| whole.contains(&content.root.0[0]);
        for (tag, change, standing) in steps {
            let standing = [Live, Lingering, Offline, Away, Lapsed][usize::from(standing)];
            if let Some(change) = change {
                // One content at a path may have two sizes, the larger of which a liar claims.
                let size = |liar: bool| if liar { 2 } else { u64::from(tag % 2) };
                let of = |(path, (root, liar)): (&String, &(u8, bool))| Entry {
                    executable: *liar,
                    ..fixture::entry(path, *root, i64::from(tag), size(*liar))
                };
                let catalog: Catalog = change.iter().map(of).collect();
                catalogs.remove(&tag);
                if !catalog.is_empty() || tag == 0 {
                    let copy = fixture::copy(tag, &catalog);
                    catalogs.insert(tag, (catalog, Party { copy, standing }));
                }
            }
            if let Some((_, party)) = catalogs.get_mut(&tag) {
                party.standing = standing;
            }
            let parties: Vec<Party> = catalogs.values().map(|(_, party)| party.clone()).rev().collect();
            let before = step_by_step.clone();
            step_by_step = merge(&step_by_step, parties.clone(), &is_whole);
            let anew = merge(&ViewTree::default(), parties, &is_whole);
            prop_assert!(step_by_step.is_like(&anew) && anew.is_like(&step_by_step));
            prop_assert_eq!(step_by_step.claims().list(), anew.claims().list());
            let offers: Vec<_> = catalogs.iter().map(|(tag, (catalog, at))| (*tag, at.standing, catalog)).collect();
            let expected = naive(&offers, &whole);
            prop_assert_eq!(&seen(&step_by_step), &expected);
            prop_assert!(!before.is_like(&step_by_step) || seen(&before) == expected);
            // Contents are found, and nothing else.
            for root in 1..4 {
                for size in 0..4 {
                    let content = ContentId { root: crate::base::ids::Root([root; 32]), size };
                    let with = |only_live: bool| {
                        let mut nodes: Vec<NodeId> = offers.iter()
                            .filter(|(_, at, catalog)| (!only_live || *at == Live) && catalog.iter().any(|entry| entry.content == content))
                            .map(|(tag, ..)| fixture::key(*tag).0).collect();
                        nodes.sort();
                        nodes
                    };
                    prop_assert_eq!(step_by_step.holders(&content), with(true));
                    prop_assert_eq!(step_by_step.names(&content), !with(false).is_empty());
                }
            }
        }
    }
}
