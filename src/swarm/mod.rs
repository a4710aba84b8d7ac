//! Who brings what: the section table and the planner (pure), what is known of each source's speed (pure), and the
//! transfer that drives them over [`crate::net::link::PeerLink`]s. Never a socket.

pub mod download;
pub mod downloaders;
pub mod pace;
pub mod planner;
mod proving;
pub mod quarantine;
pub mod rarity;
pub mod report;
pub mod sections;
mod small;
mod source;
mod state;
#[allow(clippy::module_inception)] // All of its transfers: that is what a swarm is.
pub mod swarm;
pub mod transfer;
pub mod uploads;

#[cfg(test)]
mod sections_tests;
#[cfg(test)]
mod sim;
