//! What each peer has earned: bytes that it gave to this node, bytes that others attest with signed receipts, and an
//! allowance for newcomers. Nobody raises its weight by its own word. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::receipt::Receipt;
use crate::base::clock::Timestamp;
use crate::base::ids::{NetworkId, NodeId};

/// What everybody has: enough for a newcomer to get its share of what is not contested, and the unit of weights.
const ALLOWANCE: f64 = (16 << 20) as f64;
/// One attester counts for at most this much: an accomplice buys little.
const PER_ATTESTER: u64 = 64 << 20;
/// Weights end here: who gave a hundred times as much is served sixteen times as fast, and nobody starves.
const MOST: f64 = 16.0 * ALLOWANCE;
/// What was given loses half of its worth in this time.
const HALF_LIFE: Duration = Duration::from_secs(6 * 3600);
/// Receipts count for a day.
const RECEIPT_SECS: i64 = 24 * 3600;
/// A receipt from the future is taken for one of a clock that is wrong by no more than this.
const SKEW_SECS: i64 = 300;
/// Peers with an account, and attesters of one peer.
const MAX_ACCOUNTS: usize = 10_000;
const MAX_ATTESTERS: usize = 64;

#[derive(Clone, Debug, Default)]
struct Account {
    /// Bytes that it gave to this node, worth `at`.
    gave: f64,
    at: Option<Instant>,
    /// By attester and network: bytes, and when it attested them.
    attested: BTreeMap<(NodeId, NetworkId), (u64, i64)>,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    own: NodeId,
    accounts: BTreeMap<NodeId, Account>,
}

impl Ledger {
    /// Nobody has given anything yet.
    pub fn new(own: NodeId) -> Self {
        Self { own, accounts: BTreeMap::new() }
    }

    fn account(&mut self, node: NodeId) -> Option<&mut Account> {
        if self.accounts.len() >= MAX_ACCOUNTS && !self.accounts.contains_key(&node) {
            return None;
        }
        Some(self.accounts.entry(node).or_default())
    }

    /// `node` gave this node `bytes` that were verified.
    pub fn gave(&mut self, node: NodeId, bytes: usize, now: Instant) {
        if let Some(account) = self.account(node) {
            account.gave = account.worth(now) + bytes as f64;
            account.at = Some(now);
        }
    }

    /// Takes a receipt whose signature has been checked. `known`: this node itself knows the attester as a member; what
    /// strangers attest (identities that cost nothing) does not count. False if it is of no use.
    pub fn attest(&mut self, receipt: &Receipt, known: bool, wall: Timestamp) -> bool {
        let fresh = receipt.at.saturating_add(RECEIPT_SECS) > wall.secs && receipt.at < wall.secs + SKEW_SECS;
        // What this node itself got, it knows best.
        let useful = known && fresh && receipt.attester != receipt.giver && receipt.attester != self.own;
        let Some(account) = self.account(receipt.giver).filter(|_| useful) else { return false };
        let by = (receipt.attester, receipt.network);
        if account.attested.len() >= MAX_ATTESTERS && !account.attested.contains_key(&by) {
            return false;
        }
        let entry = account.attested.entry(by).or_insert((0, i64::MIN));
        if receipt.at < entry.1 {
            return false;
        }
        *entry = (receipt.bytes, receipt.at);
        true
    }

    /// What `node` has earned: its weight when uploads are contested.
    pub fn weight(&self, node: &NodeId, now: Instant, wall: Timestamp) -> f64 {
        let Some(account) = self.accounts.get(node) else { return ALLOWANCE };
        let fresh = |at: i64| at.saturating_add(RECEIPT_SECS) > wall.secs;
        let mut attested: BTreeMap<NodeId, u64> = BTreeMap::new();
        for ((attester, _), (bytes, _)) in account.attested.iter().filter(|(_, (_, at))| fresh(*at)) {
            let sum = attested.entry(*attester).or_default();
            *sum = sum.saturating_add(*bytes).min(PER_ATTESTER);
        }
        let attested: u64 = attested.values().sum();
        (ALLOWANCE + account.worth(now) + attested as f64).min(MOST)
    }
}

impl Account {
    fn worth(&self, now: Instant) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        let age = now.saturating_duration_since(at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.gave * 0.5f64.powf(age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::NetworkId;

    const WALL: Timestamp = Timestamp { secs: 1_000_000, nanos: 0 };

    fn receipt(attester: u8, giver: u8, bytes: u64) -> Receipt {
        let node = |tag| NodeId([tag; 32]);
        Receipt { network: NetworkId([1; 32]), attester: node(attester), giver: node(giver), bytes, at: WALL.secs }
    }

    #[test]
    fn weights_are_earned_and_not_claimed() {
        let now = Instant::now();
        let node = |tag| NodeId([tag; 32]);
        let mut ledger = Ledger::new(node(9));
        let weight = |ledger: &Ledger, tag| ledger.weight(&node(tag), now, WALL) / ALLOWANCE;
        assert_eq!(weight(&ledger, 1), 1.0);
        ledger.gave(node(1), 32 << 20, now);
        assert_eq!(weight(&ledger, 1), 3.0);
        // Its own word, a stranger's, an old one, and this node's own name count for nothing.
        assert!(!ledger.attest(&receipt(1, 1, 1 << 40), true, WALL));
        assert!(!ledger.attest(&receipt(2, 1, 1 << 40), false, WALL));
        assert!(!ledger.attest(&Receipt { at: WALL.secs - RECEIPT_SECS, ..receipt(2, 1, 1 << 40) }, true, WALL));
        assert!(!ledger.attest(&receipt(9, 1, 1 << 40), true, WALL));
        assert!(!ledger.attest(&Receipt { at: i64::MAX, ..receipt(2, 1, u64::MAX) }, true, WALL));
        assert_eq!(weight(&ledger, 1), 3.0);
        // An accomplice counts up to the cap, and a newer word of the same replaces the older.
        assert!(ledger.attest(&receipt(2, 1, 1 << 40), true, WALL));
        assert_eq!(weight(&ledger, 1), 7.0);
        assert!(ledger.attest(&receipt(2, 1, 16 << 20), true, WALL));
        assert_eq!(weight(&ledger, 1), 4.0);
        // Its words in two networks are added up, and capped together.
        let elsewhere = |bytes| Receipt { network: NetworkId([2; 32]), ..receipt(2, 1, bytes) };
        assert!(ledger.attest(&elsewhere(16 << 20), true, WALL));
        assert_eq!(weight(&ledger, 1), 5.0);
        assert!(ledger.attest(&elsewhere(1 << 40), true, WALL));
        assert_eq!(weight(&ledger, 1), 7.0);
        for attester in 10..40 {
            ledger.attest(&receipt(attester, 1, 1 << 40), true, WALL);
        }
        assert_eq!(weight(&ledger, 1), 16.0);
        let later = Timestamp { secs: WALL.secs + RECEIPT_SECS, nanos: 0 };
        assert!((ledger.weight(&node(1), now + HALF_LIFE, later) / ALLOWANCE - 2.0).abs() < 0.01);
    }
}
