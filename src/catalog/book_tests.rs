//! Catching up from snapshots and deltas, and what is refused.

use proptest::prelude::*;

use super::*;
use crate::base::clock::Timestamp;
use crate::base::ids::{ContentId, Root};
use crate::base::limits::MAX_FILE_SIZE;
use crate::base::names::ValidPath;
use crate::catalog::entry::Entry;
use crate::catalog::fixture::{NETWORK, key};
use crate::catalog::own::{begin, begin_beyond, publish};

fn all(copy: &CatalogCopy) -> Vec<Entry> {
    let all: Vec<Entry> = copy.entries().filter_map(|entry| entry.to_entry()).collect();
    assert_eq!(all.len(), copy.len());
    all
}

fn entries(from: &[(u16, u8)]) -> Vec<Entry> {
    let map: BTreeMap<ValidPath, u8> =
        from.iter().map(|(name, tag)| (ValidPath::new(format!("d/{name}").as_bytes()).unwrap(), *tag)).collect();
    map.into_iter()
        .map(|(path, tag)| Entry {
            path,
            content: ContentId { root: Root([tag; 32]), size: 5 },
            mtime: Timestamp { secs: i64::from(tag), nanos: 0 },
            executable: false,
        })
        .collect()
}

fn now(secs: i64) -> Timestamp {
    Timestamp { secs, nanos: 0 }
}

/// Lets `to` catch up on `node` from `from`, until there is nothing more.
fn sync(from: &CatalogBook, to: &mut CatalogBook, node: NodeId) -> Result<(), CatalogError> {
    let mut catch_up = to.catch_up(node);
    while catch_up.take(from.answer(&catch_up.request()))? {}
    if let Some(copy) = catch_up.finish() {
        to.put(copy);
    }
    Ok(())
}

#[test]
fn a_chain_that_does_not_fit_is_fetched_from_its_beginning() {
    let (node, sign) = key(1);
    let begun = begin(NETWORK, node, now(100), &sign).unwrap();
    // One identity in two places: the same epoch goes on in two ways.
    let branch = |tags: &[u8]| {
        let mut copy = begun.clone();
        for tag in tags {
            publish(&mut copy, &entries(&[(1, *tag)]), now(101), &sign).unwrap();
        }
        let mut book = CatalogBook::new(NETWORK, node);
        book.put_own(Arc::new(copy));
        book
    };
    let (one, other, longest) = (branch(&[1, 2]), branch(&[11, 12, 13]), branch(&[1, 2, 3, 4]));
    let mut reader = CatalogBook::new(NETWORK, NodeId([9; 32]));
    for from in [&one, &other, &longest] {
        sync(from, &mut reader, node).unwrap();
        let (have, should) = (reader.get(node).unwrap(), from.get(node).unwrap());
        assert_eq!((have.version(), all(have)), (should.version(), all(should)));
        let stored = CatalogCopy::load(NETWORK, &have.store().unwrap()).unwrap();
        assert_eq!(all(&stored), all(should));
    }
    // What is older on another branch does not come back.
    sync(&other, &mut reader, node).unwrap();
    assert_eq!(reader.get(node).unwrap().version().version, 5);
    // A peer whose chain breaks anew each time is not followed for ever.
    let mut catch_up = reader.catch_up(node);
    let CatalogAnswer::Deltas(deltas, None) = other.answer(&CatalogRequest { node, have: Some((100, 2)), part: None })
    else {
        panic!("no deltas")
    };
    assert_eq!(catch_up.take(CatalogAnswer::Deltas(deltas.clone(), None)), Ok(true));
    assert_eq!(catch_up.request().have, None);
    assert_eq!(catch_up.take(longest.answer(&catch_up.request())), Ok(true));
    assert_eq!(catch_up.take(CatalogAnswer::Deltas(deltas, None)), Err(CatalogError::Chain));
}

