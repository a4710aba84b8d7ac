//! The rules of the view: who keeps a name, who is shown, and that all nodes agree.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::base::ids::Root;
use crate::catalog::tree::{TREE_ROOT, ViewKind};

type Catalog = Vec<Entry>;

fn entry(path: &str, tag: u8, secs: i64) -> Entry {
    Entry {
        path: ValidPath::new(path.as_bytes()).unwrap(),
        content: ContentId { root: Root([tag; 32]), size: 1 },
        mtime: Timestamp { secs, nanos: 0 },
        executable: tag == 1,
    }
}

fn catalog(entries: &[(&str, u8)]) -> Catalog {
    entries.iter().map(|(path, tag)| entry(path, *tag, i64::from(*tag))).collect()
}

fn merged(catalogs: &[(u8, Standing, &Catalog)], whole: &[u8]) -> BTreeMap<String, ViewFile> {
    let mut iters: Vec<_> = catalogs.iter().map(|(_, _, catalog)| catalog.iter()).collect();
    let mut offers: Vec<Offer<'_>> = catalogs
        .iter()
        .zip(&mut iters)
        .map(|((tag, standing, _), entries)| Offer { node: NodeId([*tag; 32]), standing: *standing, entries })
        .collect();
    let tree = merge(&mut offers, &|content| whole.contains(&content.root.0[0]));
    tree.files(TREE_ROOT).map(|(index, file)| (tree.path(index).unwrap().to_string(), file.clone())).collect()
}

use Standing::{Away, Lapsed, Lingering, Live, Offline};

#[test]
fn the_same_file_is_one_with_several_sources() {
    let (mut a, b) = (catalog(&[("x/f.iso", 1)]), catalog(&[("x/f.iso", 1)]));
    a[0].mtime.secs = 50;
    let view = merged(&[(1, Live, &a), (2, Live, &b)], &[]);
    assert_eq!(view.len(), 1);
    let file = &view["x/f.iso"];
    assert_eq!((file.sources.len(), file.mtime.secs, file.executable), (2, 1, true));
}

#[test]
fn most_nodes_keep_the_name_and_the_others_get_a_suffix() {
    let (a, b, c) = (catalog(&[("f.iso", 1)]), catalog(&[("f.iso", 2)]), catalog(&[("f.iso", 2)]));
    let view = merged(&[(1, Live, &a), (2, Live, &b), (3, Away, &c)], &[]);
    assert_eq!(view.keys().collect::<Vec<_>>(), ["f.iso", "f~010101010101.iso"]);
    assert_eq!(view["f.iso"].content.root.0[0], 2);
    // The name stays free for its owner while the owner is away.
    let view = merged(&[(1, Live, &a), (2, Away, &b), (3, Away, &c)], &[]);
    assert_eq!(view.keys().collect::<Vec<_>>(), ["f~010101010101.iso"]);
    // And falls to the next when the claims lapse.
    let view = merged(&[(1, Live, &a), (2, Lapsed, &b), (3, Lapsed, &c)], &[]);
    assert_eq!(view.keys().collect::<Vec<_>>(), ["f.iso"]);
    // Equal numbers: the smaller root.
    let view = merged(&[(1, Live, &a), (2, Live, &b)], &[]);
    assert_eq!(view["f.iso"].content.root.0[0], 1);
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
            prop_assert_eq!(all.get(name).map(|file| file.content), Some(file.content));
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
    let mut iters = [a.iter(), b.iter()];
    let mut offers: Vec<Offer<'_>> = iters
        .iter_mut()
        .zip(1..)
        .map(|(entries, tag)| Offer { node: NodeId([tag; 32]), standing: Live, entries })
        .collect();
    let tree = merge(&mut offers, &|_| false);
    let names: Vec<_> =
        tree.children(TREE_ROOT).iter().map(|index| tree.entry(*index).name.clone().unwrap().to_string()).collect();
    assert_eq!(names, ["d", "d-e", "d.e"]);
    assert!(matches!(&tree.entry(tree.children(TREE_ROOT)[0]).kind, ViewKind::Folder(children) if children.len() == 2));
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
