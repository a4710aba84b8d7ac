//! The node's keys: what they are, how they are locked, and sealing and opening with them.

pub mod keys;
pub mod sealer;
