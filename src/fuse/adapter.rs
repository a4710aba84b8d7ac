//! `fuser::Filesystem` over [`Files`].

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::fs::files::{Attributes, Files, FolderEntry, FsError, Opened};
use crate::reader::contents::ReadError;

/// The kernel may remember names and attributes for this long: it is told when they change.
const TTL: Duration = Duration::from_secs(3600);
/// Requests that the kernel may have open in the background. With fuser's default of 16, as many readers of
/// unreachable files stop every other read (measured).
const MAX_BACKGROUND: u16 = 512;
/// The largest read: one chunk, so that most reads lie in one and are answered from where it lies, without a copy.
const MAX_READ: u32 = 256 * 1024;
const BLOCK: u32 = 4096;

/// See the module.
pub struct Adapter {
    files: Arc<Files>,
    runtime: Handle,
    owner: Owner,
    given_up: watch::Receiver<bool>,
    /// Extended attributes are answered.
    xattr: bool,
}

/// Who files seem to belong to, and which permission bits they don't have.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    pub umask: u16,
}

fn errno(error: FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::Stale => Errno::ESTALE,
        FsError::NotAFolder => Errno::ENOTDIR,
        FsError::IsAFolder => Errno::EISDIR,
        FsError::BadHandle => Errno::EBADF,
        FsError::ReadOnly => Errno::EROFS,
        FsError::Read(ReadError::NoSource | ReadError::Local) => Errno::EIO,
        FsError::Read(ReadError::Gone) => Errno::ESTALE,
        FsError::Read(ReadError::TimedOut) => Errno::ETIMEDOUT,
        FsError::Read(ReadError::Locked) => Errno::EACCES,
    }
}

/// How long the kernel may remember these.
fn ttl(attributes: &Attributes) -> Duration {
    if attributes.passing { Duration::ZERO } else { TTL }
}

impl Adapter {
    /// Shows `files` as `owner`'s. Once `given_up` is true every read fails, those that wait too: where the kernel only
    /// detaches a mount that is in use (an ordinary user can't ask for more), it would otherwise live on.
    pub fn new(files: Arc<Files>, runtime: Handle, owner: Owner, given_up: watch::Receiver<bool>, xattr: bool) -> Self {
        Self { files, runtime, owner, given_up, xattr }
    }

    /// The names and values of an inode's attributes.
    fn facts(&self, inode: INodeNo) -> Result<Vec<(String, String)>, Errno> {
        let facts = self.files.facts(inode.0).map_err(errno)?;
        Ok(facts.into_iter().map(|(name, value)| (format!("{XATTR}{name}"), value)).collect())
    }

    fn attr(&self, attributes: &Attributes) -> FileAttr {
        let time = attributes.mtime.into();
        FileAttr {
            ino: INodeNo(attributes.inode),
            size: attributes.size,
            blocks: attributes.size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: if attributes.folder { FileType::Directory } else { FileType::RegularFile },
            perm: attributes.mode & !self.owner.umask,
            // 1 for a folder says that its subfolders are not counted in it.
            nlink: 1,
            uid: self.owner.uid,
            gid: self.owner.gid,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Each is an offer; what the kernel does not take it leaves out.
        for flag in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ] {
            let _ = config.add_capabilities(flag);
        }
        // fuser derives the largest request from the larger of the two.
        let _ = config.set_max_write(MAX_READ);
        let _ = config.set_max_readahead(MAX_READ);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.files.lookup(parent.0, name) {
            Ok(attributes) => reply.entry(&ttl(&attributes), &self.attr(&attributes), Generation(0)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.files.attributes(ino.0) {
            Ok(attributes) => reply.attr(&ttl(&attributes), &self.attr(&attributes)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(errno(FsError::ReadOnly));
        }
        match self.files.open(ino.0) {
            Ok(Opened { handle, passing: true }) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO),
            // An inode's bytes never change, so whatever the kernel has of it stays good.
            Ok(Opened { handle, .. }) => {
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let handle = match self.files.handle(fh.0) {
            Ok(handle) => handle,
            Err(error) => return reply.error(errno(error)),
        };
        if *self.given_up.borrow() {
            return reply.error(Errno::ENOTCONN);
        }
        if let Some(bytes) = handle.read_now(offset, size as usize) {
            return reply.data(&bytes.contiguous());
        }
        let mut given_up = self.given_up.clone();
        self.runtime.spawn(async move {
            tokio::select! {
                read = handle.read(offset, size as usize) => match read {
                    Ok(bytes) => reply.data(&bytes.contiguous()),
                    Err(error) => reply.error(errno(error.into())),
                },
                Ok(_) = given_up.wait_for(|given_up| *given_up) => reply.error(Errno::ENOTCONN),
            }
        });
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.files.release(fh.0);
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.files.open_folder(ino.0) {
            Ok(number) => reply.opened(FileHandle(number), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut give = |next, entry: FolderEntry<'_>| {
            let kind = if entry.attributes.folder { FileType::Directory } else { FileType::RegularFile };
            !reply.add(INodeNo(entry.attributes.inode), next, kind, OsStr::from_bytes(entry.name))
        };
        match self.files.read_folder(fh.0, offset, &mut give) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let mut give = |next, entry: FolderEntry<'_>| {
            let attr = self.attr(&entry.attributes);
            let ttl = ttl(&entry.attributes);
            !reply.add(attr.ino, next, OsStr::from_bytes(entry.name), &ttl, &attr, Generation(0))
        };
        match self.files.read_folder(fh.0, offset, &mut give) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.files.release_folder(fh.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (bytes, entries) = self.files.totals();
        reply.statfs(bytes.div_ceil(BLOCK.into()), 0, 0, entries, 0, BLOCK, 255, BLOCK);
    }

    // ENOSYS tells the kernel never to ask again: `ls -l` would ask twice per file (measured: 3.5 s instead of 0.3 s for
    // 100,000 files).
    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if !self.xattr {
            return reply.error(Errno::ENOSYS);
        }
        match self.facts(ino) {
            Err(errno) => reply.error(errno),
            Ok(facts) => match facts.into_iter().find(|(known, _)| name == known.as_str()) {
                Some((_, value)) => give_xattr(value.as_bytes(), size, reply),
                None => reply.error(Errno::ENODATA),
            },
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        if !self.xattr {
            return reply.error(Errno::ENOSYS);
        }
        match self.facts(ino) {
            Err(errno) => reply.error(errno),
            Ok(facts) => {
                let names: String = facts.into_iter().map(|(name, _)| name + "\0").collect();
                give_xattr(names.as_bytes(), size, reply);
            }
        }
    }
}

/// How attributes are called: in the namespace that everybody may read.
const XATTR: &str = "user.flashget.";

/// Answers with the bytes, or with how many there are if that was asked, or if there is no room for them.
fn give_xattr(bytes: &[u8], size: u32, reply: ReplyXattr) {
    match size {
        0 => reply.size(bytes.len() as u32),
        size if (size as usize) < bytes.len() => reply.error(Errno::ERANGE),
        _ => reply.data(bytes),
    }
}
