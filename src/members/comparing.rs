//! Finding out, with one peer, in what its knowledge and this node's differ: of catalogs, and of who is alive. Both sides of
//! it. Pure; `members/catalogs` drives it over a session, and the simulator over its own.

use std::collections::HashMap;

use crate::base::ids::NodeId;
use crate::base::limits::MAX_VERSIONS;
use crate::catalog::sums::{BucketSet, SumTable};
use crate::wire::message::{CatalogVersion, MemberRecord, Request, Response, Sums};

/// Nodes about which one message of a comparison tells, more or less.
pub(super) const AT_A_TIME: usize = 4096;

/// An answer that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an answer that makes no sense")]
pub struct NoAnswer;

/// The asker's side, question by question.
#[derive(Debug)]
pub struct Comparison {
    table: SumTable,
    members: SumTable,
    /// Whom this node believes alive.
    records: Vec<MemberRecord>,
    /// Where its catalogs stand; there once some differ.
    versions: Vec<CatalogVersion>,
    /// The buckets that differ and were not asked for yet; `None` before the first answer.
    differ: Option<(BucketSet, BucketSet)>,
}

/// What an answer brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Learned {
    /// Which buckets differ.
    Sums,
    /// Where the peer's catalogs are ahead.
    Versions(Vec<CatalogVersion>),
    /// What it knows of members.
    Members(Vec<MemberRecord>),
}

fn alive(records: &[MemberRecord]) -> SumTable {
    records.iter().filter(|record| !record.down).copied().collect()
}

impl Comparison {
    /// Of what catalogs sum up to and of what gossip knows of members (nothing, if this node does not gossip).
    pub fn new(table: SumTable, mut records: Vec<MemberRecord>) -> Self {
        records.retain(|record| !record.down);
        let members = alive(&records);
        Self { table, members, records, versions: Vec::new(), differ: None }
    }

    /// The next question; `None` once all has been compared. `versions`: where this node's catalogs stand, asked for if need
    /// be.
    pub fn request(&mut self, versions: impl FnOnce() -> Vec<CatalogVersion>) -> Option<Request> {
        let Some((catalogs, members)) = &mut self.differ else {
            return Some(Request::Sums(Sums { catalogs: self.table.total(), members: self.members.total() }));
        };
        if !catalogs.is_empty() {
            if self.versions.is_empty() {
                self.versions = versions();
            }
            let buckets = catalogs.take_some(self.versions.iter().map(|version| &version.node), AT_A_TIME);
            let mine = self.versions.iter().filter(|version| buckets.has(&version.node)).copied().collect();
            return Some(Request::Versions { buckets: buckets.into(), versions: mine });
        }
        if !members.is_empty() && !self.records.is_empty() {
            let buckets = members.take_some(self.records.iter().map(|record| &record.node), AT_A_TIME);
            let mine = self.records.iter().filter(|record| buckets.has(&record.node)).copied().collect();
            return Some(Request::Members { buckets: buckets.into(), members: mine });
        }
        None
    }

    /// Takes the answer to the last question.
    pub fn take(&mut self, answer: Response) -> Result<Learned, NoAnswer> {
        match (answer, self.differ.is_some()) {
            (Response::Sums { catalogs, members }, false) => {
                let catalogs = self.table.differ(&catalogs).ok_or(NoAnswer)?;
                let members = self.members.differ(&members).ok_or(NoAnswer)?;
                self.differ = Some((catalogs, members));
                Ok(Learned::Sums)
            }
            (Response::Versions(theirs), true) => Ok(Learned::Versions(theirs)),
            (Response::Members(theirs), true) => Ok(Learned::Members(theirs)),
            _ => Err(NoAnswer),
        }
    }
}

/// What an asker with these sums is told: of catalogs, and of members (nothing, if this node does not gossip).
pub fn answer_sums(table: &SumTable, records: &[MemberRecord], theirs: Sums) -> (Vec<u64>, Vec<u64>) {
    // Who does not gossip has nothing to add.
    let members = if records.is_empty() { Vec::new() } else { alive(records).answer(theirs.members) };
    (table.answer(theirs.catalogs), members)
}

/// Those of `ours` in these buckets that are ahead of `theirs`.
pub fn ahead(mut ours: Vec<CatalogVersion>, buckets: BucketSet, theirs: &[CatalogVersion]) -> Vec<CatalogVersion> {
    let theirs: HashMap<NodeId, (u64, u64)> =
        theirs.iter().map(|told| (told.node, (told.epoch, told.version))).collect();
    ours.retain(|ours| buckets.has(&ours.node) && theirs.get(&ours.node) < Some(&(ours.epoch, ours.version)));
    ours.truncate(MAX_VERSIONS);
    ours
}

/// Those of `ours` in these buckets that are news to who knows `theirs`.
pub fn news(mut ours: Vec<MemberRecord>, buckets: BucketSet, theirs: &[MemberRecord]) -> Vec<MemberRecord> {
    let theirs: HashMap<NodeId, u32> = theirs.iter().map(|member| (member.node, member.generation)).collect();
    // The dead are told of where the asker believes them alive, and nowhere else: all would remember them for ever, one from
    // the other.
    ours.retain(|ours| {
        let believed = theirs.get(&ours.node);
        let news = if ours.down { believed.is_some() } else { believed != Some(&ours.generation) };
        buckets.has(&ours.node) && news
    });
    ours.truncate(MAX_VERSIONS);
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(tag: u8, generation: u32, down: bool) -> MemberRecord {
        MemberRecord { node: NodeId([tag; 32]), generation, incarnation: 0, down, addr: ([10, 0, 0, tag], 1).into() }
    }

    #[test]
    fn each_side_ends_with_what_the_other_knew_and_the_dead_are_told_of_to_who_believes_them_alive() {
        let version = |tag: u8, version| CatalogVersion { node: NodeId([tag; 32]), epoch: 1, version };
        let (mine, theirs) = (vec![version(1, 1), version(2, 5)], vec![version(1, 2), version(3, 1)]);
        let known = vec![record(1, 1, false), record(2, 1, false)];
        let peers = vec![record(1, 1, true), record(3, 1, false), record(4, 1, true)];
        let table: SumTable = theirs.iter().copied().collect();
        let mut comparison = Comparison::new(mine.iter().copied().collect(), known);
        let (mut versions, mut members) = (Vec::new(), Vec::new());
        while let Some(request) = comparison.request(|| mine.clone()) {
            let answer = match request {
                Request::Sums(sums) => {
                    let (catalogs, members) = answer_sums(&table, &peers, sums);
                    Response::Sums { catalogs, members }
                }
                Request::Versions { buckets, versions } => {
                    Response::Versions(ahead(theirs.clone(), buckets.into(), &versions))
                }
                Request::Members { buckets, members } => {
                    Response::Members(news(peers.clone(), buckets.into(), &members))
                }
                other => panic!("{other:?}"),
            };
            match comparison.take(answer).unwrap() {
                Learned::Sums => {}
                Learned::Versions(some) => versions.extend(some),
                Learned::Members(some) => members.extend(some),
            }
        }
        assert_eq!(versions, [version(1, 2), version(3, 1)]);
        assert_eq!(members, [record(1, 1, true), record(3, 1, false)]);
        assert_eq!(comparison.take(Response::Pong), Err(NoAnswer));
        assert_eq!(comparison.take(Response::Sums { catalogs: Vec::new(), members: Vec::new() }), Err(NoAnswer));
    }
}
