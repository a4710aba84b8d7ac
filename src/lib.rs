//! flashget: one folder that holds everything a network's live peers share. The layers, from the bottom up; a module
//! imports only from those above it in this list (`scripts/check-layers` holds to it).

pub mod base;
pub mod settings;
pub mod vault;
pub mod wire;
pub mod catalog;
pub mod cache;
pub mod share;
pub mod net;
pub mod tracker;
pub mod members;
pub mod swarm;
pub mod reader;
pub mod fs;
pub mod fuse;
pub mod control;
pub mod web;
pub mod node;
pub mod cli;
