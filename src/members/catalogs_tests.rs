//! What is known of nodes whose catalogs others pass on.

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
    tokio::time::sleep(std::time::Duration::from_secs(100)).await;
    assert_eq!(shown(&far), all[1..]);
    let seen = far.known.lock().last_seen(&one.around.identity.node);
    assert!(seen.is_some_and(|seen| seen <= Timestamp::now()));
}
