//! What nodes offer and what the mount shows: entries, signed catalogs, and merging them into the view. Pure: no I/O, no
//! clock of its own.

pub mod body;
pub mod book;
pub mod changes;
pub mod claims;
pub mod copy;
pub mod entry;
#[cfg(test)]
pub mod fixture;
pub mod growing;
pub mod merge;
pub mod own;
pub mod pack;
pub mod room;
pub mod signed;
pub mod sums;
pub mod tree;
