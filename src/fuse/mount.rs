//! One mount: bringing it up, keeping the kernel's memory true, taking it down.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fuser::{Config, INodeNo, MountOption, Notifier, Session, SessionACL};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::adapter::{Adapter, Owner};
use super::invalidation::Invalidation;
use crate::catalog::tree::ViewTree;
use crate::fs::files::Files;
use crate::fs::status::Told;
use crate::reader::contents::Contents;
use crate::share::mounts::{FS_TYPE, flashget_mounts};

/// Threads that take requests from the kernel. They only dispatch, and copy what is in RAM.
const THREADS: usize = 4;

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountConfig {
    /// Where; absolute.
    pub point: PathBuf,
    /// What `mount` shows as the source: the network's name.
    pub source: String,
    /// Other users may enter.
    pub allow_other: bool,
    /// Nothing in it may be executed.
    pub noexec: bool,
    /// Who files seem to belong to; whoever runs this, if not said.
    pub owner: (Option<u32>, Option<u32>),
    /// Permission bits that files and folders don't have.
    pub umask: u16,
    /// The kernel's read-ahead in KiB, where it may be set.
    pub read_ahead_kb: u32,
    /// Extended attributes tell what is known of each file.
    pub xattr: bool,
}

/// A live mount. Dropping it detaches it.
pub struct Mount {
    config: MountConfig,
    follower: tokio::task::JoinHandle<()>,
    invalidation: Arc<Invalidation>,
    ended: watch::Receiver<bool>,
    /// Taken away by this process: what is mounted there now, if anything, is another one.
    detached: AtomicBool,
    /// It was taken away by force: its reads fail from then on.
    given_up: watch::Sender<bool>,
    read_ahead_kb: Option<u32>,
    files: Arc<Files>,
    notifier: Notifier,
}

impl Mount {
    /// Mounts. Blocks until the kernel has it.
    pub fn start(
        config: MountConfig,
        mut view: watch::Receiver<Arc<ViewTree>>,
        contents: Arc<dyn Contents>,
        told: Arc<dyn Told>,
        runtime: &Handle,
    ) -> io::Result<Self> {
        let first = view.borrow_and_update().clone();
        let files = Arc::new(Files::new(first, contents).with_status(told));
        let owner = Owner {
            uid: config.owner.0.unwrap_or_else(|| rustix::process::geteuid().as_raw()),
            gid: config.owner.1.unwrap_or_else(|| rustix::process::getegid().as_raw()),
            umask: config.umask,
        };
        let given_up = watch::channel(false).0;
        let adapter = Adapter::new(Arc::clone(&files), runtime.clone(), owner, given_up.subscribe(), config.xattr);
        let session = open_session(adapter, &config)?;
        let invalidation = Arc::new(Invalidation::default());
        let (notifier, work) = (session.notifier(), Arc::clone(&invalidation));
        let own_notifier = session.notifier();
        std::thread::Builder::new().name("fg-inval".into()).spawn(move || work.tell(&notifier))?;
        // Ends as well when somebody else unmounts.
        let (end, ended) = watch::channel(false);
        let work = Arc::clone(&invalidation);
        std::thread::Builder::new().name("fg-mount".into()).spawn(move || {
            if let Err(error) = session.run() {
                tracing::warn!(%error, "a mount ended");
            }
            work.close();
            end.send_replace(true);
        })?;
        let follower = runtime.spawn(follow(view, Arc::clone(&files), Arc::clone(&invalidation)));
        let read_ahead_kb = raise_read_ahead(&config);
        let detached = AtomicBool::new(false);
        Ok(Self {
            config,
            follower,
            invalidation,
            ended,
            detached,
            given_up,
            read_ahead_kb,
            files,
            notifier: own_notifier,
        })
    }

    /// How it was mounted.
    pub fn config(&self) -> &MountConfig {
        &self.config
    }

    /// Has the kernel forget all bytes that it has of files, those that are mapped included. Blocks: the kernel waits for
    /// reads that are under way.
    pub fn forget_contents(&self) {
        for inode in self.files.take_seen() {
            // From the first byte to the last. ENOENT: there was nothing.
            let _ = self.notifier.inval_inode(INodeNo(inode), 0, 0);
        }
    }

    /// The kernel's read-ahead for it, in KiB, if that is known.
    pub fn read_ahead_kb(&self) -> Option<u32> {
        self.read_ahead_kb
    }

    /// True once the kernel has let go of it.
    pub fn ended(&self) -> watch::Receiver<bool> {
        self.ended.clone()
    }

    /// Unmounts. Without `force`, a mount that is in use stays and an error says so; with it, it is detached at once,
    /// and reads that wait end with an error. Blocks.
    pub fn unmount(&self, force: bool) -> io::Result<()> {
        if *self.ended.borrow() || self.detached.load(Ordering::Acquire) {
            return Ok(());
        }
        unmount(&self.config.point, force)?;
        self.given_up.send_if_modified(|given_up| !std::mem::replace(given_up, force) && force);
        self.detached.store(true, Ordering::Release);
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.follower.abort();
        self.invalidation.close();
        if let Err(error) = self.unmount(true) {
            tracing::warn!(%error, "unmounting failed");
        }
    }
}

