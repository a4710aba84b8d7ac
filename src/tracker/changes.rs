//! The feed of changes of one network, kept as the bytes that answers are made of: an answer is copied, not encoded, and
//! so costs the same for ten thousand askers as for one. Pure.
//!
//! Every change has a position. The older half of the feed is only what is still true (the nodes that are active, in the
//! order of their last changes), the newer half is everything that happened. Whoever asks from within the newer half gets
//! what follows; everybody else, both.

use std::net::SocketAddr;

use rmp::encode::{write_array_len, write_bin, write_bool, write_map_len, write_nil, write_str, write_uint};

use crate::base::ids::NodeId;

/// Changes that are kept in the newer half, and one for each so many nodes: at least half of them are there for whoever
/// was away for a moment. 20 changes a second, as 10,000 nodes may make, are half of this in a minute.
const KEPT: usize = 2048;
const KEPT_PER_NODE: usize = 8;
/// Where the NodeId stands in an encoded change: behind the heads of an array and of 32 bytes.
const NODE_AT: usize = 3;

/// Encoded changes, one after the other, and where each ends.
#[derive(Default)]
struct Segment {
    bytes: Vec<u8>,
    /// Position, and end in `bytes`.
    ends: Vec<(u64, usize)>,
}

impl Segment {
    /// The number of changes at or before a position.
    fn until(&self, position: u64) -> usize {
        self.ends.partition_point(|(at, _)| *at <= position)
    }

    fn start_of(&self, index: usize) -> usize {
        if index == 0 { 0 } else { self.ends[index - 1].1 }
    }

    fn get(&self, index: usize) -> (u64, &[u8]) {
        let (position, end) = self.ends[index];
        (position, &self.bytes[self.start_of(index)..end])
    }

    fn push(&mut self, position: u64, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push((position, self.bytes.len()));
    }

    /// The changes from the one at `from` on that fit into `room` bytes, at least one if `some` says so: as bytes, and the
    /// number behind the last one.
    fn fitting(&self, from: usize, room: usize, some: bool) -> (&[u8], usize) {
        let start = self.start_of(from);
        let fit = from + self.ends[from..].partition_point(|(_, end)| end - start <= room);
        let until = if some { fit.max((from + 1).min(self.ends.len())) } else { fit };
        (&self.bytes[start..self.start_of(until)], until)
    }
}

/// See the module.
#[derive(Default)]
pub struct Changes {
    old: Segment,
    new: Segment,
    at: u64,
    /// Departures at or before this position are forgotten.
    forgotten: u64,
}

/// What one answer carries.
pub struct Page<'a> {
    /// The position of its last change; of the feed, if it reaches its end.
    pub at: u64,
    /// There is more.
    pub more: bool,
    count: usize,
    parts: [&'a [u8]; 2],
}

impl Changes {
    /// The position of the last change.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// What happened at or before this is told only to those who get the whole list.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Adds a change: where the node is now, or that it is gone. Returns its position.
    pub fn push(&mut self, node: NodeId, addrs: Option<&[SocketAddr]>) -> u64 {
        self.at += 1;
        encode_change(node, addrs, &mut self.new.bytes);
        let end = self.new.bytes.len();
        self.new.ends.push((self.at, end));
        self.at
    }

    /// True if it is time for [`Changes::compact`].
    pub fn is_long(&self, nodes: usize) -> bool {
        self.new.ends.len() > KEPT + nodes / KEPT_PER_NODE
    }

    /// Moves the elder half of the newer changes to the older ones, and keeps of those what `is_true` says of the node and the
    /// position.
    pub fn compact(&mut self, is_true: impl Fn(NodeId, u64) -> bool) {
        let half = self.new.ends.len() / 2;
        let mut old = Segment::default();
        let all = (0..self.old.ends.len()).map(|index| self.old.get(index));
        for (position, bytes) in all.chain((0..half).map(|index| self.new.get(index))) {
            if node_of(bytes).is_some_and(|node| is_true(node, position)) {
                old.push(position, bytes);
            }
        }
        let mut new = Segment::default();
        (half..self.new.ends.len()).map(|index| self.new.get(index)).for_each(|(at, bytes)| new.push(at, bytes));
        if let Some((position, _)) = half.checked_sub(1).and_then(|last| self.new.ends.get(last)) {
            self.forgotten = *position;
        }
        (self.old, self.new) = (old, new);
    }

    /// What follows a position, as much of it as `room` bytes carry, and at least one change.
    pub fn page(&self, since: u64, room: usize) -> Page<'_> {
        let (from_old, from_new) = (self.old.until(since), self.new.until(since));
        let (old, until_old) = self.old.fitting(from_old, room, true);
        let (new, until_new) = if until_old == self.old.ends.len() {
            self.new.fitting(from_new, room - old.len().min(room), old.is_empty())
        } else {
            (&[][..], from_new)
        };
        let count = until_old - from_old + until_new - from_new;
        let more = until_old < self.old.ends.len() || until_new < self.new.ends.len();
        let last = match until_new.checked_sub(1) {
            Some(last) if until_new > from_new => self.new.ends.get(last),
            _ => until_old.checked_sub(1).and_then(|last| self.old.ends.get(last)),
        };
        let at = if more { last.map_or(self.at, |(position, _)| *position) } else { self.at };
        Page { at, more, count, parts: [old, new] }
    }
}

