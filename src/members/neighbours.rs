//! With whom a node keeps a session, and with whom only while it needs one. Pure.
//!
//! In a small network everybody has a session with everybody. In a large one each node keeps a few: with the node whose id
//! is next after its own, so that all hang together like a ring, and with some that it draws by hashing, so that news is
//! everywhere after few steps. The draw depends on the two ids alone: who comes or goes changes little.

use std::collections::BTreeSet;

use crate::base::ids::NodeId;

/// Neighbours that a node chooses in a large network; others choose it, too.
pub const NEIGHBOURS: usize = 6;

fn draw(own: &NodeId, other: &NodeId) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&own.0).update(&other.0);
    *hasher.finalize().as_bytes().first_chunk().unwrap_or(&[0; 8])
}

/// Whom of the `live` nodes `own` should have sessions with. Up to `mesh` of them: all.
pub fn neighbours<'a>(own: &NodeId, live: impl Iterator<Item = &'a NodeId>, mesh: usize) -> BTreeSet<NodeId> {
    let live: Vec<NodeId> = live.copied().collect();
    if live.len() <= mesh {
        return live.into_iter().collect();
    }
    // With the next one there are as many as there should be.
    chosen(own, &live, NEIGHBOURS).into_iter().take(NEIGHBOURS).collect()
}

/// Whom `own` chooses first of `live` in a large network: the next one, and so many others in the order of its draw. Where
/// some of them can't be reached, those that follow take their places; so anybody can tell with whom a node most likely has
/// sessions.
pub fn chosen(own: &NodeId, live: &[NodeId], count: usize) -> Vec<NodeId> {
    let next = live.iter().filter(|node| *node > own).min().or_else(|| live.iter().min()).copied();
    let mut drawn: Vec<([u8; 8], NodeId)> =
        live.iter().filter(|node| Some(**node) != next).map(|node| (draw(own, node), *node)).collect();
    if drawn.len() > count {
        drawn.select_nth_unstable(count - 1);
        drawn.truncate(count);
    }
    drawn.sort_unstable();
    next.into_iter().chain(drawn.into_iter().map(|(_, node)| node)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u32) -> Vec<NodeId> {
        (0..count).map(|number| NodeId(*blake3::hash(&number.to_le_bytes()).as_bytes())).collect()
    }

    #[test]
    fn a_large_network_hangs_together_by_few_sessions_and_news_is_everywhere_soon() {
        let all = nodes(2000);
        let of: Vec<BTreeSet<NodeId>> =
            all.iter().map(|own| neighbours(own, all.iter().filter(|other| *other != own), 16)).collect();
        assert!(of.iter().all(|few| (NEIGHBOURS - 1..=NEIGHBOURS).contains(&few.len())));
        // From each to its neighbours and to those who chose it.
        let mut reached = BTreeSet::from([all[7]]);
        let mut steps = 0;
        while reached.len() < all.len() {
            let more: Vec<NodeId> = all
                .iter()
                .zip(&of)
                .flat_map(|(own, few)| few.iter().map(move |other| (*own, *other)))
                .filter_map(|(a, b)| match (reached.contains(&a), reached.contains(&b)) {
                    (true, false) => Some(b),
                    (false, true) => Some(a),
                    _ => None,
                })
                .collect();
            assert!(!more.is_empty(), "{} of {} can be reached", reached.len(), all.len());
            reached.extend(more);
            steps += 1;
        }
        assert!(steps <= 6, "{steps}");
    }

    #[test]
    fn anybody_can_tell_with_whom_a_node_that_nobody_can_dial_has_sessions() {
        let all = nodes(600);
        // Every third can't be dialled: it has sessions with others alone, and learns that by trying.
        let hidden = |node: &NodeId| all.iter().position(|known| known == node).unwrap() % 3 == 0;
        for target in all.iter().filter(|node| hidden(node)) {
            let has = neighbours(target, all.iter().filter(|node| !hidden(node)), 16);
            // Others know all the same nodes, and not which of them can be dialled.
            let live: Vec<NodeId> = all.iter().filter(|node| *node != target).copied().collect();
            let likely = chosen(target, &live, 12);
            assert!(likely.iter().filter(|node| has.contains(node)).count() >= 2, "{likely:?}");
        }
    }

    #[test]
    fn who_comes_or_goes_changes_little() {
        let all = nodes(500);
        let (own, others) = all.split_first().unwrap();
        let before = neighbours(own, others.iter(), 16);
        let after = neighbours(own, others.iter().skip(1), 16);
        assert!(before.intersection(&after).count() >= NEIGHBOURS - 2);
        assert_eq!(neighbours(own, others[..16].iter(), 16).len(), 16);
        assert!(neighbours(own, others[..0].iter(), 16).is_empty());
        assert!(neighbours(own, others[..3].iter(), 0).len() == 3);
    }
}
