//! How many receipts of each peer are looked at: a signature takes longer to verify than to send. Pure.

use std::collections::BTreeMap;
use std::time::Instant;

use super::credits::MAX_SHOWN;
use crate::base::ids::NodeId;

/// Twice what an honest peer shows; it also gives one for each 8 MiB that it gets, of which the last one counts.
const PER_SECOND: f64 = 2.0 * MAX_SHOWN as f64;
/// As many may come at once: two showings that were on their way together, say.
const AT_ONCE: f64 = PER_SECOND;
/// Peers whose receipts are counted. Beyond that nobody new is heard until others have been quiet for a second.
const MAX_PEERS: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Hearing {
    /// What each peer has left, and as of when. Who is not here has all.
    left: BTreeMap<NodeId, (f64, Instant)>,
}

fn left_at((left, at): (f64, Instant), now: Instant) -> f64 {
    (left + now.saturating_duration_since(at).as_secs_f64() * PER_SECOND).min(AT_ONCE)
}

impl Hearing {
    /// How many of the `count` receipts that `peer` sends now are to be looked at.
    pub fn grant(&mut self, peer: NodeId, count: usize, now: Instant) -> usize {
        if self.left.len() >= MAX_PEERS && !self.left.contains_key(&peer) {
            self.left.retain(|_, left| left_at(*left, now) < AT_ONCE);
            if self.left.len() >= MAX_PEERS {
                return 0;
            }
        }
        let left = self.left.get(&peer).map_or(AT_ONCE, |left| left_at(*left, now));
        let granted = count.min(left as usize);
        self.left.insert(peer, (left - granted as f64, now));
        granted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_peer_that_shows_receipts_without_pause_is_not_listened_to_without_pause() {
        let (mut hearing, start) = (Hearing::default(), Instant::now());
        let (loud, honest) = (NodeId([1; 32]), NodeId([2; 32]));
        let mut heard = 0;
        for millis in 0..10_000 {
            let now = start + Duration::from_millis(millis);
            heard += hearing.grant(loud, MAX_SHOWN, now);
            if millis % 1000 == 0 {
                assert_eq!(hearing.grant(honest, MAX_SHOWN, now), MAX_SHOWN);
            }
        }
        let most = AT_ONCE + 10.0 * PER_SECOND;
        assert!(heard as f64 <= most && heard as f64 > most - PER_SECOND, "{heard}");
    }

    #[test]
    fn a_crowd_is_not_remembered_without_end() {
        let (mut hearing, start) = (Hearing::default(), Instant::now());
        let peer = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            NodeId(id)
        };
        let heard: usize = (0..2 * MAX_PEERS).map(|number| hearing.grant(peer(number), 1, start)).sum();
        assert_eq!((heard, hearing.left.len()), (MAX_PEERS, MAX_PEERS));
        assert_eq!(hearing.grant(peer(2 * MAX_PEERS), 1, start + Duration::from_secs(2)), 1);
    }
}