/// What stands before the changes in an answer, and behind them.
pub struct Head {
    /// See `wire::message::Announced`, of all of these.
    pub boot: u64,
    #[allow(missing_docs)]
    pub whole: bool,
    #[allow(missing_docs)]
    pub begun: u64,
    #[allow(missing_docs)]
    pub ping_every_ms: u32,
}

impl Page<'_> {
    /// Appends the answer: what `rmp_serde` would make of `Response::Announced`.
    pub fn write(&self, head: &Head, out: &mut Vec<u8>) {
        let parts = self.parts.iter().map(|part| part.len()).sum::<usize>();
        out.reserve(parts + 64);
        // Writing into a Vec does not fail.
        let _ = write_map_len(out, 1);
        let _ = write_str(out, "announced");
        let _ = write_array_len(out, 7);
        let _ = write_uint(out, self.at);
        let _ = write_uint(out, head.boot);
        let _ = write_bool(out, head.whole);
        let _ = write_uint(out, head.begun);
        let _ = write_bool(out, self.more);
        let _ = write_array_len(out, self.count as u32);
        self.parts.iter().for_each(|part| out.extend_from_slice(part));
        let _ = write_uint(out, head.ping_every_ms.into());
    }
}

/// What `rmp_serde` would make of a `TrackedNode`.
fn encode_change(node: NodeId, addrs: Option<&[SocketAddr]>, out: &mut Vec<u8>) {
    // Writing into a Vec does not fail.
    let _ = write_array_len(out, 2);
    let _ = write_bin(out, &node.0);
    let Some(addrs) = addrs else {
        let _ = write_nil(out);
        return;
    };
    let _ = write_array_len(out, addrs.len() as u32);
    for addr in addrs {
        let _ = write_map_len(out, 1);
        let mut octets = |name: &str, octets: &[u8]| {
            let _ = write_str(out, name);
            let _ = write_array_len(out, 2);
            let _ = write_array_len(out, octets.len() as u32);
            for octet in octets {
                let _ = write_uint(out, (*octet).into());
            }
            let _ = write_uint(out, addr.port().into());
        };
        match addr {
            SocketAddr::V4(addr) => octets("V4", &addr.ip().octets()),
            SocketAddr::V6(addr) => octets("V6", &addr.ip().octets()),
        }
    }
}

fn node_of(change: &[u8]) -> Option<NodeId> {
    change.get(NODE_AT..)?.first_chunk().copied().map(NodeId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::{Announced, Response, TrackedNode};

    #[test]
    fn an_answer_is_what_serde_would_make_of_it() {
        let addrs: Vec<SocketAddr> =
            ["10.0.200.1:7450", "[2001:db8::ff]:99", "127.0.0.1:1"].map(|a| a.parse().unwrap()).into();
        let nodes = [
            TrackedNode { node: NodeId([7; 32]), addrs: Some(addrs) },
            TrackedNode { node: NodeId([200; 32]), addrs: None },
            TrackedNode { node: NodeId([8; 32]), addrs: Some(Vec::new()) },
        ];
        let mut changes = Changes::default();
        for tracked in &nodes {
            changes.push(tracked.node, tracked.addrs.as_deref());
        }
        let head = Head { boot: u64::MAX, whole: true, begun: 3, ping_every_ms: 5000 };
        let mut out = Vec::new();
        changes.page(0, 1 << 20).write(&head, &mut out);
        let same = Announced {
            at: 3,
            boot: u64::MAX,
            whole: true,
            begun: 3,
            more: false,
            changes: nodes.into(),
            ping_every_ms: 5000,
        };
        assert_eq!(out, rmp_serde::to_vec(&Response::Announced(same)).unwrap());
    }

    #[test]
    fn a_page_is_never_empty_while_there_is_more_and_goes_on_where_the_last_one_ended() {
        let mut changes = Changes::default();
        for tag in 0..20 {
            changes.push(NodeId([tag; 32]), (tag % 3 > 0).then_some(&[]));
        }
        changes.compact(|node, _| node.0[0] % 3 > 0);
        assert_eq!(changes.forgotten(), 10);
        for room in [0, 50, 100, 10_000] {
            let (mut since, mut seen) = (0, 0);
            loop {
                let page = changes.page(since, room);
                assert!(page.at > since && page.count > 0);
                assert!(page.count == 1 || page.parts.concat().len() <= room);
                (since, seen) = (page.at, seen + page.count);
                if !page.more {
                    break;
                }
            }
            assert_eq!((since, seen), (20, 16), "of the elder half, only what is true");
        }
        assert_eq!(changes.page(20, 100).count, 0);
    }
}
