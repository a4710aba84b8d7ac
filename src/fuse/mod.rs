//! The adapter to fuser: it translates, dispatches on FUSE threads, and replies from async tasks where bytes have to be
//! fetched. A FUSE thread never waits for the network.

mod adapter;
mod invalidation;
pub mod mount;
