//! The nodes that gossip has told of, each under a short number: SWIM's tables are looked through from end to end at each
//! message, and so should be small.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::base::ids::NodeId;

/// Nodes that are remembered: a hostile member can't fill memory.
const MAX_NODES: usize = 100_000;

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
#[derive(Debug, Default)]
pub struct Directory {
    cards: Vec<Card>,
    numbers: HashMap<NodeId, u32>,
}

impl Directory {
    /// Somebody tells of `node`, in a generation, at an address. `None`: there are too many.
    pub fn meet(&mut self, node: NodeId, generation: u32, claimed: SocketAddr) -> Option<Life> {
        let number = match self.numbers.get(&node) {
            Some(number) => {
                let card = self.cards.get_mut(*number as usize)?;
                if generation >= card.generation && !claimed.ip().is_unspecified() {
                    if card.claimed != claimed {
                        card.heard = None;
                    }
                    (card.generation, card.claimed) = (generation, claimed);
                }
                *number
            }
            None if self.cards.len() >= MAX_NODES => return None,
            None => {
                let number = self.cards.len() as u32;
                self.cards.push(Card { node, claimed, heard: None, sent: 0, generation });
                self.numbers.insert(node, number);
                number
            }
        };
        Some(Life { number, generation })
    }

    /// A datagram of this node, sent at that time, came from there. An older one than the newest says nothing: who recorded
    /// it may send it again from anywhere.
    pub fn heard(&mut self, number: u32, from: SocketAddr, sent: u32) {
        if let Some(card) = self.cards.get_mut(number as usize)
            && sent > card.sent
        {
            (card.heard, card.sent) = (Some(from), sent);
        }
    }

    /// The node of this number.
    pub fn card(&self, number: u32) -> Option<&Card> {
        self.cards.get(number as usize)
    }

    /// The number of a node that was met.
    pub fn number(&self, node: &NodeId) -> Option<u32> {
        self.numbers.get(node).copied()
    }
}
