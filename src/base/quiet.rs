//! Log lines that a peer can cause: of each kind, one for each peer in a while, so that nobody fills a disk by talking.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ids::NodeId;

/// Between two lines of one kind because of one peer.
const PAUSE: Duration = Duration::from_secs(10);
/// Peers and kinds that are remembered. While so many have just been told of, new ones are not told of at all.
const MAX_KEPT: usize = 4096;

#[derive(Debug)]
struct Said {
    at: Instant,
    held_back: u64,
}

/// Who was told of when, and how often it was not told since.
#[derive(Debug)]
pub struct Quiet {
    said: BTreeMap<(NodeId, &'static str), Said>,
}

impl Quiet {
    /// Nothing has been said.
    pub const fn new() -> Self {
        Self { said: BTreeMap::new() }
    }

    /// Asks whether something of `kind` that `peer` did may be told now. If so, returns how often it was held back before.
    pub fn say(&mut self, peer: NodeId, kind: &'static str, now: Instant) -> Option<u64> {
        let rests = |said: &Said| now.saturating_duration_since(said.at) < PAUSE;
        if let Some(said) = self.said.get_mut(&(peer, kind)) {
            if rests(said) {
                said.held_back += 1;
                return None;
            }
            *said = Said { at: now, held_back: std::mem::take(&mut said.held_back) };
            return Some(std::mem::take(&mut said.held_back));
        }
        if self.said.len() >= MAX_KEPT {
            self.said.retain(|_, said| rests(said));
        }
        if self.said.len() >= MAX_KEPT {
            return None;
        }
        self.said.insert((peer, kind), Said { at: now, held_back: 0 });
        Some(0)
    }
}

impl Default for Quiet {
    fn default() -> Self {
        Self::new()
    }
}

/// The process has one log.
static LOG: Mutex<Quiet> = Mutex::new(Quiet::new());

/// [`Quiet::say`] for the log of this process, now.
pub fn may_log(peer: NodeId, kind: &'static str) -> Option<u64> {
    LOG.lock().say(peer, kind, Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_each_peer_and_kind_in_a_while() {
        let (mut quiet, start) = (Quiet::new(), Instant::now());
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        assert_eq!(quiet.say(a, "receipt", start), Some(0));
        assert_eq!(quiet.say(a, "receipt", start + PAUSE / 2), None);
        assert_eq!(quiet.say(a, "receipt", start + PAUSE / 2), None);
        assert_eq!(quiet.say(a, "catalog", start + PAUSE / 2), Some(0));
        assert_eq!(quiet.say(b, "receipt", start + PAUSE / 2), Some(0));
        assert_eq!(quiet.say(a, "receipt", start + PAUSE), Some(2));
        assert_eq!(quiet.say(a, "receipt", start + PAUSE * 2), Some(0));
    }

    #[test]
    fn a_crowd_of_new_peers_is_not_remembered_without_end() {
        let (mut quiet, start) = (Quiet::new(), Instant::now());
        let peer = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            NodeId(id)
        };
        let told = (0..3 * MAX_KEPT).filter(|number| quiet.say(peer(*number), "x", start).is_some()).count();
        assert_eq!((told, quiet.said.len()), (MAX_KEPT, MAX_KEPT));
        assert_eq!(quiet.say(peer(3 * MAX_KEPT), "x", start + PAUSE), Some(0));
        assert_eq!(quiet.said.len(), 1);
    }
}
