//! What is said between nodes, and how it is put into bytes. No sockets. docs/WIRE.md describes it to the byte.

pub mod compress;
pub mod frame;
pub mod message;
