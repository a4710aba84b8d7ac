//! What is known of nodes whose catalogs others pass on.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::clock::Timestamp;
use crate::catalog::tree::TREE_ROOT;
use crate::members::membership::Membership;
use crate::members::pair::{connect, entries_at, member, until};

fn shown(at: &Membership) -> Vec<String> {
    let view = at.view().borrow().clone();
    let mut names: Vec<String> =
        view.files(TREE_ROOT).map(|(index, _)| view.path(index).unwrap().to_string()).collect();
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn names_do_not_depend_on_whether_a_catalog_came_from_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let home = |tag: u8| dir.path().join(tag.to_string());
    let node = |tag: u8| member(tag, &home(tag));
    // Two have one content at the path, one another with the smaller root.
    let (one, two, alone) = (node(1), node(2), node(3));
    one.publish(&entries_at("f", 200)).unwrap();
    two.publish(&entries_at("f", 200)).unwrap();
    alone.publish(&entries_at("f", 100)).unwrap();
    let (near, far) = (node(4), node(5));
    let sessions = [connect(&near, &one), connect(&near, &two), connect(&near, &alone), connect(&far, &near)];
    let _stays = connect(&far, &alone);
    let all = ["f", "f~646464646464"];
    until(|| shown(&near) == all).await;
    // The far one never met the first two: it does not see their file, and knows that the name is theirs.
    until(|| far.catalogs().len() == 3 && shown(&far) == all[1..]).await;
    drop(sessions);
    far.stop().await;
    // After a restart too, when it meets only the third.
    let far = node(5);
    let _stays = connect(&far, &alone);
    until(|| shown(&far).len() == 1).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(shown(&far), all[1..]);
    let seen = far.known.lock().last_seen(&one.around.identity.node);
    assert!(seen.is_some_and(|seen| seen <= Timestamp::now()));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_froze_the_catalog_of_another_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let node = |tag: u8| member(tag, &dir.path().join(tag.to_string()));
    let (owner, silent, honest, reader) = (node(1), node(2), node(3), node(4));
    owner.publish(&entries_at("f", 200)).unwrap();
    let _sessions = [connect(&silent, &owner), connect(&honest, &owner)];
    until(|| silent.catalogs().len() == 1 && honest.catalogs().len() == 1).await;
    // Both tell the reader of it; it asks the first.
    let (wire, _keep) = connect(&reader, &silent);
    wire.silent.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _stays = connect(&reader, &honest);
    let told = tokio::time::Instant::now();
    until(|| reader.catalogs().len() == 1).await;
    assert!(told.elapsed() < Duration::from_secs(20), "{:?}", told.elapsed());
    // What is new after that comes too.
    owner.publish(&entries_at("g", 201)).unwrap();
    let of = owner.around.identity.node;
    until(|| reader.book.lock().get(of).is_some_and(|copy| copy.entries().all(|entry| entry.path == b"g"))).await;
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_is_lost_heals() {
    let dir = tempfile::tempdir().unwrap();
    let node = |tag: u8| member(tag, &dir.path().join(tag.to_string()));
    let (owner, reader) = (node(1), node(2));
    let (to_reader, _to_owner) = connect(&owner, &reader);
    owner.publish(&entries_at("f", 200)).unwrap();
    until(|| shown(&reader) == ["f"]).await;
    to_reader.deaf.store(true, Ordering::Relaxed);
    owner.publish(&entries_at("g", 201)).unwrap();
    let lost = tokio::time::Instant::now();
    until(|| shown(&reader) == ["g"]).await;
    assert!(lost.elapsed() < Duration::from_secs(60), "{:?}", lost.elapsed());
}
