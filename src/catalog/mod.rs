//! What nodes offer and what the mount shows: entries, signed catalogs, and merging them into the view. Pure: no I/O, no
//! clock of its own.

pub mod entry;
pub mod tree;
