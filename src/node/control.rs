//! The node answers what the command line and the page ask.

use std::sync::Arc;

use async_trait::async_trait;

use super::getting::Wanted;
use super::shares;
use super::{Node, offline};
use crate::control::text::PathText;
use crate::control::{Control, ControlError, OnEvent, Opened, Report, Request};

/// A node, as those who ask it see it.
pub(super) struct NodeControl(pub Arc<Node>);

#[async_trait]
impl Control for NodeControl {
    async fn call(&self, request: Request, on_event: OnEvent<'_>) -> Result<Report, ControlError> {
        let node = &self.0;
        Ok(match request {
            Request::Status => Report::Status(Box::new(node.status())),
            Request::Stop => {
                node.ask_to_stop();
                Report::Done
            }
            Request::NetworkCreate { name, trackers } => Report::Invite(node.network_create(&name, &trackers).await?),
            Request::NetworkJoin { invite } => Report::Network(node.network_join(&invite).await?),
            Request::NetworkList => Report::Networks(node.network_list()),
            Request::NetworkInvite { name, for_tracker } => {
                Report::Invite(offline::write_invite(&node.vault.lock(), &name, for_tracker)?)
            }
            Request::NetworkLeave { name } => {
                node.network_leave(&name).await?;
                Report::Done
            }
            Request::ShareAdd { dir, at, network, hidden, wait } => {
                let wanted = shares::Wanted { dir, at, network, hidden, wait };
                Report::Share(node.share_add(wanted, on_event).await?)
            }
            Request::ShareList => Report::Shares(node.share_list()),
            Request::ShareRemove { dir } => {
                node.share_remove(dir).await?;
                Report::Done
            }
            Request::Mount { network, dir, options } => {
                Report::Mount(node.mount(network.as_deref(), &dir, &options).await?)
            }
            Request::Umount { dir, force } => {
                node.umount(&dir, force).await?;
                Report::Done
            }
            Request::List { path, network, recursive } => {
                Report::Entries(node.list(path.as_ref(), network.as_deref(), recursive)?)
            }
            Request::Stat { path, network } => Report::Entry(Box::new(node.stat(&path, network.as_deref())?)),
            Request::Peers => Report::Peers(node.peers()),
            Request::Transfers => Report::Transfers(node.transfers()),
            Request::Get { paths, dest, network } => {
                Report::Got(node.get(Wanted { paths, dest: dest.to_path(), network }, on_event).await?)
            }
            Request::Lock => {
                node.lock_vault().await?;
                Report::Done
            }
            Request::Unlock { by } => {
                node.unlock_vault(by).await?;
                Report::Done
            }
            Request::Rekey { old, new } => {
                node.rekey_vault(old, new).await?;
                Report::Done
            }
            Request::CacheList => Report::Cached(node.cache_list().await?),
            Request::CachePin { paths, network } => Report::Kept(node.cache_pin(paths, network, on_event).await?),
            Request::CacheUnpin { paths, network } => Report::Kept(node.cache_unpin(paths, network).await?),
            Request::CacheEvict { paths, network } => Report::Kept(node.cache_evict(paths, network).await?),
            Request::CacheClear { pinned } => Report::Kept(node.cache_clear(pinned).await?),
            Request::CacheVerify => Report::Checked(node.cache_verify(on_event).await?),
            Request::CacheResize { bytes } => {
                node.cache_resize(bytes).await?;
                Report::Done
            }
            Request::Read { .. } => return Err(ControlError::invalid("read is answered on the socket alone")),
            Request::Limits { upload, download, upload_slots } => {
                Report::Limits(node.limits(upload, download, upload_slots))
            }
        })
    }

    async fn open(&self, path: &PathText, network: Option<&str>) -> Result<Opened, ControlError> {
        self.0.open(path, network)
    }
}
