//! The mounts of this node: bringing them up, seeing them end, taking them down.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::errors::code_of;
use super::networks::Joined;
use super::{Node, blocking, own_folders};
use crate::base::ids::ContentId;
use crate::control::report::MountReport;
use crate::control::request::MountRequest;
use crate::control::text::PathText;
use crate::control::{ControlError, ErrorCode};
use crate::fs::status::Told;
use crate::fuse::mount::{Mount, MountConfig, unmount};
use crate::members::membership::TrackerState;
use crate::reader::handle::{Origins, ReadLimits, Reader};
use crate::share::mounts::flashget_mounts;

/// A mount that does not answer within this time is taken for one whose daemon hangs.
const PROBE: Duration = Duration::from_secs(2);
/// How long the kernel may take to end what was unmounted; longer, and it lives on in another mount namespace.
const LETS_GO: Duration = Duration::from_secs(5);

/// A mount and what it shows.
pub(super) struct Mounted {
    pub mount: Mount,
    pub joined: Arc<Joined>,
    /// As they were asked for.
    pub options: MountRequest,
    /// It was made in the place of a dead one, and nobody has asked for it yet.
    pub revived: AtomicBool,
}

fn conflict(what: String) -> ControlError {
    ControlError::new(ErrorCode::Conflict, what)
}

/// What `/.flashget/` says.
struct MountFacts {
    node: Weak<Node>,
    joined: Weak<Joined>,
}

impl Told for MountFacts {
    fn facts(&self) -> Vec<(&'static str, String)> {
        let (Some(node), Some(joined)) = (self.node.upgrade(), self.joined.upgrade()) else { return Vec::new() };
        let membership = &joined.membership;
        let tracker =
            |tracker: &TrackerState| format!("{}={}", tracker.address, if tracker.reachable { "up" } else { "away" });
        let trackers: Vec<String> = membership.tracker_states().iter().map(tracker).collect();
        let stats = node.cache.stats();
        vec![
            ("version", env!("CARGO_PKG_VERSION").into()),
            ("network", membership.name().to_owned()),
            ("peers", membership.links().len().to_string()),
            ("trackers", if trackers.is_empty() { "none".into() } else { trackers.join(",") }),
            ("locked", if node.cache.is_locked() { "yes" } else { "no" }.into()),
            ("cache_bytes", stats.disk_bytes.to_string()),
            ("cache_limit", stats.disk_limit.to_string()),
        ]
    }

    fn cached_percent(&self, content: ContentId) -> u8 {
        self.node.upgrade().map_or(0, |node| node.cached_percent(content))
    }
}

/// A mount that is being made; a daemon is not idle meanwhile. Whatever becomes of it, also if nobody waits for it any
/// more, the daemon then looks whether it is needed.
struct UnderWay(Arc<Node>);

impl UnderWay {
    fn begin(node: &Arc<Node>) -> Self {
        node.mounting.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(node))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.mounting.fetch_sub(1, Ordering::AcqRel);
        self.0.end_if_idle();
    }
}

impl Node {
    pub(super) async fn mount(
        self: &Arc<Self>,
        network: Option<&str>,
        dir: &PathText,
        options: &MountRequest,
    ) -> Result<MountReport, ControlError> {
        // Its sender is in the node.
        let _ = self.revived.subscribe().wait_for(|revived| *revived).await;
        let asked = dir.to_path();
        let point = blocking(move || Ok(resolved(&asked))).await?;
        match self.adopt(network, &point, options) {
            Some(report) => Ok(report),
            None => self.mount_anew(network, dir, options).await,
        }
    }

