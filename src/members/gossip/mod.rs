//! Who is alive, told from node to node: SWIM over datagrams. Pure: no socket, no clock of its own.

pub mod directory;
mod letters;
pub mod swim;
