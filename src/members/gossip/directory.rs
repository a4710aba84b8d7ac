//! The nodes that gossip has told of, each under a short number: SWIM's tables are looked through from end to end at each
//! message, and so should be small.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::base::ids::NodeId;
use crate::vault::datagram::WINDOW;

/// Nodes that are remembered: a hostile member can't fill memory.
const MAX_NODES: usize = 100_000;
/// Beyond that, so many with which there is a session: as many as there may be sessions. A hostile member can't keep them out.
const PEERS: usize = crate::base::limits::MAX_SESSIONS;
/// One part in so many should be free.
const FREE: usize = 5;

/// One run of a node, as SWIM knows it: a node that restarts, or that was declared dead in error, begins a new generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    /// The node's number in the directory.
    pub number: u32,
    /// Seconds since 1970 when it began, more or less: what is newer is greater.
    pub generation: u32,
}

impl foca::Identity for Life {
    type Addr = u32;

    fn renew(&self) -> Option<Self> {
        Some(Self { number: self.number, generation: self.generation.saturating_add(1) })
    }

    fn addr(&self) -> u32 {
        self.number
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.generation > adversary.generation
    }
}

/// What is known of one node.
#[derive(Clone, Debug)]
pub struct Card {
    /// Who.
    pub node: NodeId,
    /// Where it says, or others say, that it can be reached, in the newest generation that was heard of.
    pub claimed: SocketAddr,
    /// Where its newest datagram came from: through a translating router that is the only way back.
    pub heard: Option<SocketAddr>,
    /// When that was sent, by the node's clock.
    sent: u32,
    /// The newest that was heard of.
    pub generation: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Directory {
    cards: Vec<Option<Card>>,
    numbers: HashMap<NodeId, u32>,
    room: usize,
    /// Numbers that are nobody's, and those that have just become so: a timer or a message may still name them.
    free: Vec<u32>,
    resting: Vec<u32>,
}

impl Default for Directory {
    fn default() -> Self {
        Self::with_room(MAX_NODES)
    }
}

impl Directory {
    /// For so many nodes, and for peers with a session.
    pub fn with_room(room: usize) -> Self {
        Self { cards: Vec::new(), numbers: HashMap::new(), room, free: Vec::new(), resting: Vec::new() }
    }

    /// Somebody tells of `node`, in a generation, at an address. `None`: there are too many.
    pub fn meet(&mut self, node: NodeId, generation: u32, claimed: SocketAddr) -> Option<Life> {
        self.meet_within(self.room, node, generation, claimed)
    }

    /// The same of a node with which there is a session.
    pub fn meet_peer(&mut self, node: NodeId, generation: u32, claimed: SocketAddr) -> Option<Life> {
        self.meet_within(self.room + PEERS, node, generation, claimed)
    }

    fn meet_within(&mut self, room: usize, node: NodeId, generation: u32, claimed: SocketAddr) -> Option<Life> {
        let number = match self.numbers.get(&node) {
            Some(number) => {
                let card = self.cards.get_mut(*number as usize)?.as_mut()?;
                if generation >= card.generation && !claimed.ip().is_unspecified() {
                    if card.claimed != claimed {
                        card.heard = None;
                    }
                    (card.generation, card.claimed) = (generation, claimed);
                }
                *number
            }
            None if self.numbers.len() >= room => return None,
            None => {
                let card = Some(Card { node, claimed, heard: None, sent: 0, generation });
                let free = self.free.pop();
                let number = match free.and_then(|free| self.cards.get_mut(free as usize)) {
                    Some(place) => {
                        *place = card;
                        free?
                    }
                    None => {
                        self.cards.push(card);
                        self.cards.len() as u32 - 1
                    }
                };
                self.numbers.insert(node, number);
                number
            }
        };
        Some(Life { number, generation })
    }

    /// A datagram of this node, sent at that time, came from there. An older one than the newest says nothing: who recorded
    /// it may send it again from anywhere.
    pub fn heard(&mut self, number: u32, from: SocketAddr, sent: u32) {
        if let Some(Some(card)) = self.cards.get_mut(number as usize)
            && sent > card.sent
        {
            (card.heard, card.sent) = (Some(from), sent);
        }
    }

    /// The node of this number.
    pub fn card(&self, number: u32) -> Option<&Card> {
        self.cards.get(number as usize)?.as_ref()
    }

    /// Keeps those whom `keep` says, by number and node, and those of whom a recorded datagram may still be sent again.
    pub fn retain(&mut self, wall: u32, keep: impl Fn(u32, &NodeId) -> bool) {
        self.free.append(&mut self.resting);
        let recorded =
            |card: &Card| card.sent != 0 && u64::from(wall.saturating_sub(card.sent)) <= 2 * WINDOW.as_secs();
        let cards = self.cards.iter().enumerate().filter_map(|(number, card)| Some((number as u32, card.as_ref()?)));
        let gone = cards.filter(|(number, card)| !recorded(card) && !keep(*number, &card.node));
        let gone: Vec<u32> = gone.map(|(number, _)| number).collect();
        gone.into_iter().for_each(|number| self.forget(number));
    }

    /// Forgets a node.
    pub fn forget(&mut self, number: u32) {
        if let Some(card) = self.cards.get_mut(number as usize).and_then(Option::take) {
            self.numbers.remove(&card.node);
            self.resting.push(number);
        }
    }

    /// How many should be forgotten, for there to be room for those who come.
    pub fn excess(&self) -> usize {
        self.numbers.len().saturating_sub(self.room - self.room / FREE)
    }

    /// The number of a node that was met.
    pub fn number(&self, node: &NodeId) -> Option<u32> {
        self.numbers.get(node).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u32) -> NodeId {
        NodeId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn a_member_that_tells_of_many_keeps_no_peer_out_and_numbers_are_used_again_late() {
        let addr = ([10, 0, 0, 1], 1).into();
        let mut directory = Directory::with_room(10);
        let lives: Vec<Option<Life>> = (0..20).map(|number| directory.meet(node(number), 1, addr)).collect();
        assert!(lives[..10].iter().all(Option::is_some) && lives[10..].iter().all(Option::is_none));
        assert_eq!(directory.excess(), 2, "a fifth is to be free");
        assert!(directory.meet_peer(node(50), 1, addr).is_some(), "a peer is not kept out");
        assert_eq!(directory.meet(node(3), 2, addr).map(|life| life.generation), Some(2), "nor who was known before");

        // Its last datagram could still be sent again by who recorded it: what is known of it is kept until it is too old.
        directory.heard(4, addr, 1_000_000);
        directory.retain(1_000_000, |number, _| number < 2);
        assert_eq!(directory.numbers.len(), 3);
        directory.retain(1_000_000 + 2 * WINDOW.as_secs() as u32 + 1, |number, _| number < 2);
        assert_eq!(directory.numbers.len(), 2);
        assert!(directory.number(&node(4)).is_none() && directory.card(4).is_none());
        // Something may still be under way that names an old number.
        let new = directory.meet(node(60), 1, addr).unwrap();
        assert!(new.number != 4);
        directory.retain(2_000_000, |_, _| true);
        let again = directory.meet(node(61), 1, addr).unwrap();
        assert!(again.number <= 10 && directory.card(again.number).unwrap().node == node(61));
    }
}
