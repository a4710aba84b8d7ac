//! What is known of nodes whose catalogs others pass on.

use std::sync::atomic::Ordering;

use super::*;
use crate::base::limits::MAX_CATALOG_BYTES;
use crate::catalog::fixture::key;
use crate::catalog::own::begin_beyond;
use crate::catalog::tree::TREE_ROOT;
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

#[tokio::test(start_paused = true)]
async fn who_was_not_seen_for_a_month_is_forgotten_while_the_node_runs_and_not_taken_in_again() {
    let dir = tempfile::tempdir().unwrap();
    let node = member(1, dir.path());
    let copy = |tag: u8, secs: i64| {
        let at = Timestamp { secs, nanos: 0 };
        let (id, sign) = key(tag);
        Arc::new(begin_beyond(node.id, id, 0, &entries_at("f", tag), at, &sign).unwrap())
    };
    let now = Timestamp::now().secs;
    let (old, young) = (copy(2, now - 31 * 24 * 3600), copy(3, now - 29 * 24 * 3600));
    for copy in [&old, &young] {
        node.save_catalog(copy);
        node.book.lock().put(Arc::clone(copy));
    }
    let file = node.catalog_file(old.node());
    assert!(file.exists());
    node.view_now.notify_one();
    until(|| node.catalogs().len() == 1).await;
    until(|| !file.exists()).await;
    assert!(node.book.lock().get(young.node()).is_some() && node.catalog_file(young.node()).exists());
    let take = |copy: &CatalogCopy| node.with_room(copy.node(), 1, copy.at(), |_, gone| gone);
    assert!(matches!(take(&old), Err(CatchUpError::Forgotten)));
    assert!(take(&young).is_ok());
    // It is there itself.
    let _session = connect(&node, &member(2, &dir.path().join("2")));
    assert!(take(&old).is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_member_kept_newcomers_catalogs_out() {
    let dir = tempfile::tempdir().unwrap();
    let (node, met) = (member(1, dir.path()), member(2, &dir.path().join("2")));
    met.publish(&entries_at("met", 2)).unwrap();
    let (session, _) = connect(&node, &met);
    until(|| node.catalogs().len() == 1).await;
    // Somebody makes up nodes, whose catalogs are as new as can be.
    for tag in [3, 4] {
        let (id, sign) = key(tag);
        let at = Timestamp { secs: Timestamp::now().secs - i64::from(10 - tag), nanos: 0 };
        let copy = begin_beyond(node.id, id, 0, &entries_at("f", tag), at, &sign).unwrap();
        node.known.lock().seen(id, at);
        node.book.lock().put(Arc::new(copy));
    }
    node.view_now.notify_one();
    let newcomer = key(5).0;
    let most = MAX_CATALOG_BYTES - node.book.lock().get(met.around.identity.node).unwrap().kept();
    // All of them go, the one that was made first before the other, and the one that is live stays.
    until(|| {
        node.with_room(newcomer, most, Timestamp::now(), |_, gone| gone).is_ok_and(|gone| gone == [key(3).0, key(4).0])
    })
    .await;
    assert!(matches!(node.with_room(newcomer, most + 1, Timestamp::now(), |_, gone| gone), Err(CatchUpError::Room)));
    // So does one that was live a moment ago.
    session.close();
    until(|| node.live_peers() == 0).await;
    assert!(matches!(node.with_room(newcomer, most + 1, Timestamp::now(), |_, gone| gone), Err(CatchUpError::Room)));
}
