//! What nodes offer and what the mount shows: entries, signed catalogs, and merging them into the view. Pure: no I/O, no
//! clock of its own.

pub mod book;
pub mod copy;
pub mod entry;
pub mod merge;
pub mod own;
pub mod signed;
pub mod sums;
pub mod tree;
