//! Numbers, what is stale, and that taking over what did not change is the same as beginning anew.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::base::limits::MAX_FILE_SIZE;
use crate::base::names::ValidPath;
use crate::catalog::claims::Party;
use crate::catalog::copy::CatalogCopy;
use crate::catalog::entry::Entry;
use crate::catalog::fixture;
use crate::catalog::merge::{Standing, merge};
use crate::catalog::own::publish;

fn inodes(files: &[(&str, u8, i64)]) -> Inodes {
    sized(files, 10)
}

fn sized(files: &[(&str, u8, i64)], size: u64) -> Inodes {
    Inodes::new(Arc::new(fixture::tree(files, size)))
}

fn at(inodes: &Inodes, path: &str) -> u64 {
    inodes.number(inodes.view.find(Some(&ValidPath::new(path.as_bytes()).unwrap())).unwrap())
}

#[test]
fn numbers_are_stable_while_path_and_identity_are() {
    let old = inodes(&[("a/x", 1, 5), ("a/y", 2, 7), ("b", 3, 1)]);
    let new = inodes(&[("a/w", 9, 3), ("a/x", 1, 5), ("a/y", 4, 7), ("c", 3, 1)]);
    assert_eq!(at(&old, "a/x"), at(&new, "a/x"));
    assert_eq!(at(&old, "a"), at(&new, "a"));
    assert_ne!(at(&old, "a/y"), at(&new, "a/y"));
    assert_ne!(at(&old, "b"), at(&new, "c"));
    let name = |name: &[u8]| ValidName::new(name).unwrap();
    let mut stale = old.stale(&new);
    stale.sort();
    let mut expected = vec![Stale::Entry(at(&old, "a"), name(b"y")), Stale::Entry(1, name(b"b"))];
    expected.sort();
    assert_eq!(stale, expected);
    assert_eq!(old.mtime(TREE_ROOT).secs, 7);
    assert_eq!(old.lookup(1, OsStr::new("a")).map(|index| old.number(index)), Some(at(&old, "a")));
    assert_eq!(old.bytes(), 30);
    assert_eq!(sized(&[("a", 1, 1), ("b", 2, 1)], MAX_FILE_SIZE).bytes(), 2 * MAX_FILE_SIZE);
    let touched = inodes(&[("a/x", 1, 4), ("a/y", 2, 7), ("b", 3, 1)]);
    assert_eq!(old.stale(&touched), [Stale::Attributes(at(&old, "a/x"))]);
}

/// Files of two nodes: of one that changes, and of one that does not.
fn of_two(
    old: &ViewTree,
    stays: &Party,
    changing: &mut Arc<CatalogCopy>,
    to: &BTreeMap<String, (u8, i64)>,
) -> ViewTree {
    let mut entries: Vec<Entry> = to.iter().map(|(path, (tag, secs))| fixture::entry(path, *tag, *secs, 7)).collect();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    // By a delta: the two copies have most of their bytes in common.
    let (_, sign) = fixture::key(2);
    publish(Arc::make_mut(changing), &entries, Timestamp::default(), &sign).unwrap();
    let changes = Party { copy: Arc::clone(changing), standing: Standing::Live };
    merge(old, vec![stays.clone(), changes], &|_| false)
}

proptest! {
    #[test]
    fn taking_over_what_did_not_change_is_numbering_anew(
        steps in proptest::collection::vec(proptest::collection::btree_map("[ab]{1,2}(/[abc]){0,2}", (1u8..4, 0i64..3), 0..8), 1..8),
        stays in proptest::collection::btree_map("[ab]{1,2}(/[abcd]){0,3}", (1u8..4, 0i64..3), 0..12),
    ) {
        let entries: Vec<Entry> = stays.iter().map(|(path, (tag, secs))| fixture::entry(path, *tag, *secs, 7)).collect();
        let stays = Party { copy: fixture::copy(1, &entries), standing: Standing::Live };
        let mut before = Inodes::new(Arc::default());
        let mut changing = fixture::copy(2, &[]);
        for step in steps {
            let view = Arc::new(of_two(before.view(), &stays, &mut changing, &step));
            let (next, anew) = (before.next(Arc::clone(&view)), Inodes::new(Arc::clone(&view)));
            prop_assert_eq!((&next.numbers, next.bytes()), (&anew.numbers, anew.bytes()));
            let sizes = view.files(TREE_ROOT).map(|(_, file)| file.content().size);
            prop_assert_eq!(next.bytes(), sizes.sum::<u64>());
            for index in view.all() {
                prop_assert_eq!(next.find(next.number(index)), Some(index));
                let newest = view.files(index).map(|(_, file)| file.facts().mtime).max().unwrap_or_default();
                prop_assert_eq!((next.mtime(index), anew.mtime(index)), (newest, newest));
            }
            // What is not stale is there and the same, and what is stale is not.
            let stale = before.stale(&next);
            for index in before.view().all().skip(1) {
                let (number, parent) = (before.number(index), before.number(before.view().parent(index)));
                let name = ValidName::new(before.view().name(index)).unwrap();
                let there = next.lookup(parent, OsStr::from_bytes(name.as_bytes())).filter(|at| next.number(*at) == number);
                if next.find(parent).is_some() {
                    prop_assert_eq!(there.is_none(), stale.contains(&Stale::Entry(parent, name)));
                }
                if let Some(there) = there {
                    let facts = |of: &Inodes, at| (of.mtime(at), of.view().file(at).map(|file| file.facts()));
                    let same = facts(&before, index) == facts(&next, there);
                    prop_assert_eq!(!same, stale.contains(&Stale::Attributes(number)));
                }
            }
            before = next;
        }
    }
}
