//! This node's side of receipts: what it got from whom, and so must attest; what others attested of it, and to whom it
//! has shown that. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::receipt::Receipt;
use crate::base::ids::NodeId;
use crate::wire::message::SignedReceipt;

/// A giver gets a receipt after this many bytes...
const RECEIPT_BYTES: u64 = 8 << 20;
/// ...or, if it gave anything, after this time.
const RECEIPT_EVERY: Duration = Duration::from_secs(2);
/// A source is shown new receipts no more often than this.
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// The most receipts that are shown at once, and taken from a peer at once: 64 MiB each are far more than counts.
pub const MAX_SHOWN: usize = 32;
/// Givers and attesters that are remembered.
const MAX_KNOWN: usize = 10_000;

#[derive(Debug, Default)]
struct Given {
    bytes: u64,
    attested: u64,
    at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Shown {
    version: u64,
    at: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Credits {
    got: BTreeMap<NodeId, Given>,
    /// By attester: bytes, when, and the receipt itself.
    receipts: BTreeMap<NodeId, (u64, i64, SignedReceipt)>,
    /// Grows with each new receipt.
    version: u64,
    shown: BTreeMap<NodeId, Shown>,
}

impl Credits {
    /// `giver` brought `bytes`, verified. Returns what it brought in all, if a receipt for it is due.
    pub fn brought(&mut self, giver: NodeId, bytes: usize, now: Instant) -> Option<u64> {
        if self.got.len() >= MAX_KNOWN && !self.got.contains_key(&giver) {
            return None;
        }
        let given = self.got.entry(giver).or_default();
        given.bytes += bytes as u64;
        let since = given.at.map(|at| now.saturating_duration_since(at));
        let due = given.bytes - given.attested >= RECEIPT_BYTES || since.is_some_and(|since| since >= RECEIPT_EVERY);
        if given.at.is_none() || due {
            given.at = Some(now);
        }
        due.then(|| {
            given.attested = given.bytes;
            given.bytes
        })
    }

    /// Keeps a receipt for what this node gave. Its signature has been checked.
    pub fn keep(&mut self, receipt: &Receipt, sealed: SignedReceipt) {
        if self.receipts.len() >= MAX_KNOWN && !self.receipts.contains_key(&receipt.attester) {
            return;
        }
        let newer = self
            .receipts
            .get(&receipt.attester)
            .is_none_or(|(bytes, at, _)| (receipt.at, receipt.bytes) > (*at, *bytes));
        if newer {
            self.receipts.insert(receipt.attester, (receipt.bytes, receipt.at, sealed));
            self.version += 1;
        }
    }

    /// Receipts to show `source`, if there are new ones that it has not seen.
    pub fn show(&mut self, source: NodeId, now: Instant) -> Option<Vec<SignedReceipt>> {
        if self.receipts.is_empty() || (self.shown.len() >= MAX_KNOWN && !self.shown.contains_key(&source)) {
            return None;
        }
        let shown = self.shown.entry(source).or_default();
        let soon = shown.at.is_some_and(|at| now.saturating_duration_since(at) < SHOW_EVERY);
        if shown.version == self.version || soon {
            return None;
        }
        *shown = Shown { version: self.version, at: Some(now) };
        let mut best: Vec<_> = self.receipts.iter().filter(|(attester, _)| **attester != source).collect();
        best.sort_by_key(|(_, (bytes, at, _))| std::cmp::Reverse((*bytes, *at)));
        Some(best.into_iter().take(MAX_SHOWN).map(|(_, (_, _, sealed))| sealed.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::NetworkId;

    #[test]
    fn receipts_are_due_by_bytes_and_by_time() {
        let (now, giver) = (Instant::now(), NodeId([1; 32]));
        let mut credits = Credits::default();
        assert_eq!(credits.brought(giver, 1 << 20, now), None);
        assert_eq!(credits.brought(giver, 7 << 20, now), Some(8 << 20));
        assert_eq!(credits.brought(giver, 1 << 20, now), None);
        assert_eq!(credits.brought(giver, 1 << 20, now + RECEIPT_EVERY), Some(10 << 20));
    }

    #[test]
    fn a_source_sees_what_is_new() {
        let (now, source) = (Instant::now(), NodeId([7; 32]));
        let sealed = SignedReceipt { message: vec![1].into(), signature: vec![2].into() };
        let receipt = |attester: u8, bytes, at| Receipt {
            network: NetworkId([0; 32]),
            attester: NodeId([attester; 32]),
            giver: NodeId([9; 32]),
            bytes,
            at,
        };
        let mut credits = Credits::default();
        assert_eq!(credits.show(source, now), None);
        credits.keep(&receipt(1, 5, 1), sealed.clone());
        assert_eq!(credits.show(source, now).map(|shown| shown.len()), Some(1));
        assert_eq!(credits.show(source, now + SHOW_EVERY), None);
        credits.keep(&receipt(1, 4, 0), sealed.clone());
        assert_eq!(credits.show(source, now + SHOW_EVERY), None);
        credits.keep(&receipt(2, 4, 0), sealed);
        assert_eq!(credits.show(source, now), None);
        assert_eq!(credits.show(source, now + SHOW_EVERY).map(|shown| shown.len()), Some(2));
    }
}
