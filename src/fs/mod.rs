//! The file system as such: inodes, names, attributes, handles. No fuser types, no network: metadata comes from the
//! view in memory, bytes from [`crate::reader::contents::Contents`].

pub mod files;
pub mod inodes;
pub mod status;
mod walk;
