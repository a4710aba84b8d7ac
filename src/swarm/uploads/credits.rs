//! This node's side of receipts: what it got from whom, and so must attest; what others attested of it, and to whom it
//! has shown that. Each network apart: what happens in one is nobody's business in another. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::receipt::Receipt;
use crate::base::ids::{NetworkId, NodeId};
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

/// A receipt that this node has: bytes, when, and the receipt itself.
type Kept = (u64, i64, SignedReceipt);

/// See the module.
#[derive(Debug, Default)]
pub struct Credits {
    got: BTreeMap<(NetworkId, NodeId), Given>,
    /// By attester.
    receipts: BTreeMap<(NetworkId, NodeId), Kept>,
    /// Grows with each new receipt of the network.
    versions: BTreeMap<NetworkId, u64>,
    shown: BTreeMap<(NetworkId, NodeId), Shown>,
}

impl Credits {
    /// `giver` brought `bytes` of `network`, verified. Returns what it brought there in all, if a receipt for it is due.
    pub fn brought(&mut self, network: NetworkId, giver: NodeId, bytes: usize, now: Instant) -> Option<u64> {
        let of = (network, giver);
        if self.got.len() >= MAX_KNOWN && !self.got.contains_key(&of) {
            return None;
        }
        let given = self.got.entry(of).or_default();
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
        let of = (receipt.network, receipt.attester);
        if self.receipts.len() >= MAX_KNOWN && !self.receipts.contains_key(&of) {
            return;
        }
        let newer = self.receipts.get(&of).is_none_or(|(bytes, at, _)| (receipt.at, receipt.bytes) > (*at, *bytes));
        if newer {
            self.receipts.insert(of, (receipt.bytes, receipt.at, sealed));
            *self.versions.entry(receipt.network).or_default() += 1;
        }
    }

    /// Receipts of `network` to show `source`, if there are new ones that it has not seen.
    pub fn show(&mut self, network: NetworkId, source: NodeId, now: Instant) -> Option<Vec<SignedReceipt>> {
        let version = *self.versions.get(&network)?;
        let to = (network, source);
        if self.shown.len() >= MAX_KNOWN && !self.shown.contains_key(&to) {
            return None;
        }
        let shown = self.shown.entry(to).or_default();
        let soon = shown.at.is_some_and(|at| now.saturating_duration_since(at) < SHOW_EVERY);
        if shown.version == version || soon {
            return None;
        }
        *shown = Shown { version, at: Some(now) };
        let all = (network, NodeId([0; 32]))..=(network, NodeId([0xff; 32]));
        let others = self.receipts.range(all).filter(|((_, attester), _)| *attester != source);
        let mut best: Vec<&Kept> = others.map(|(_, kept)| kept).collect();
        best.sort_by_key(|(bytes, at, _)| std::cmp::Reverse((*bytes, *at)));
        Some(best.into_iter().take(MAX_SHOWN).map(|(_, _, sealed)| sealed.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: NetworkId = NetworkId([1; 32]);
    const THERE: NetworkId = NetworkId([2; 32]);

    fn receipt(network: NetworkId, attester: u8, bytes: u64, at: i64) -> Receipt {
        Receipt { network, attester: NodeId([attester; 32]), giver: NodeId([9; 32]), bytes, at }
    }

    /// Not signed: what they look like does not matter here.
    fn sealed(tag: u8) -> SignedReceipt {
        SignedReceipt { message: vec![tag].into(), signature: vec![2].into() }
    }

    #[test]
    fn receipts_are_due_by_bytes_and_by_time() {
        let (now, giver) = (Instant::now(), NodeId([1; 32]));
        let mut credits = Credits::default();
        assert_eq!(credits.brought(HERE, giver, 1 << 20, now), None);
        assert_eq!(credits.brought(HERE, giver, 7 << 20, now), Some(8 << 20));
        assert_eq!(credits.brought(HERE, giver, 1 << 20, now), None);
        assert_eq!(credits.brought(HERE, giver, 1 << 20, now + RECEIPT_EVERY), Some(10 << 20));
    }

    #[test]
    fn a_source_sees_what_is_new() {
        let (now, source) = (Instant::now(), NodeId([7; 32]));
        let mut credits = Credits::default();
        assert_eq!(credits.show(HERE, source, now), None);
        credits.keep(&receipt(HERE, 1, 5, 1), sealed(1));
        assert_eq!(credits.show(HERE, source, now).map(|shown| shown.len()), Some(1));
        assert_eq!(credits.show(HERE, source, now + SHOW_EVERY), None);
        credits.keep(&receipt(HERE, 1, 4, 0), sealed(1));
        assert_eq!(credits.show(HERE, source, now + SHOW_EVERY), None);
        credits.keep(&receipt(HERE, 2, 4, 0), sealed(2));
        assert_eq!(credits.show(HERE, source, now), None);
        assert_eq!(credits.show(HERE, source, now + SHOW_EVERY).map(|shown| shown.len()), Some(2));
    }

    #[test]
    fn receipts_of_one_network_were_shown_in_another() {
        let (now, source) = (Instant::now(), NodeId([7; 32]));
        let mut credits = Credits::default();
        credits.keep(&receipt(HERE, 1, 5, 1), sealed(1));
        assert_eq!(credits.show(THERE, source, now), None);
        // The same attester in both.
        credits.keep(&receipt(THERE, 1, 3, 1), sealed(2));
        assert_eq!(credits.show(THERE, source, now), Some(vec![sealed(2)]));
        assert_eq!(credits.show(HERE, source, now), Some(vec![sealed(1)]));
        // And what is attested is what was brought in that network.
        assert_eq!(credits.brought(HERE, source, 8 << 20, now), Some(8 << 20));
        assert_eq!(credits.brought(THERE, source, 9 << 20, now), Some(9 << 20));
    }
}
