//! What peers did that an honest one never does, and what follows. Sources verify before they send, so a wrong byte is no
//! accident. Pure: times are arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::base::ids::{ContentId, NodeId};

/// A peer that lied is never asked for that file again. One that lied about this many files or this many times is asked
/// for nothing at all for [`BAN`], and for twice as long each time that it lies again.
const LIES: u64 = 3;
const BAN: Duration = Duration::from_secs(600);
const BAN_MAX: Duration = Duration::from_secs(86_400);
/// Liars that are remembered; a network has few, and their ids cost them a membership.
const MAX_NODES: usize = 4096;
/// Files that are remembered for each; the ban covers the others.
const MAX_FILES: usize = 64;

/// What a peer did.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lie {
    /// A chunk whose bytes are not the file's.
    Chunk,
    /// Hashes that do not belong to the file.
    Hashes,
    /// It broke the protocol.
    Protocol,
}

#[derive(Clone, Debug)]
struct Record {
    chunks: u64,
    hashes: u64,
    protocol: u64,
    last: Instant,
    banned_until: Option<Instant>,
    bans: u32,
    files: BTreeSet<ContentId>,
}

/// One peer's record, to be shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QuarantineReport {
    /// Who.
    pub node: NodeId,
    /// Chunks with wrong bytes.
    pub bad_chunks: u64,
    /// Wrong hashes.
    pub bad_hashes: u64,
    /// Breaches of the protocol.
    pub protocol: u64,
    /// Files that it is not asked for any more.
    pub files: u64,
    /// Since it last did so.
    pub ago: Duration,
    /// How long it will be asked for nothing at all, if so.
    pub banned_for: Option<Duration>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Quarantine {
    nodes: BTreeMap<NodeId, Record>,
}

impl Quarantine {
    /// `node` did this with `content`.
    pub fn caught(&mut self, node: NodeId, content: ContentId, lie: Lie, now: Instant) {
        if !self.nodes.contains_key(&node) && self.nodes.len() >= MAX_NODES {
            let oldest = self.nodes.iter().min_by_key(|(_, record)| record.last).map(|(node, _)| *node);
            oldest.map(|oldest| self.nodes.remove(&oldest));
        }
        let record = self.nodes.entry(node).or_insert_with(|| Record {
            chunks: 0,
            hashes: 0,
            protocol: 0,
            last: now,
            banned_until: None,
            bans: 0,
            files: BTreeSet::new(),
        });
        match lie {
            Lie::Chunk => record.chunks += 1,
            Lie::Hashes => record.hashes += 1,
            Lie::Protocol => record.protocol += 1,
        }
        record.last = now;
        if record.files.len() < MAX_FILES {
            record.files.insert(content);
        }
        if record.chunks + record.hashes + record.protocol >= LIES {
            record.banned_until = Some(now + (BAN * 2u32.pow(record.bans.min(10))).min(BAN_MAX));
            record.bans += 1;
        }
    }

    /// True if `node` must not be asked for `content` now.
    pub fn bars(&self, node: NodeId, content: &ContentId, now: Instant) -> bool {
        self.nodes.get(&node).is_some_and(|record| {
            record.files.contains(content) || record.banned_until.is_some_and(|until| until > now)
        })
    }

    /// Everybody's record.
    pub fn reports(&self, now: Instant) -> Vec<QuarantineReport> {
        let report = |(node, record): (&NodeId, &Record)| QuarantineReport {
            node: *node,
            bad_chunks: record.chunks,
            bad_hashes: record.hashes,
            protocol: record.protocol,
            files: record.files.len() as u64,
            ago: now.saturating_duration_since(record.last),
            banned_for: record
                .banned_until
                .and_then(|until| until.checked_duration_since(now))
                .filter(|left| !left.is_zero()),
        };
        self.nodes.iter().map(report).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Root;

    fn file(tag: u8) -> ContentId {
        ContentId { root: Root([tag; 32]), size: 1 }
    }

    #[test]
    fn one_lie_costs_the_file_and_three_everything_for_a_while() {
        let (mut quarantine, node, now) = (Quarantine::default(), NodeId([1; 32]), Instant::now());
        quarantine.caught(node, file(1), Lie::Chunk, now);
        assert!(quarantine.bars(node, &file(1), now) && !quarantine.bars(node, &file(2), now));
        assert!(!quarantine.bars(NodeId([2; 32]), &file(1), now));
        quarantine.caught(node, file(2), Lie::Hashes, now);
        quarantine.caught(node, file(3), Lie::Chunk, now);
        assert!(quarantine.bars(node, &file(4), now + BAN / 2));
        assert!(!quarantine.bars(node, &file(4), now + BAN * 2) && quarantine.bars(node, &file(1), now + BAN * 2));
        quarantine.caught(node, file(3), Lie::Chunk, now + BAN * 2);
        assert!(quarantine.bars(node, &file(4), now + BAN * 3), "the second ban is longer");
        let report = &quarantine.reports(now + BAN)[0];
        assert_eq!((report.bad_chunks, report.bad_hashes, report.files), (3, 1, 3));
    }

    #[test]
    fn the_list_is_bounded() {
        let (mut quarantine, start) = (Quarantine::default(), Instant::now());
        for tag in 0..MAX_NODES as u64 + 50 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&tag.to_le_bytes());
            quarantine.caught(NodeId(id), file(1), Lie::Chunk, start + Duration::from_millis(tag));
        }
        assert_eq!(quarantine.reports(start).len(), MAX_NODES);
    }
}
