//! All entries of all known catalogs in the order of paths, 12 bytes each: where an entry is, and the same once more in the
//! order of contents. When catalogs change, what came from the others keeps its order, and nothing of it is looked at.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use super::copy::CatalogCopy;
use super::entry::{EntryRef, by_paths};
use super::merge::Standing;
use crate::base::ids::{ContentId, NodeId};

/// One node's catalog, for merging.
#[derive(Clone, Debug)]
pub struct Party {
    /// What it offers.
    pub copy: Arc<CatalogCopy>,
    /// How that node stands.
    pub standing: Standing,
}

impl Party {
    fn node(&self) -> NodeId {
        self.copy.node()
    }
}

/// What two copies of one node's catalog have in common.
#[derive(Clone, Copy, Debug)]
pub struct Common {
    /// The other one's, as a place among the parties there.
    party: usize,
    /// Entries at places below this are the same ones.
    places: u32,
}

/// The claim has the same path as the one before it.
const SAME_PATH: u32 = 1 << 31;
/// The same path and the same content.
const SAME_CONTENT: u32 = 1 << 30;

/// One entry of one catalog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Claim {
    /// Whose, as a place among the parties; and the two bits above.
    party: u32,
    /// Where in the copy.
    place: u32,
}

impl Claim {
    fn party(self) -> usize {
        (self.party & !(SAME_PATH | SAME_CONTENT)) as usize
    }

    fn marked(self, marks: u32) -> Self {
        Self { party: self.party() as u32 | marks, ..self }
    }

    fn marks(self) -> u32 {
        self.party & (SAME_PATH | SAME_CONTENT)
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Sorted by node, none twice.
    parties: Vec<Party>,
    /// Sorted by path, content, node.
    list: Arc<Vec<Claim>>,
    /// Places in `list`, sorted by content and then by place.
    by_content: Arc<Vec<u32>>,
}

impl Claims {
    /// Of these catalogs. What of them is the same as in `old` is taken from there.
    pub fn merged(old: &Self, mut parties: Vec<Party>) -> Self {
        // A claim's number has 32 bits: what would go beyond that is left out, on a machine that had 800 GB for it.
        let mut room = u32::MAX as usize;
        parties.retain(|party| {
            let fits = party.copy.len() < room;
            room -= if fits { party.copy.len() } else { 0 };
            fits && !party.copy.is_empty()
        });
        parties.sort_by_key(Party::node);
        parties.dedup_by_key(|party| party.node());
        let mut new = Self { parties, ..Self::default() };
        let kept: Vec<Option<u32>> = old.parties.iter().map(|party| new.same_party(party)).collect();
        if kept.len() == new.parties.len() && kept.iter().all(Option::is_some) {
            // The same catalogs, whose nodes stand otherwise perhaps.
            (new.list, new.by_content) = (Arc::clone(&old.list), Arc::clone(&old.by_content));
            return new;
        }
        let mut fresh = new.fresh(&kept);
        if kept.iter().all(Option::is_none) {
            new.mark_all(&mut fresh);
            new.list = Arc::new(fresh);
            new.by_content = Arc::new(new.in_order_of_contents((0..new.list.len() as u32).collect()));
        } else {
            let merging = Merging { old, kept: &kept, parties: &new.parties, fresh: &fresh };
            new.list = Arc::new(merging.run());
            drop(fresh);
            new.by_content = Arc::new(new.merge_contents(old, &kept));
        }
        new
    }

    /// Which party here has the very same copy.
    fn same_party(&self, old: &Party) -> Option<u32> {
        let at = self.parties.binary_search_by_key(&old.node(), Party::node).ok()?;
        Arc::ptr_eq(&self.parties[at].copy, &old.copy).then_some(at as u32)
    }

    /// The claims of the parties that are not among those kept, sorted.
    fn fresh(&self, kept: &[Option<u32>]) -> Vec<Claim> {
        let mut is_kept = vec![false; self.parties.len()];
        kept.iter().flatten().for_each(|&at| is_kept[at as usize] = true);
        let of = || self.parties.iter().zip(0u32..).zip(&is_kept).filter(|(_, kept)| !**kept).map(|(party, _)| party);
        let mut fresh = Vec::with_capacity(of().map(|(party, _)| party.copy.len()).sum());
        for (party, at) in of() {
            fresh.extend(party.copy.places().map(|place| Claim { party: at, place }));
        }
        // Each catalog is sorted already; this sort sees that, and merges them.
        fresh.sort_by(|a, b| compare((&self.parties, *a), (&self.parties, *b)));
        fresh
    }

    fn mark_all(&self, list: &mut [Claim]) {
        let mut before = None;
        for claim in list {
            *claim = claim.marked(before.map_or(0, |before| marks_between(&self.parties, before, *claim)));
            before = Some(*claim);
        }
    }

