//! Who brings what: the section table (pure), what is known of each source's speed (pure), and the transfer that drives
//! them over [`crate::net::link::PeerLink`]s. Never a socket.

pub mod pace;
pub mod report;
pub mod sections;
pub mod swarm;
pub mod transfer;
pub mod uploads;

#[cfg(test)]
mod sections_tests;
