//! A node whose own catalog is newer elsewhere than at home.

use std::path::Path;

use super::*;
use crate::base::ids::NodeId;
use crate::members::pair::{connect, entries, member, until};
use crate::net::link::PeerLink;

/// What `of`'s catalog has, as `at` knows it: its epoch, and its names.
fn known(at: &Membership, of: NodeId) -> Option<(u64, Vec<String>)> {
    let book = at.book.lock();
    let copy = book.get(of)?;
    Some((copy.version().epoch, copy.entries().map(|entry| String::from_utf8_lossy(entry.path).into_owned()).collect()))
}

fn names(at: &Membership, of: NodeId) -> Vec<String> {
    known(at, of).map(|(_, names)| names).unwrap_or_default()
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap().flatten() {
        let to = to.join(item.file_name());
        if item.path().is_dir() {
            copy_folder(&item.path(), &to);
        } else {
            std::fs::copy(item.path(), to).unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_node_publishes_after_a_restore_from_a_backup_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let (home, backup) = (dir.path().join("home"), dir.path().join("backup"));
    let peer = member(2, &dir.path().join("peer"));
    let node = member(1, &home);
    let id = node.around.identity.node;
    node.publish(&entries(&["a"])).unwrap();
    copy_folder(&home, &backup);
    node.publish(&entries(&["a", "b"])).unwrap();
    let (wire, _) = connect(&node, &peer);
    until(|| names(&peer, id) == ["a", "b"]).await;
    let before = known(&peer, id).unwrap().0;
    wire.close();
    node.stop().await;

    let node = member(1, &backup);
    assert_eq!(names(&node, id), ["a"]);
    let (wire, _) = connect(&node, &peer);
    // Before it knows itself what it offers, it says nothing.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(names(&peer, id), ["a", "b"]);
    node.publish(&entries(&["a", "c"])).unwrap();
    until(|| names(&peer, id) == ["a", "c"]).await;
    let after = known(&peer, id).unwrap().0;
    assert!(after > before);
    // It is the new epoch that goes on, also after a restart.
    node.publish(&entries(&["a", "d"])).unwrap();
    until(|| names(&peer, id) == ["a", "d"]).await;
    assert!(!wire.is_closed());
    node.stop().await;
    assert_eq!(known(&member(1, &backup), id), Some((after, vec!["a".into(), "d".into()])));
}

#[tokio::test(start_paused = true)]
async fn a_restored_node_that_had_published_already_begins_a_new_epoch_with_what_it_offers() {
    let dir = tempfile::tempdir().unwrap();
    let (home, backup) = (dir.path().join("home"), dir.path().join("backup"));
    let peer = member(2, &dir.path().join("peer"));
    let node = member(1, &home);
    let id = node.around.identity.node;
    node.publish(&entries(&["a"])).unwrap();
    copy_folder(&home, &backup);
    node.publish(&entries(&["b"])).unwrap();
    let (wire, _) = connect(&node, &peer);
    until(|| names(&peer, id) == ["b"]).await;
    wire.close();
    node.stop().await;
    let node = member(1, &backup);
    node.publish(&entries(&["a"])).unwrap();
    connect(&node, &peer);
    until(|| names(&peer, id) == ["a"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lost_its_catalogs_withdraws_what_it_does_not_offer_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let peer = member(2, &dir.path().join("peer"));
    let node = member(1, &dir.path().join("home"));
    let id = node.around.identity.node;
    node.publish(&entries(&["a"])).unwrap();
    let (wire, _) = connect(&node, &peer);
    until(|| names(&peer, id) == ["a"]).await;
    wire.close();
    node.stop().await;
    // It has nothing to publish, and no catalog to say so with.
    let node = member(1, &dir.path().join("new"));
    node.publish(&[]).unwrap();
    connect(&node, &peer);
    until(|| names(&peer, id).is_empty()).await;
    node.publish(&entries(&["b"])).unwrap();
    until(|| names(&peer, id) == ["b"]).await;
}

#[tokio::test(start_paused = true)]
async fn two_daemons_with_one_identity_do_not_fight_endlessly() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (member(1, &dir.path().join("one")), member(1, &dir.path().join("other")));
    let (a, b) = (member(2, &dir.path().join("a")), member(3, &dir.path().join("b")));
    let id = one.around.identity.node;
    let wires = [connect(&one, &a), connect(&a, &b), connect(&b, &other)];
    // In step, and of the same second, they could not be told apart.
    other.publish(&entries(&["first"])).unwrap();
    for round in 0..40 {
        let name = format!("{round}");
        one.publish(&entries(&["one", &name][..1 + round % 2])).unwrap();
        other.publish(&entries(&["other", &name][..1 + round % 2])).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut epochs = std::collections::BTreeSet::new();
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_secs(600) {
        epochs.extend([&one, &other, &a, &b].iter().filter_map(|at| known(at, id).map(|(epoch, _)| epoch)));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Each of the two once a minute at most, and nobody is cut off because of it.
    assert!((2..=24).contains(&epochs.len()), "{epochs:?}");
    assert!(wires.iter().all(|(wire, _)| !wire.is_closed()));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_only_claims_to_know_a_newer_catalog_moves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (node, peer) = (member(1, &dir.path().join("home")), member(2, &dir.path().join("peer")));
    let id = node.around.identity.node;
    node.publish(&entries(&["a"])).unwrap();
    let (wire, _) = connect(&node, &peer);
    until(|| names(&peer, id) == ["a"]).await;
    let before = known(&node, id);
    let claim = crate::wire::message::CatalogVersion { node: id, epoch: u64::MAX, version: 1 };
    node.heard_versions(&(wire as _), &[claim]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(known(&node, id), before);
}

#[test]
fn verdicts() {
    let start = Instant::now();
    let mut publishing = Publishing::default();
    assert_eq!(publishing.verdict(start), Verdict::Begin);
    publishing.begun = Some(start);
    assert_eq!(publishing.verdict(start + Duration::from_secs(20)), Verdict::Wait(Duration::from_secs(40)));
    assert_eq!(publishing.verdict(start + PAUSE), Verdict::Contest);
    assert_eq!(publishing.verdict(start + CONTESTED), Verdict::Begin);
}