    pub(super) async fn mount_anew(
        self: &Arc<Self>,
        network: Option<&str>,
        dir: &PathText,
        options: &MountRequest,
    ) -> Result<MountReport, ControlError> {
        let _under_way = UnderWay::begin(self);
        let joined = self.network(network)?;
        let asked = dir.to_path();
        let point = blocking(move || mount_point(&asked)).await?;
        if let Some(share) = self.list.lock().overlapping(&point) {
            let (point, share) = (point.display(), share.dir.display());
            return Err(conflict(format!(
                "can't mount on {point}: a mount and the share {share} may not contain each other"
            )));
        }
        let own = own_folders(&self.home, &self.settings);
        if let Some(home) = own.iter().find(|home| home.starts_with(&point) || point.starts_with(home)) {
            let (point, home) = (point.display(), home.display());
            return Err(conflict(format!("can't mount on {point}: flashget keeps its own files in {home}")));
        }
        joined.settle(self.settings.mount.first_view.0).await;
        let mounted = self.bring_up(Arc::clone(&joined), point, options).await?;
        let report = self.mount_report(&mounted);
        let mut ended = mounted.mount.ended();
        self.mounts.lock().push(Arc::clone(&mounted));
        self.wanted.store(true, Ordering::Release);
        let node = Arc::clone(self);
        // Before anything is waited for: whoever asked may go away, and the mount's end must be seen all the same.
        self.runtime.spawn(async move {
            // It may be unmounted by anybody.
            let _ = ended.wait_for(|ended| *ended).await;
            node.mounts.lock().retain(|other| !Arc::ptr_eq(other, &mounted));
            tracing::info!("a mount has ended");
            node.note_mounts().await;
            node.end_if_idle();
            // Dropping it joins what is left of it, which may block.
            let _ = tokio::task::spawn_blocking(move || drop(mounted)).await;
        });
        self.note_mounts().await;
        Ok(report)
    }

    /// A reader of a network's files that behaves as `options` say.
    pub(super) fn reader(&self, joined: &Joined, options: &MountRequest) -> Reader {
        let settings = &self.settings.mount;
        let timeout = options.timeout_ms.map_or(settings.timeout.0, Duration::from_millis);
        let limits = ReadLimits {
            timeout: (!options.hard).then_some(timeout),
            window: options.window.unwrap_or(settings.window.0),
        };
        let origins = Origins {
            network: joined.membership.id(),
            swarm: Arc::clone(&joined.swarm),
            cache: Arc::clone(&self.cache),
            own: Arc::clone(self.sharer.sources()),
            flights: Arc::clone(&joined.flights),
        };
        Reader::new(origins, &self.runtime, limits)
    }

    async fn bring_up(
        self: &Arc<Self>,
        joined: Arc<Joined>,
        point: PathBuf,
        options: &MountRequest,
    ) -> Result<Arc<Mounted>, ControlError> {
        let settings = &self.settings.mount;
        let reader = Arc::new(self.reader(&joined, options));
        let config = MountConfig {
            point,
            source: joined.membership.name().to_owned(),
            allow_other: options.allow_other,
            noexec: options.noexec,
            owner: (options.uid, options.gid),
            umask: options.umask.unwrap_or(0),
            read_ahead_kb: options.read_ahead_kb.unwrap_or(settings.read_ahead_kb),
            xattr: options.xattr,
        };
        let told = Arc::new(MountFacts { node: Arc::downgrade(self), joined: Arc::downgrade(&joined) });
        let (view, runtime, options) = (joined.membership.view(), self.runtime.clone(), options.clone());
        blocking(move || {
            let point = config.point.clone();
            let mount =
                Mount::start(config, view, reader, told, &runtime).map_err(|error| not_mounted(&point, &error))?;
            Ok(Arc::new(Mounted { mount, joined, options, revived: AtomicBool::new(false) }))
        })
        .await
    }

    /// Takes a mount of this node away. One of another daemon is left to the caller.
    pub(super) async fn umount(self: &Arc<Self>, dir: &PathText, force: bool) -> Result<(), ControlError> {
        let point = resolved(&dir.to_path());
        let mounted = self.mounts.lock().iter().find(|mounted| mounted.mount.config().point == point).cloned();
        let Some(mounted) = mounted else {
            let what = format!("flashget is not mounted on {}", dir.shown());
            return Err(ControlError::new(ErrorCode::NotFound, what));
        };
        let shown = dir.shown();
        let mut ended = mounted.mount.ended();
        let going = Arc::clone(&mounted);
        blocking(move || going.mount.unmount(force).map_err(|error| still_mounted(&shown, &error))).await?;
        if !force {
            // A detached mount ends when its last user goes.
            let _ = tokio::time::timeout(LETS_GO, ended.wait_for(|ended| *ended)).await;
        }
        self.mounts.lock().retain(|other| !Arc::ptr_eq(other, &mounted));
        self.end_if_idle();
        Ok(())
    }

