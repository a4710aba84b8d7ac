//! The home: the folders of one node, and the lock that keeps a second daemon out.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

/// Longest path that fits a Unix socket's address (`sun_path` has 108 bytes with its NUL).
const MAX_SOCKET_PATH: usize = 107;

/// Longest path of a runtime folder: a socket's name there has 31 bytes with the slash.
const MAX_RUNTIME_DIR: usize = MAX_SOCKET_PATH - 31;

/// Between two attempts at the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What is wrong with a home.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Neither `FLASHGET_HOME` nor `HOME` is set.
    #[error("no home folder: set FLASHGET_HOME, or HOME")]
    NoHome,
    /// A daemon (or a command that edits the home) holds the lock.
    #[error("another flashget daemon or command is using {0}")]
    InUse(PathBuf),
    /// Where the control socket would be, somebody else may have put another one.
    #[error("{} is not a folder of this user alone, and the control socket would be there: remove it, or set XDG_RUNTIME_DIR", .0.display())]
    NotPrivate(PathBuf),
    /// A file operation failed.
    #[error("{path}: {source}")]
    Io {
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Where one node's files are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Home {
    config: PathBuf,
    state: PathBuf,
    cache: PathBuf,
}

/// Held while a daemon runs or a command edits the home. Released when dropped, also by a crash.
#[derive(Debug)]
pub struct HomeLock {
    _file: File,
}

impl Home {
    /// Everything below one folder.
    pub fn below(dir: &Path) -> Self {
        Self { config: dir.join("config.toml"), state: dir.join("state"), cache: dir.join("cache") }
    }

    /// `explicit` if given, else `$FLASHGET_HOME`, else the XDG folders; for root `/etc`, `/var/lib` and `/var/cache`.
    pub fn resolve(explicit: Option<&Path>) -> Result<Self, HomeError> {
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(dir) = explicit.map(Path::to_path_buf).or_else(|| var("FLASHGET_HOME")) {
            let dir = std::path::absolute(&dir).map_err(|source| HomeError::Io { path: dir, source })?;
            return Ok(Self::below(&dir));
        }
        if rustix::process::geteuid().is_root() {
            return Ok(Self {
                config: "/etc/flashget/config.toml".into(),
                state: "/var/lib/flashget".into(),
                cache: "/var/cache/flashget".into(),
            });
        }
        let user = var("HOME").ok_or(HomeError::NoHome);
        let dir = |name: &str, fallback: &str| match var(name) {
            Some(dir) => Ok(dir),
            None => user.as_ref().map(|home| home.join(fallback)).map_err(|_| HomeError::NoHome),
        };
        Ok(Self {
            config: dir("XDG_CONFIG_HOME", ".config")?.join("flashget/config.toml"),
            state: dir("XDG_STATE_HOME", ".local/state")?.join("flashget"),
            cache: dir("XDG_CACHE_HOME", ".cache")?.join("flashget"),
        })
    }

    /// The settings file; need not exist.
    pub fn config_file(&self) -> &Path {
        &self.config
    }

    /// Keys, index, catalogs, lock, socket.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// Sealed chunks, unless the settings name another place.
    pub fn cache_dir(&self) -> &Path {
        &self.cache
    }

    /// The vault.
    pub fn vault_file(&self) -> PathBuf {
        self.state.join("vault")
    }

    /// The key file that unlocks the vault where there is no passphrase.
    pub fn key_file(&self) -> PathBuf {
        self.state.join("key")
    }

    /// Where a daemon that `mount` started writes its log.
    pub fn log_file(&self) -> PathBuf {
        self.state.join("daemon.log")
    }

    /// Makes the folders (mode 0700) where they are missing.
    pub fn create(&self) -> Result<(), HomeError> {
        for dir in [&self.state, &self.cache] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(|source| HomeError::Io { path: dir.clone(), source })?;
        }
        Ok(())
    }

    /// Takes the home's lock or says who is in the way.
    pub fn lock(&self) -> Result<HomeLock, HomeError> {
        self.create()?;
        self.lock_by("lock")
    }

    fn lock_by(&self, name: &str) -> Result<HomeLock, HomeError> {
        let path = self.state.join(name);
        let io = |source| HomeError::Io { path: path.clone(), source };
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(io)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(HomeLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(HomeError::InUse(self.state.clone())),
            Err(errno) => Err(io(errno.into())),
        }
    }

    /// The same, but waits for whoever holds the lock, up to `patience`: a daemon that is ending, or a command. One that
    /// answers on its socket is there to stay, and not waited for.
    pub fn lock_when_free(&self, patience: Duration) -> Result<HomeLock, HomeError> {
        let until = Instant::now() + patience;
        loop {
            match self.lock() {
                Err(HomeError::InUse(_)) if Instant::now() < until && !self.answers() => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                locked => return locked,
            }
        }
    }

    fn answers(&self) -> bool {
        self.socket().is_ok_and(|socket| UnixStream::connect(socket).is_ok())
    }

    /// The control socket. A home too deep for a socket's address gets a name in this user's runtime folder, made from the
    /// home's path.
    pub fn socket(&self) -> Result<PathBuf, HomeError> {
        socket_path(&self.state.join("daemon.sock"), || runtime_dir(&Places::here()))
    }

    /// The same for this home's tracker, which may run beside its daemon.
    pub fn tracker_socket(&self) -> Result<PathBuf, HomeError> {
        socket_path(&self.state.join("tracker.sock"), || runtime_dir(&Places::here()))
    }

    /// Taken by the tracker that answers on this home's socket.
    pub fn lock_tracker(&self) -> Result<HomeLock, HomeError> {
        self.lock_by("tracker.lock")
    }

    /// Every folder of the home, for "never share this".
    pub fn folders(&self) -> Vec<PathBuf> {
        let mut all = vec![self.state.clone(), self.cache.clone()];
        all.extend(self.config.parent().map(Path::to_path_buf));
        all
    }
}

