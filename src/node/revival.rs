//! Mounts that a daemon had when it was killed are dead: nobody answers for them. The list of them is kept while the
//! daemon runs, and one that is started in its place (by systemd, say) makes them anew.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::mounts::{Mounted, is_dead};
use super::{Node, blocking};
use crate::control::ControlError;
use crate::control::report::MountReport;
use crate::control::request::MountRequest;
use crate::control::text::PathText;
use crate::share::mounts::flashget_mounts;
use crate::vault::store::write_in_place;

const PURPOSE: &str = "mounts";

/// One mount, as it was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Had {
    network: String,
    point: PathText,
    options: MountRequest,
}

impl Node {
    /// [`Node::save_mounts`], off tokio's workers.
    pub(super) async fn note_mounts(self: &Arc<Self>) {
        let node = Arc::clone(self);
        // A failure is in the log.
        let _ = tokio::task::spawn_blocking(move || node.save_mounts()).await;
    }

    /// Writes down which mounts there are. Blocks on the disk. A failure costs no more than a mount that stays dead.
    pub(super) fn save_mounts(&self) {
        // One after the other, each with what there is by then.
        let file = self.mounts_file.lock();
        let mounts = self.mounts.lock().clone();
        let had = |mounted: &Arc<Mounted>| Had {
            network: mounted.joined.membership.name().to_owned(),
            point: mounted.mount.config().point.as_path().into(),
            options: mounted.options.clone(),
        };
        let had: Vec<Had> = mounts.iter().map(had).collect();
        let saved = if had.is_empty() {
            match std::fs::remove_file(&*file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        } else {
            let plain = rmp_serde::to_vec_named(&had).map_err(std::io::Error::other);
            let sealed = plain.and_then(|plain| self.sealer.seal(PURPOSE, &[], &plain).map_err(std::io::Error::other));
            sealed.and_then(|sealed| write_in_place(&file, &[&sealed]))
        };
        if let Err(error) = saved {
            tracing::warn!(%error, "the list of mounts can't be saved: after a crash they stay dead");
        }
    }

    /// Makes the mounts anew that a daemon before this one had when it was killed. Then others may mount.
    pub(super) async fn revive(self: Arc<Self>) {
        let node = Arc::clone(&self);
        let dead = blocking(move || {
            let read = || {
                let plain = node.sealer.open(PURPOSE, &[], &std::fs::read(&*node.mounts_file.lock()).ok()?).ok()?;
                rmp_serde::from_slice::<Vec<Had>>(&plain).ok()
            };
            let there = flashget_mounts();
            let is_there = |had: &Had| there.iter().any(|mount| mount.point == had.point.to_path());
            let had = read().unwrap_or_default().into_iter();
            Ok::<_, ControlError>(had.filter(|had| is_there(had) && is_dead(&had.point.to_path())).collect::<Vec<_>>())
        });
        for had in dead.await.unwrap_or_default() {
            match self.mount_anew(Some(&had.network), &had.point, &had.options).await {
                Ok(_) => {
                    let point = had.point.to_path();
                    let mounts = self.mounts.lock();
                    let revived = mounts.iter().find(|mounted| mounted.mount.config().point == point);
                    revived.into_iter().for_each(|mounted| mounted.revived.store(true, Ordering::Release));
                    tracing::info!("a mount whose daemon was killed is live again");
                }
                Err(error) => tracing::warn!(%error, "a mount whose daemon was killed stays dead"),
            }
        }
        self.revived.send_replace(true);
    }

    /// Whoever asks for a mount that was made anew already, with the same options, gets that one. Once: who asks again is
    /// told that it is there.
    pub(super) fn adopt(
        &self,
        network: Option<&str>,
        point: &std::path::Path,
        options: &MountRequest,
    ) -> Option<MountReport> {
        let mounted = self.mounts.lock().iter().find(|mounted| mounted.mount.config().point == point).cloned()?;
        let same = network.is_none_or(|name| name == mounted.joined.membership.name()) && *options == mounted.options;
        (same && mounted.revived.swap(false, Ordering::AcqRel)).then(|| self.mount_report(&mounted))
    }
}