#[test]
fn a_nodes_own_catalog_comes_from_itself_alone() {
    let (node, sign) = key(1);
    let own = Arc::new(begin(NETWORK, node, now(100), &sign).unwrap());
    let mut book = CatalogBook::new(NETWORK, node);
    assert!(!book.put(Arc::clone(&own)) && book.get(node).is_none());
    // It has none, and others know one.
    assert!(book.own_elsewhere(&[own.version()]));
    assert!(book.put_own(Arc::clone(&own)) && !book.own_elsewhere(&[own.version()]));
    let mut other = CatalogBook::new(NETWORK, NodeId([9; 32]));
    assert!(!other.put_own(Arc::clone(&own)) && other.put(own));
}

#[test]
fn a_new_epoch_is_after_the_old_one_whatever_the_clock_says() {
    let (node, sign) = key(1);
    let begun = begin_beyond(NETWORK, node, 5000, &entries(&[(1, 1)]), now(100), &sign).unwrap();
    assert_eq!((begun.version().epoch, begun.version().version, begun.len()), (5001, 1, 1));
    let begun = begin_beyond(NETWORK, node, 50, &[], now(100), &sign).unwrap();
    assert_eq!(begun.version().epoch, 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn who_catches_up_by_whatever_way_has_the_same(states in proptest::collection::vec((proptest::collection::vec((0u16..30, any::<u8>()), 0..20), any::<bool>()), 1..12)) {
        let (node, sign) = key(1);
        let mut own = begin(NETWORK, node, now(100), &sign).unwrap();
        let mut owner = CatalogBook::new(NETWORK, node);
        let mut often = CatalogBook::new(NETWORK, NodeId([9; 32]));
        let mut seldom = CatalogBook::new(NETWORK, NodeId([8; 32]));
        owner.put_own(Arc::new(own.clone()));
        for (at, (state, look)) in states.iter().enumerate() {
            publish(&mut own, &entries(state), now(101 + at as i64), &sign).unwrap();
            owner.put_own(Arc::new(own.clone()));
            sync(&owner, &mut often, node).unwrap();
            if *look {
                // Not from the owner: anybody can pass it on.
                sync(&often, &mut seldom, node).unwrap();
            }
        }
        sync(&often, &mut seldom, node).unwrap();
        for book in [&often, &seldom] {
            let copy = book.get(node).unwrap();
            prop_assert_eq!(copy.version(), own.version());
            prop_assert_eq!(all(copy), all(&own));
            prop_assert_eq!(all(copy), entries(states.last().map_or(&[][..], |(state, _)| state)));
            let again = CatalogCopy::load(NETWORK, &copy.store().unwrap()).unwrap();
            prop_assert_eq!(all(&again), all(&own));
            prop_assert!(book.lacks(&owner.versions()).is_empty());
        }
    }
}

#[test]
fn forgeries_are_refused() {
    let (node, sign) = key(1);
    let (_, other_sign) = key(2);
    let mut own = begin(NETWORK, node, now(100), &sign).unwrap();
    publish(&mut own, &entries(&[(1, 1), (2, 2)]), now(101), &sign).unwrap();
    let forged = |mut catalog: CatalogCopy| publish(&mut catalog, &entries(&[(3, 3)]), now(102), &other_sign);
    assert_eq!(forged(own.clone()), Err(CatalogError::Signature));
    let stored = own.store().unwrap();
    let mut accepted = 0;
    for at in 0..stored.len() {
        let mut bad = stored.clone();
        bad[at] ^= 1;
        // A list cut short is an older version, and true as such.
        let forged = |copy: CatalogCopy| copy.version() == own.version() && all(&copy) != all(&own);
        accepted += usize::from(CatalogCopy::load(NETWORK, &bad).is_ok_and(forged));
    }
    assert_eq!(accepted, 0);
    assert!(matches!(CatalogCopy::load(NetworkId([4; 32]), &stored), Err(CatalogError::Place)));
}

#[test]
fn a_large_catalog_comes_in_parts_and_a_new_epoch_replaces_the_old() {
    let (node, sign) = key(1);
    let many: Vec<(u16, u8)> = (0..30_000).map(|i| (i, i as u8)).collect();
    let mut own = begin(NETWORK, node, now(100), &sign).unwrap();
    publish(&mut own, &entries(&many), now(101), &sign).unwrap();
    let mut owner = CatalogBook::new(NETWORK, node);
    owner.put_own(Arc::new(own.clone()));
    assert!(matches!(
        owner.answer(&CatalogRequest { node, have: None, part: None }),
        CatalogAnswer::Snapshot { parts: 2.., .. }
    ));
    let mut reader = CatalogBook::new(NETWORK, NodeId([9; 32]));
    sync(&owner, &mut reader, node).unwrap();
    assert_eq!(reader.get(node).unwrap().len(), 30_000);

    let mut reborn = begin(NETWORK, node, now(500), &sign).unwrap();
    publish(&mut reborn, &entries(&[(1, 1)]), now(501), &sign).unwrap();
    let mut owner = CatalogBook::new(NETWORK, node);
    owner.put_own(Arc::new(reborn));
    assert_eq!(reader.lacks(&owner.versions()).len(), 1);
    sync(&owner, &mut reader, node).unwrap();
    assert_eq!(reader.get(node).unwrap().len(), 1);
    // The old one does not come back.
    assert!(!reader.put(Arc::new(own.clone())));
    let mut restored = CatalogBook::new(NETWORK, node);
    restored.put_own(Arc::new(own));
    assert!(restored.own_elsewhere(&reader.versions()));
}

/// A catalog of `count` entries, that its owner publishes.
fn large(count: u16, at: i64) -> (NodeId, CatalogBook) {
    let (node, sign) = key(1);
    let mut own = begin(NETWORK, node, now(at), &sign).unwrap();
    let many: Vec<(u16, u8)> = (0..count).map(|i| (i, i as u8)).collect();
    publish(&mut own, &entries(&many), now(at + 1), &sign).unwrap();
    let mut owner = CatalogBook::new(NETWORK, node);
    owner.put_own(Arc::new(own));
    (node, owner)
}

#[test]
fn a_catalog_in_crumbs_or_begun_again_and_again_was_followed_for_ever() {
    let (node, one) = large(30_000, 100);
    let (_, other) = large(30_000, 200);
    let reader = CatalogBook::new(NETWORK, NodeId([9; 32]));
    let first = CatalogRequest { node, have: None, part: None };
    // A part that is not whole.
    let CatalogAnswer::Snapshot { header, part, parts, body } = one.answer(&first) else { panic!("no snapshot") };
    let crumb = CatalogAnswer::Snapshot { header, part, parts, body: body[..5].to_vec().into() };
    assert_eq!(reader.catch_up(node).take(crumb), Err(CatalogError::Malformed));
    // Now this snapshot, now that, neither to its end.
    let mut catch_up = reader.catch_up(node);
    let ended = (0..1000).find_map(|turn| {
        let from = if turn % 2 == 0 { &one } else { &other };
        catch_up.take(from.answer(&first)).err()
    });
    assert_eq!(ended, Some(CatalogError::Endless));
    // An owner that signs one more for each answer.
    let (_, sign) = key(1);
    let mut own = begin(NETWORK, node, now(100), &sign).unwrap();
    let mut catch_up = reader.catch_up(node);
    let mut ended = None;
    for version in 0..=MAX_ANSWERS {
        let answer = own.answer(&catch_up.request());
        publish(&mut own, &entries(&[(1, version as u8)]), now(101), &sign).unwrap();
        ended = catch_up.take(answer).err();
        assert_eq!(ended.is_some(), version == MAX_ANSWERS);
    }
    assert_eq!(ended, Some(CatalogError::Endless));
}

#[test]
fn deltas_of_an_owner_that_takes_no_snapshot_were_kept_without_end() {
    let (node, sign) = key(1);
    let mut own = begin(NETWORK, node, now(100), &sign).unwrap();
    let mut reader = own.clone();
    let mut catch_up = {
        let mut book = CatalogBook::new(NETWORK, NodeId([9; 32]));
        book.put(Arc::new(own.clone()));
        book.catch_up(node)
    };
    let big: Vec<Vec<Entry>> = (1..3).map(|tag| entries(&(0..3000u16).map(|i| (i, tag)).collect::<Vec<_>>())).collect();
    let mut deltas = Vec::new();
    for (turn, state) in big.iter().cycle().take(100).enumerate() {
        let at = own.version();
        let delta = crate::catalog::signed::Delta {
            network: NETWORK,
            node,
            epoch: at.epoch,
            version: at.version + 1,
            at: now(turn as i64),
            follows: own.chain(),
            removed: Vec::new(),
            put: state.clone(),
        };
        let signed = delta.seal(&sign).unwrap();
        own.follow(&signed).unwrap();
        deltas.push(serde_bytes::ByteBuf::from(signed));
    }
    let refused = deltas.iter().find_map(|delta| reader.follow_foreign(delta).err());
    assert_eq!(refused, Some(CatalogError::TooLarge));
    let (kept, body) = reader.weight();
    assert!(kept <= 2 * crate::catalog::copy::delta_room(body) + CATALOG_PART, "{kept}");
    // The snapshot is asked for instead, once.
    assert_eq!(catch_up.take(CatalogAnswer::Deltas(deltas.clone(), None)), Ok(true));
    assert_eq!(catch_up.request().have, None);
    let begun = begin(NETWORK, node, now(100), &sign).unwrap();
    assert_eq!(catch_up.take(begun.answer(&catch_up.request())), Ok(true));
    assert_eq!(catch_up.take(CatalogAnswer::Deltas(deltas, None)), Err(CatalogError::TooLarge));
}

#[test]
fn a_size_that_no_file_has_is_refused() {
    let (node, sign) = key(1);
    let mut claims = entries(&[(1, 1)]);
    claims[0].content.size = MAX_FILE_SIZE;
    let begun = begin_beyond(NETWORK, node, 0, &claims, now(100), &sign).unwrap();
    let mut grown = begun.clone();
    claims[0].content.size += 1;
    assert_eq!(begin_beyond(NETWORK, node, 0, &claims, now(100), &sign).err(), Some(CatalogError::Malformed));
    assert_eq!(publish(&mut grown, &claims, now(101), &sign), Err(CatalogError::Malformed));
    assert_eq!((grown.version(), all(&grown)), (begun.version(), all(&begun)));
}

/// Lets `to` catch up as [`sync`] does; returns the bytes of all answers, and whether a snapshot was among them.
fn counted(from: &CatalogBook, to: &mut CatalogBook, node: NodeId) -> (usize, bool) {
    let mut catch_up = to.catch_up(node);
    let (mut bytes, mut whole) = (0, false);
    loop {
        let answer = from.answer(&catch_up.request());
        bytes += rmp_serde::to_vec(&answer).unwrap().len();
        whole |= matches!(answer, CatalogAnswer::Snapshot { .. });
        if !catch_up.take(answer).unwrap() {
            break;
        }
    }
    if let Some(copy) = catch_up.finish() {
        to.put(copy);
    }
    (bytes, whole)
}

#[test]
fn who_was_away_for_a_week_was_sent_all_of_a_catalog_after_its_owner_took_a_new_snapshot() {
    let (node, sign) = key(1);
    let mut files: Vec<(u16, u8)> = (0..3000).map(|name| (name, 1)).collect();
    let mut own = begin_beyond(NETWORK, node, 0, &entries(&files), now(100), &sign).unwrap();
    let mut owner = CatalogBook::new(NETWORK, node);
    let mut present = CatalogBook::new(NETWORK, NodeId([9; 32]));
    let mut away = present.clone();
    let mut hour = |own: &mut CatalogCopy, owner: &mut CatalogBook, number: u16| {
        files[usize::from(number * 7 % 3000)].1 = 2 + (number % 200) as u8;
        publish(own, &entries(&files), now(100 + i64::from(number)), &sign).unwrap();
        owner.put_own(Arc::new(own.clone()));
    };
    let (mut snapshots, mut left_at) = (0, 0);
    for number in 0..1000 {
        let before = own.weight().0;
        hour(&mut own, &mut owner, number);
        let taken = own.weight().0 < before;
        snapshots += usize::from(taken);
        let (bytes, whole) = counted(&owner, &mut present, node);
        assert_eq!(whole, number == 0, "who is there follows by deltas");
        assert!(number == 0 || bytes < 2000, "{bytes}");
        // What its owner keeps, the others keep: nothing grows without end.
        let there = present.get(node).unwrap();
        assert_eq!((there.weight(), there.kept()), (own.weight(), own.kept()));
        let (_, body) = own.weight();
        assert!(own.kept() <= body + crate::catalog::copy::delta_room(body), "{}", own.kept());
        if snapshots == 2 && left_at == 0 && !taken && own.weight().0 > 60_000 {
            // It leaves a while before the third snapshot, and is back a while after it.
            counted(&present, &mut away, node);
            left_at = number;
        }
        if snapshots == 3 {
            if own.weight().0 < 20_000 {
                continue;
            }
            break;
        }
    }
    assert!(left_at > 0 && snapshots == 3, "{left_at} {snapshots}");
    // From the owner, or from anybody; also after a restart.
    for from in [&owner, &present] {
        let mut back = away.clone();
        let missed = own.version().version - back.get(node).unwrap().version().version;
        let (bytes, whole) = counted(from, &mut back, node);
        let (_, body) = own.weight();
        assert!(
            !whole && missed > 50 && bytes < 400 * missed as usize && bytes < body / 4,
            "{bytes} for {missed}, {body}"
        );
        let (there, stored) = (back.get(node).unwrap(), from.get(node).unwrap().store().unwrap());
        assert_eq!((all(there), there.version()), (all(&own), own.version()));
        let mut restarted = CatalogBook::new(NETWORK, NodeId([8; 32]));
        restarted.put(Arc::new(CatalogCopy::load(NETWORK, &stored).unwrap()));
        assert_eq!(counted(&restarted, &mut away.clone(), node), (bytes, false));
    }
    // Who was away for longer than that gets all of it.
    let mut long = CatalogBook::new(NETWORK, NodeId([7; 32]));
    let first = begin_beyond(NETWORK, node, 0, &[], now(100), &sign).unwrap();
    long.put(Arc::new(first));
    assert!(counted(&owner, &mut long, node).1);
    assert_eq!(all(long.get(node).unwrap()), all(&own));
}

#[test]
fn a_snapshot_is_made_here_only_of_what_its_owner_signed() {
    let (node, sign) = key(1);
    let files = |tag: u8| entries(&(0..200).map(|name| (name, tag)).collect::<Vec<_>>());
    let begun = begin(NETWORK, node, now(100), &sign).unwrap();
    let mut follower = begun.clone();
    let mut own = begun.clone();
    let (mut deltas, mut head) = (Vec::new(), None);
    for tag in 1.. {
        let have = Some(own.place());
        publish(&mut own, &files(tag), now(101), &sign).unwrap();
        let CatalogAnswer::Deltas(new, with) = own.answer(&CatalogRequest { node, have, part: None }) else { panic!() };
        deltas.extend(new);
        if let Some(with) = with {
            head = Some(with);
            break;
        }
    }
    let head = head.unwrap();
    let (last, first) = deltas.split_last().unwrap();
    first.iter().for_each(|delta| follower.follow_foreign(delta).unwrap());
    // Before it has got there; after that; and of another.
    assert_eq!(follower.clone().move_up(&head), Ok(false));
    follower.follow_foreign(last).unwrap();
    let mut moved = follower.clone();
    assert_eq!(moved.move_up(&head), Ok(true));
    assert_eq!((moved.weight(), all(&moved), moved.version()), (own.weight(), all(&own), own.version()));
    assert_eq!(moved.move_up(&head), Ok(false), "it stands there already");
    let mut forged = head.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(follower.clone().move_up(&forged), Err(CatalogError::Signature));
    // One that its owner signed, and that says something else.
    let (chain, at) = (follower.chain(), follower.version());
    let lie = |chain, body_hash| {
        let (epoch, version) = (at.epoch, at.version);
        SnapshotHead { network: NETWORK, node, epoch, version, at: now(1), chain, body_hash, body_len: 1 }
    };
    for lie in [lie(chain, [0; 32]), lie([0; 32], [0; 32])] {
        let mut same = follower.clone();
        assert_eq!(same.move_up(&lie.seal(&sign).unwrap()), Ok(false));
        assert_eq!((same.weight(), all(&same), same.chain()), (follower.weight(), all(&own), chain));
    }
}

/// A book with the catalogs of nodes 1 to `count`, and how many bytes each has.
fn book_of(count: u8) -> (CatalogBook, usize) {
    let mut book = CatalogBook::new(NETWORK, key(1).0);
    let mut each = 0;
    for tag in 1..=count {
        let (node, sign) = key(tag);
        let copy = Arc::new(begin_beyond(NETWORK, node, 0, &entries(&[(1, tag)]), now(100), &sign).unwrap());
        each = copy.kept();
        assert!(if tag == 1 { book.put_own(copy) } else { book.put(copy) });
    }
    assert_eq!(book.bytes(), each * usize::from(count));
    (book, each)
}

#[test]
fn what_is_dropped_is_gone_from_sums_and_bytes_but_never_this_nodes_own() {
    let (before, each) = book_of(2);
    let mut book = before.clone();
    let (node, sign) = key(3);
    book.put(Arc::new(begin_beyond(NETWORK, node, 0, &entries(&[(1, 3)]), now(100), &sign).unwrap()));
    assert_ne!(book.sums().total(), before.sums().total());
    book.drop_of(node);
    book.drop_of(node);
    book.drop_of(key(1).0);
    assert_eq!((book.sums().total(), book.bytes()), (before.sums().total(), 2 * each));
}

#[test]
fn who_is_told_of_again_and_again_does_not_push_others_out_in_turns() {
    let (mut book, each) = book_of(3);
    let (two, three, newcomer) = (key(2).0, key(3).0, key(4).0);
    book.set_idle(vec![(now(20), two), (now(30), three)]);
    let seen = |node: &NodeId| Worth::Idle(now(if *node == two { 20 } else { 30 }));
    // Room for all that is there, and not for one more.
    let bytes = MAX_CATALOG_BYTES - 2 * each;
    assert_eq!(book.room_for(newcomer, bytes, Worth::Idle(now(25)), seen), Some(vec![two]));
    // The one that had to go comes again: it was seen before all others.
    assert_eq!(book.room_for(newcomer, bytes, Worth::Idle(now(20)), seen), None);
    // It is live again since the list was made.
    assert_eq!(
        book.room_for(newcomer, bytes, Worth::Kept, |node| if *node == two { Worth::Kept } else { seen(node) }),
        Some(vec![three])
    );
    // A catalog that grows does not make room by its own old copy.
    assert_eq!(book.room_for(two, bytes + each, Worth::Idle(now(99)), seen), Some(vec![three]));
}

proptest! {
    #[test]
    fn room_is_made_by_the_least_worth_alone(
        // Of nodes 2 to 9: when it was seen, or that it stays.
        worths in proptest::collection::vec(proptest::option::of(0i64..50), 8),
        newcomer in proptest::option::of(0i64..50),
        lacking in 0usize..12,
    ) {
        let worth = |seen: Option<i64>| seen.map_or(Worth::Kept, |secs| Worth::Idle(now(secs)));
        let (mut book, each) = book_of(9);
        let of = |node: &NodeId| (2..=9u8).find(|tag| key(*tag).0 == *node).map_or(Worth::Kept, |tag| worth(worths[usize::from(tag) - 2]));
        let idle = worths.iter().zip(2u8..).filter_map(|(seen, tag)| Some((now((*seen)?), key(tag).0)));
        book.set_idle(idle.collect());
        // So much that as many as are `lacking` must go.
        let bytes = MAX_CATALOG_BYTES - 9 * each + lacking * each;
        let may_go = book.all().filter(|copy| of(&copy.node()) < worth(newcomer)).count();
        match book.room_for(key(200).0, bytes, worth(newcomer), of) {
            None => prop_assert!(may_go < lacking),
            Some(gone) => {
                prop_assert_eq!(gone.len(), lacking);
                let stays = book.all().map(|copy| copy.node()).filter(|node| !gone.contains(node));
                let least = stays.map(|node| of(&node)).min().unwrap();
                prop_assert!(gone.iter().all(|node| of(node) < worth(newcomer) && of(node) <= least));
            }
        }
    }
}
