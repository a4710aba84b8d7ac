//! The vocabulary that every other room speaks: identities, chunk arithmetic, ranges, valid names, time and limits.
//! Imports nothing of ours and does no I/O.

pub mod agenda;
pub mod chunks;
pub mod clock;
pub mod escape;
pub mod ids;
pub mod limits;
pub mod memory;
pub mod metrics;
pub mod names;
pub mod places;
pub mod pool;
pub mod quiet;
pub mod ranges;
pub mod tree;