/// Mounts, and shakes hands with the kernel. Root asks the kernel itself, others by fusermount3.
fn open_session(adapter: Adapter, config: &MountConfig) -> io::Result<Session<Adapter>> {
    let mut options = Config::default();
    options.acl = if config.allow_other { SessionACL::All } else { SessionACL::Owner };
    options.n_threads = Some(THREADS);
    options.clone_fd = true;
    if let Some(device) = mount_as_root(config)? {
        return Session::from_fd(adapter, device, options.acl, options)
            .inspect_err(|_| drop(unmount(&config.point, true)));
    }
    options.mount_options = vec![
        MountOption::FSName(escaped(&config.source)),
        MountOption::Subtype("flashget".into()),
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::DefaultPermissions,
    ];
    if config.noexec {
        options.mount_options.push(MountOption::NoExec);
    }
    Session::new(adapter, &config.point, &options)
}

/// fusermount3 takes its options in one list with commas between them.
fn escaped(source: &str) -> String {
    source.replace('\\', "\\\\").replace(',', "\\,")
}

/// Mounts without fusermount3, which fuser would do too, but as a plain `fuse`: then nobody, this program included, could
/// tell the mount for one of flashget. `None` where this user may not mount.
fn mount_as_root(config: &MountConfig) -> io::Result<Option<OwnedFd>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // 40000: a folder (stat(2), in octal).
    let mut data = format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions", device.as_raw_fd());
    if config.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::NOEXEC, config.noexec);
    match rustix::mount::mount(config.source.as_str(), &config.point, FS_TYPE, flags, CString::new(data)?.as_c_str()) {
        Ok(()) => Ok(Some(device)),
        // Root in a container without the right to mount: fusermount3 may be allowed to.
        Err(rustix::io::Errno::PERM) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// A mount that was in use a moment ago is tried again for this long: whoever closes the last file of it and unmounts in
/// one breath (a script, a test) is sometimes quicker than the kernel lets go.
const BUSY: (u32, Duration) = (20, Duration::from_millis(50));

/// Takes a mount away, whoever made it; one that is in use stays, unless `force` is set. Blocks, for a second at most.
pub fn unmount(point: &Path, force: bool) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match unmount_once(point, force) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries < BUSY.0 => {
                tries += 1;
                std::thread::sleep(BUSY.1);
            }
            ended => return ended,
        }
    }
}

/// Root does it itself, others by fusermount3.
fn unmount_once(point: &Path, force: bool) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let flags = if force { UnmountFlags::DETACH | UnmountFlags::FORCE } else { UnmountFlags::empty() };
        return Ok(rustix::mount::unmount(point, flags | UnmountFlags::NOFOLLOW)?);
    }
    // Once it is detached, the mount table does not tell any more which connection it was.
    let connection = if force { connection_of(point) } else { None };
    let mut command = Command::new("fusermount3");
    command.arg(if force { "-uz" } else { "-u" }).arg("--").arg(point);
    let output = command.output()?;
    if output.status.success() {
        if let Some(abort) = connection
            && let Err(error) = std::fs::write(&abort, "1")
        {
            // Somebody else's mount, or one that has ended already.
            tracing::debug!(%error, "the connection of a detached mount can't be ended");
        }
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    // It tells why in words only. What others have mounted is not in its list.
    let kind = match () {
        () if said.contains("busy") => io::ErrorKind::ResourceBusy,
        () if said.contains("not permitted") || said.contains("not found in") => io::ErrorKind::PermissionDenied,
        () => io::ErrorKind::Other,
    };
    Err(io::Error::new(kind, said.trim().to_owned()))
}

/// What ends the connection of the mount on `point` for whoever writes to it, as its owner may: the kernel then answers all
/// requests under way with an error. fusermount3 only detaches, and a read that waits would go on waiting.
fn connection_of(point: &Path) -> Option<PathBuf> {
    let mount = flashget_mounts().into_iter().rev().find(|mount| mount.point == point)?;
    let (major, minor) = mount.device.split_once(':')?;
    // Of an anonymous device, whose number is its minor one.
    (major == "0").then(|| Path::new("/sys/fs/fuse/connections").join(minor).join("abort"))
}

/// Between two views this many times what the last one took, so that following takes a tenth of one core at most.
const PAUSE: u32 = 9;

/// Puts each new view in place and passes on what the kernel must forget.
async fn follow(mut view: watch::Receiver<Arc<ViewTree>>, files: Arc<Files>, invalidation: Arc<Invalidation>) {
    while view.changed().await.is_ok() && invalidation.room().await {
        let new = view.borrow_and_update().clone();
        let files = Arc::clone(&files);
        let replace = move || {
            let began = Instant::now();
            (files.replace(new), began.elapsed())
        };
        let Ok((stale, took)) = tokio::task::spawn_blocking(replace).await else { return };
        invalidation.add(stale);
        tokio::time::sleep(took.saturating_mul(PAUSE)).await;
    }
}

/// Raises the kernel's read-ahead where permitted: the largest lever on streaming speed (measured). Returns what is in force.
fn raise_read_ahead(config: &MountConfig) -> Option<u32> {
    let point = config.point.canonicalize().ok()?;
    let mount = flashget_mounts().into_iter().rev().find(|mount| mount.point == point)?;
    let file = format!("/sys/class/bdi/{}/read_ahead_kb", mount.device);
    if let Err(error) = std::fs::write(&file, config.read_ahead_kb.to_string()) {
        tracing::info!(%error, "the kernel's read-ahead stays at its default: reading will be slower than it could be");
    }
    std::fs::read_to_string(&file).ok()?.trim().parse().ok()
}