    /// Claims at these places in the order of contents.
    fn in_order_of_contents(&self, places: Vec<u32>) -> Vec<u32> {
        // Most are told apart by their first bytes, which are at hand here.
        let key = |at: u32| self.content(at).map_or(0, |content| first_bytes(&content));
        let mut keyed: Vec<(u64, u32)> = places.into_iter().map(|at| (key(at), at)).collect();
        keyed.sort_unstable_by(|a, b| {
            a.0.cmp(&b.0).then_with(|| self.content(a.1).cmp(&self.content(b.1))).then_with(|| a.1.cmp(&b.1))
        });
        keyed.into_iter().map(|(_, at)| at).collect()
    }

    /// The order of contents, from that of `old`.
    fn merge_contents(&self, old: &Self, kept: &[Option<u32>]) -> Vec<u32> {
        let mut is_kept = vec![false; self.parties.len()];
        kept.iter().flatten().for_each(|&at| is_kept[at as usize] = true);
        let stays = |old_at: u32| kept[old.list[old_at as usize].party()].is_some();
        // Where each old claim is now, or the one before it that is still there: those that stay keep their order.
        let (mut now, mut fresh) = (vec![0; old.list.len()], Vec::new());
        let mut old_at = 0;
        for (claim, at) in self.list.iter().zip(0u32..) {
            if !is_kept[claim.party()] {
                fresh.push(at);
                continue;
            }
            while old_at < now.len() && !stays(old_at as u32) {
                now[old_at] = at.saturating_sub(1);
                old_at += 1;
            }
            if let Some(now) = now.get_mut(old_at) {
                *now = at;
            }
            old_at += 1;
        }
        now.iter_mut().skip(old_at).for_each(|now| *now = self.list.len() as u32);
        let mut merged = Vec::with_capacity(self.list.len());
        let take = |merged: &mut Vec<u32>, range: &[u32]| {
            merged.extend(range.iter().filter(|at| stays(**at)).map(|at| now[*at as usize]));
        };
        let mut rest = &old.by_content[..];
        for at in self.in_order_of_contents(fresh) {
            let content = self.content(at);
            let before = |old_at: &u32| old.content(*old_at).cmp(&content).then(now[*old_at as usize].cmp(&at)).is_lt();
            let (these, others) = rest.split_at(gallop(rest, before));
            take(&mut merged, these);
            merged.push(at);
            rest = others;
        }
        take(&mut merged, rest);
        merged
    }

    /// The catalogs that have any entries, sorted by node.
    pub fn parties(&self) -> &[Party] {
        &self.parties
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Everything that is made of the copies.
    #[cfg(test)]
    pub fn list(&self) -> (Vec<(usize, u32, u32)>, &[u32]) {
        (self.list.iter().map(|claim| (claim.party(), claim.place, claim.marks())).collect(), &self.by_content)
    }

    /// Bytes that it takes beside the copies.
    pub fn bytes(&self) -> usize {
        self.list.capacity() * size_of::<Claim>() + self.by_content.capacity() * size_of::<u32>()
    }

    /// The end of the claims that have the path of the one at `at`.
    pub fn end_of_path(&self, at: usize) -> usize {
        self.end_of(at, SAME_PATH)
    }

    /// The end of the claims that have the path and the content of the one at `at`.
    pub fn end_of_content(&self, at: usize) -> usize {
        self.end_of(at, SAME_CONTENT)
    }

    fn end_of(&self, at: usize, mark: u32) -> usize {
        let after = self.list.get(at + 1..).unwrap_or_default();
        at + 1 + after.iter().take_while(|claim| claim.marks() & mark != 0).count()
    }

    /// Whose the claim at `at` is, as a place among the parties.
    pub fn party(&self, at: usize) -> Option<usize> {
        self.list.get(at).map(|claim| claim.party())
    }

    /// How the node of the claim at `at` stands.
    pub fn standing(&self, at: usize) -> Standing {
        self.list.get(at).map_or(Standing::Lapsed, |claim| self.parties[claim.party()].standing)
    }

    /// The path of the claim at `at`.
    pub fn path(&self, at: usize) -> &[u8] {
        self.list.get(at).and_then(|claim| path_of(&self.parties, *claim)).unwrap_or_default()
    }

    /// The entry that the claim at `at` is.
    pub fn entry(&self, at: usize) -> Option<EntryRef<'_>> {
        let claim = self.list.get(at)?;
        self.parties[claim.party()].copy.entry(claim.place)
    }

    /// The content of the claim at `at`.
    pub fn content(&self, at: u32) -> Option<ContentId> {
        content_of(&self.parties, *self.list.get(at as usize)?)
    }

    /// The first claim whose path is not before `path`.
    pub fn first_at(&self, path: &[u8]) -> usize {
        self.list.partition_point(|claim| by_paths(path_of(&self.parties, *claim), Some(path)).is_lt())
    }

