//! What this node offers, as it is asked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::errors::wrong;
use super::{Node, blocking, offline, own_folders};
use crate::base::names::ValidPath;
use crate::control::report::{Event, ShareReport};
use crate::control::text::PathText;
use crate::control::{ControlError, OnEvent};
use crate::share::sharer::{ShareState, ShareStatus};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(100);

/// A folder to offer, as it was asked for.
pub(super) struct Wanted {
    pub dir: PathText,
    pub at: Option<PathText>,
    pub network: Option<String>,
    pub hidden: bool,
    pub wait: bool,
}

impl Node {
    pub(super) async fn share_add(
        self: &Arc<Self>,
        wanted: Wanted,
        on_event: OnEvent<'_>,
    ) -> Result<ShareReport, ControlError> {
        let wait = wanted.wait;
        let node = Arc::clone(self);
        let id = blocking(move || {
            let mut list = node.list.lock();
            // Changed only once it is on disk.
            let mut new = list.clone();
            let share = {
                let (at, network) = (wanted.at.as_ref(), wanted.network.as_deref());
                let dir = wanted.dir.to_path();
                let never = own_folders(&node.home, &node.settings);
                offline::add_share(never, &node.vault.lock(), &mut new, &dir, at, network, wanted.hidden)?
            };
            new.save(&offline::share_list_file(&node.home), &node.sealer).map_err(ControlError::failed)?;
            *list = new;
            let id = share.id;
            node.sharer.add(share);
            node.wanted.store(true, Ordering::Release);
            Ok(id)
        })
        .await?;
        loop {
            let status = self.sharer.status().into_iter().find(|status| status.share.id == id);
            let Some(status) = status else {
                return Err(ControlError::failed("the share was removed meanwhile"));
            };
            let report = self.share_report(&status);
            let settled = !matches!(status.state, ShareState::Scanning | ShareState::Hashing);
            if settled || !wait {
                return Ok(report);
            }
            on_event(Event::Share(report));
            tokio::time::sleep(PROGRESS).await;
        }
    }

    pub(super) fn share_list(&self) -> Vec<ShareReport> {
        self.sharer.status().iter().map(|status| self.share_report(status)).collect()
    }

    pub(super) async fn share_remove(self: &Arc<Self>, dir: PathText) -> Result<(), ControlError> {
        let node = Arc::clone(self);
        blocking(move || {
            let mut list = node.list.lock();
            let mut new = list.clone();
            let removed = new.remove(&dir.to_path()).map_err(wrong)?;
            new.save(&offline::share_list_file(&node.home), &node.sealer).map_err(ControlError::failed)?;
            *list = new;
            removed.iter().for_each(|share| node.sharer.remove(share.id));
            Ok(())
        })
        .await?;
        self.end_if_idle();
        Ok(())
    }

    fn share_report(&self, status: &ShareStatus) -> ShareReport {
        let (state, reason) = match &status.state {
            ShareState::Scanning => ("scanning", None),
            ShareState::Hashing => ("hashing", None),
            ShareState::Watching => ("watching", None),
            ShareState::Polling(reason) => ("polling", Some(reason.clone())),
            ShareState::Failed(reason) => ("failed", Some(reason.clone())),
        };
        ShareReport {
            dir: status.share.dir.as_path().into(),
            at: status.share.at.as_ref().map(|at: &ValidPath| at.as_bytes().into()),
            network: offline::network_name(&self.vault.lock(), status.share.network),
            hidden: status.share.hidden,
            state: state.into(),
            reason,
            files: status.files,
            bytes: status.bytes,
            hashed: status.hashed.0,
            to_hash: status.hashed.1,
            skipped: status.skipped,
        }
    }
}
