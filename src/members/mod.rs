//! Who is alive, what they offer, and the view that comes of it.

mod calling;
mod calls;
mod catalogs;
pub mod clocks;
pub mod comparing;
mod dialling;
mod fetching;
pub mod gossip;
mod gossiping;
pub mod known;
pub mod lag;
pub mod membership;
pub mod neighbours;
#[cfg(test)]
mod pair;
pub mod pending;
mod publishing;
pub mod roster;
#[cfg(test)]
mod sim;
mod trackers;
mod viewing;