    /// The claims of `content`, in the order of paths.
    pub fn of_content(&self, content: &ContentId) -> &[u32] {
        let order = |at: &u32| self.content(*at).cmp(&Some(*content));
        let from = self.by_content.partition_point(|at| order(at).is_lt());
        let len = gallop(&self.by_content[from..], |at| order(at).is_eq());
        &self.by_content[from..from + len]
    }

    /// True if the claims in `range` are the same entries of the same catalogs as those of `other` in `theirs`, by what
    /// [`Claims::common`] says of the two.
    pub fn are(&self, range: Range<usize>, other: &Self, theirs: Range<usize>, common: &[Option<Common>]) -> bool {
        let (Some(ours), Some(theirs)) = (self.list.get(range), other.list.get(theirs)) else { return false };
        let same = |(a, b): (&Claim, &Claim)| {
            let both = |common: Common| common.party == b.party() && a.place < common.places;
            a.place == b.place && common[a.party()].is_some_and(both)
        };
        ours.len() == theirs.len() && ours.iter().zip(theirs).all(same)
    }

    /// For each party here what the same node's copy in `other` has in common with it.
    pub fn common(&self, other: &Self) -> Vec<Option<Common>> {
        let common = |ours: &Party| {
            let party = other.parties.binary_search_by_key(&ours.node(), Party::node).ok()?;
            Some(Common { party, places: ours.copy.common_places(&other.parties[party].copy) })
        };
        self.parties.iter().map(common).collect()
    }

    /// True if it is made of the very same copies.
    pub fn is_of(&self, other: &Self) -> bool {
        self.parties.len() == other.parties.len() && self.parties.iter().all(|party| other.same_party(party).is_some())
    }
}

fn path_of(parties: &[Party], claim: Claim) -> Option<&[u8]> {
    EntryRef::path_of(parties[claim.party()].copy.bytes_at(claim.place))
}

fn content_of(parties: &[Party], claim: Claim) -> Option<ContentId> {
    EntryRef::content_of(parties[claim.party()].copy.bytes_at(claim.place))
}

fn first_bytes(content: &ContentId) -> u64 {
    content.root.0.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

fn compare((of_a, a): (&[Party], Claim), (of_b, b): (&[Party], Claim)) -> Ordering {
    by_paths(path_of(of_a, a), path_of(of_b, b))
        .then_with(|| content_of(of_a, a).cmp(&content_of(of_b, b)))
        .then_with(|| of_a[a.party()].node().cmp(&of_b[b.party()].node()))
}

fn marks_between(parties: &[Party], before: Claim, claim: Claim) -> u32 {
    if path_of(parties, before) != path_of(parties, claim) {
        0
    } else if content_of(parties, before) != content_of(parties, claim) {
        SAME_PATH
    } else {
        SAME_PATH | SAME_CONTENT
    }
}

/// How many at the beginning of `sorted` satisfy `before`: cheap where they are few.
fn gallop<T>(sorted: &[T], before: impl Fn(&T) -> bool) -> usize {
    let mut step = 1;
    while step < sorted.len() && before(&sorted[step - 1]) {
        step *= 2;
    }
    let from = step / 2;
    let until = step.min(sorted.len());
    from + sorted[from..until].partition_point(before)
}

/// Fresh claims are put between those of the parties that are kept.
struct Merging<'a> {
    old: &'a Claims,
    kept: &'a [Option<u32>],
    parties: &'a [Party],
    fresh: &'a [Claim],
}

impl Merging<'_> {
    fn run(&self) -> Vec<Claim> {
        let mut list = Vec::with_capacity(self.parties.iter().map(|party| party.copy.len()).sum());
        let mut from = 0;
        // What an old claim shares with the one before it that is in the list, where that is an old one too.
        let mut shared = None;
        for &claim in self.fresh {
            let before = |old: &Claim| compare((&self.old.parties, *old), (self.parties, claim)).is_lt();
            let until = from + gallop(&self.old.list[from..], before);
            self.keep(from..until, &mut shared, &mut list);
            from = until;
            let marks = list.last().map_or(0, |before| marks_between(self.parties, *before, claim));
            list.push(claim.marked(marks));
            shared = None;
        }
        self.keep(from..self.old.list.len(), &mut shared, &mut list);
        list
    }

    fn keep(&self, range: Range<usize>, shared: &mut Option<u32>, list: &mut Vec<Claim>) {
        for old in &self.old.list[range] {
            // Through those that are gone too: what each shares with the one before it is shared all the way.
            *shared = shared.map(|marks| marks & old.marks());
            let Some(party) = self.kept[old.party()] else { continue };
            let claim = Claim { party, place: old.place };
            let marks = match (*shared, list.last()) {
                (Some(marks), _) => marks,
                (None, Some(before)) => marks_between(self.parties, *before, claim),
                (None, None) => 0,
            };
            list.push(claim.marked(marks));
            *shared = Some(SAME_PATH | SAME_CONTENT);
        }
    }
}