    pub(super) fn mount_report(&self, mounted: &Mounted) -> MountReport {
        let membership = &mounted.joined.membership;
        let mut notes = Vec::new();
        for tracker in membership.tracker_states().into_iter().filter(|tracker| !tracker.reachable) {
            let how = match tracker.problem {
                Some(problem) => format!("does not answer ({problem})"),
                None => "has not answered yet".into(),
            };
            notes.push(format!("tracker {} {how}; known peers are used", tracker.address));
        }
        MountReport {
            dir: mounted.mount.config().point.as_path().into(),
            network: membership.name().to_owned(),
            read_ahead_kb: mounted.mount.read_ahead_kb(),
            peers: membership.links().len(),
            files: mounted.joined.view().file_count() as u64,
            notes,
        }
    }
}

/// `dir` without symlinks, resolved without touching its last part, which may be a mount that hangs.
pub(crate) fn resolved(dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize().map(|parent| parent.join(name)).unwrap_or(absolute.clone()),
        _ => absolute,
    }
}

/// Checks that `dir` can be mounted on. A dead mount that is there (its daemon was killed) is detached.
fn mount_point(dir: &Path) -> Result<PathBuf, ControlError> {
    let shown = PathText::from(dir).shown();
    let point = resolved(dir);
    if flashget_mounts().iter().any(|mount| mount.point == point) {
        if !is_dead(&point) {
            return Err(conflict(format!("{shown} is busy: flashget is mounted there already")));
        }
        tracing::warn!("a dead mount is detached");
        unmount(&point, true).map_err(|error| still_mounted(&shown, &error))?;
    }
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => no_folder(&shown),
        _ => ControlError::new(code_of(&error), format!("can't mount on {shown}: {error}")),
    };
    let point = std::fs::canonicalize(&point).map_err(failed)?;
    if !std::fs::metadata(&point).map_err(failed)?.is_dir() {
        return Err(ControlError::invalid(format!("can't mount on {shown}: it is not a folder")));
    }
    let flashget = flashget_mounts();
    if let Some(mount) = flashget.iter().find(|mount| point.starts_with(&mount.point)) {
        return Err(conflict(format!(
            "can't mount on {shown}: it lies in the flashget mount {}",
            mount.point.display()
        )));
    }
    Ok(point)
}

/// True if nobody serves the mount on `point` any more. Asked on a thread of its own, for a daemon may hang.
pub(super) fn is_dead(point: &Path) -> bool {
    let (tell, answer) = std::sync::mpsc::channel();
    let point = point.to_path_buf();
    std::thread::spawn(move || {
        // Not stat(2): the kernel may still know the root's attributes, and answers that by itself.
        let dead = rustix::fs::statvfs(&point).is_err_and(|errno| errno == rustix::io::Errno::NOTCONN);
        // Nobody may wait any more.
        let _ = tell.send(dead);
    });
    answer.recv_timeout(PROBE).unwrap_or(false)
}

fn not_mounted(point: &Path, error: &std::io::Error) -> ControlError {
    // What fusermount3 says may have several lines.
    let said =
        error.to_string().split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let hint = if said.contains("user_allow_other") || said.contains("allow_other") {
        "; write the line user_allow_other into /etc/fuse.conf, or leave allow_other out"
    } else if error.kind() == std::io::ErrorKind::NotFound {
        "; install the package fuse3, and see that /dev/fuse exists"
    } else {
        ""
    };
    ControlError::new(code_of(error), format!("can't mount on {}: {said}{hint}", point.display()))
}

/// There is nothing to mount on.
pub(crate) fn no_folder(shown: &str) -> ControlError {
    ControlError::new(ErrorCode::NotFound, format!("there is no folder {shown} to mount on: make it first"))
}

/// Why something is still mounted, for people.
pub(crate) fn still_mounted(shown: &str, error: &std::io::Error) -> ControlError {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            let what = format!("can't unmount {shown}: only the user who mounted it may, or root");
            ControlError::new(ErrorCode::Denied, what)
        }
        std::io::ErrorKind::ResourceBusy => {
            conflict(format!("{shown} is busy: close what uses it (see fuser -vm {shown}), or use --force"))
        }
        _ => ControlError::failed(format!("can't unmount {shown}: {error}")),
    }
}