fn socket_path(path: &Path, short: impl FnOnce() -> Result<PathBuf, HomeError>) -> Result<PathBuf, HomeError> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok(path.into());
    }
    let tag = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
    Ok(short()?.join(format!("flashget-{}.sock", &tag[..16])))
}

/// Where runtime folders are.
struct Places {
    user: u32,
    /// `XDG_RUNTIME_DIR`.
    named: Option<PathBuf>,
    /// Holds one folder per user who is logged in.
    run: PathBuf,
    tmp: PathBuf,
}

impl Places {
    fn here() -> Self {
        Self {
            user: rustix::process::geteuid().as_raw(),
            named: std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from),
            run: "/run/user".into(),
            tmp: "/tmp".into(),
        }
    }
}

/// A folder with a short name in which nobody else can put a socket. Whoever listens and whoever asks both look here, so
/// neither can be led to somebody else's socket.
fn runtime_dir(places: &Places) -> Result<PathBuf, HomeError> {
    let private = |dir: &Path| {
        // Not through a symlink: what it leads to may be changed.
        fs::symlink_metadata(dir)
            .is_ok_and(|meta| meta.is_dir() && meta.uid() == places.user && meta.mode() & 0o777 == 0o700)
    };
    let fits = |dir: &Path| dir.is_absolute() && dir.as_os_str().len() <= MAX_RUNTIME_DIR;
    let usual = [places.named.clone(), Some(places.run.join(places.user.to_string()))];
    if let Some(dir) = usual.into_iter().flatten().find(|dir| fits(dir) && private(dir)) {
        return Ok(dir);
    }
    let dir = places.tmp.join(format!("flashget-{}", places.user));
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(HomeError::Io { path: dir, source: error });
        }
        _ => {}
    }
    if private(&dir) { Ok(dir) } else { Err(HomeError::NotPrivate(dir)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_daemon_per_home() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(dir.path());
        let lock = home.lock().unwrap();
        assert!(matches!(home.lock(), Err(HomeError::InUse(_))));
        drop(lock);
        home.lock().unwrap();
    }

    #[test]
    fn who_is_about_to_go_is_waited_for_and_who_answers_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(dir.path());
        let lock = home.lock().unwrap();
        let _answers = std::os::unix::net::UnixListener::bind(home.socket().unwrap()).unwrap();
        assert!(matches!(home.lock_when_free(Duration::from_secs(60)), Err(HomeError::InUse(_))));
        fs::remove_file(home.socket().unwrap()).unwrap();
        assert!(matches!(home.lock_when_free(Duration::from_millis(50)), Err(HomeError::InUse(_))));
        let waits = std::thread::spawn(move || home.lock_when_free(Duration::from_secs(60)).map(drop));
        drop(lock);
        waits.join().unwrap().unwrap();
    }

    #[test]
    fn a_deep_home_has_a_socket_too() {
        let deep = PathBuf::from("/").join("d".repeat(200));
        let longest = PathBuf::from("/").join("r".repeat(MAX_RUNTIME_DIR - 1));
        let socket = socket_path(&deep, || Ok(longest.clone())).unwrap();
        assert!(socket.starts_with(&longest) && socket.as_os_str().len() <= MAX_SOCKET_PATH);
        assert_ne!(socket, socket_path(&deep.join("x"), || Ok(longest)).unwrap());
    }

    #[test]
    fn nobody_else_can_put_a_socket_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, mode: u32| {
            let made = dir.path().join(name);
            fs::create_dir_all(&made).unwrap();
            fs::set_permissions(&made, fs::Permissions::from_mode(mode)).unwrap();
            made
        };
        let user = rustix::process::geteuid().as_raw();
        let places =
            |named: Option<PathBuf>| Places { user, named, run: dir.path().join("run"), tmp: dir.path().join("tmp") };
        let (named, open) = (make("named", 0o700), make("open", 0o755));
        make("tmp", 0o1777);
        let tmp = dir.path().join(format!("tmp/flashget-{user}"));
        assert_eq!(runtime_dir(&places(Some(named.clone()))).unwrap(), named);
        // Made for the purpose, and found again.
        for named in [None, Some(open), Some(dir.path().join("none")), Some("relative".into())] {
            assert_eq!(runtime_dir(&places(named)).unwrap(), tmp);
        }
        assert_eq!(fs::metadata(&tmp).unwrap().mode() & 0o777, 0o700);
        // What somebody else may have put there is refused.
        fs::set_permissions(&tmp, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(runtime_dir(&places(None)), Err(HomeError::NotPrivate(_))));
        fs::remove_dir(&tmp).unwrap();
        std::os::unix::fs::symlink(&named, &tmp).unwrap();
        assert!(matches!(runtime_dir(&places(None)), Err(HomeError::NotPrivate(_))));
        fs::remove_file(&tmp).unwrap();
        fs::write(&tmp, "").unwrap();
        assert!(matches!(runtime_dir(&places(None)), Err(HomeError::NotPrivate(_))));
        let others = Places { user: user + 1, ..places(Some(named)) };
        assert!(matches!(runtime_dir(&others), Err(HomeError::NotPrivate(_))));
        let run = make(&format!("run/{user}"), 0o700);
        assert_eq!(runtime_dir(&places(None)).unwrap(), run);
    }
}
