//! The home: the folders of one node, and the lock that keeps a second daemon out.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

/// Longest path that fits a Unix socket's address (`sun_path` has 108 bytes with its NUL).
const MAX_SOCKET_PATH: usize = 107;

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
        let path = self.state.join("lock");
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
                Err(HomeError::InUse(_)) if Instant::now() < until && UnixStream::connect(self.socket()).is_err() => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                locked => return locked,
            }
        }
    }

    /// The control socket. A home too deep for a socket's address gets a name in the runtime folder, made from the
    /// home's path.
    pub fn socket(&self) -> PathBuf {
        let path = self.state.join("daemon.sock");
        if path.as_os_str().len() <= MAX_SOCKET_PATH {
            return path;
        }
        let tag = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
        runtime.join(format!("flashget-{}-{}.sock", rustix::process::geteuid().as_raw(), &tag[..16]))
    }

    /// Every folder of the home, for "never share this".
    pub fn folders(&self) -> Vec<PathBuf> {
        let mut all = vec![self.state.clone(), self.cache.clone()];
        all.extend(self.config.parent().map(Path::to_path_buf));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let _answers = std::os::unix::net::UnixListener::bind(home.socket()).unwrap();
        assert!(matches!(home.lock_when_free(Duration::from_secs(60)), Err(HomeError::InUse(_))));
        fs::remove_file(home.socket()).unwrap();
        assert!(matches!(home.lock_when_free(Duration::from_millis(50)), Err(HomeError::InUse(_))));
        let waits = std::thread::spawn(move || home.lock_when_free(Duration::from_secs(60)).map(drop));
        drop(lock);
        waits.join().unwrap().unwrap();
    }

    #[test]
    fn a_deep_home_has_a_socket_too() {
        let deep = PathBuf::from("/").join("d".repeat(200));
        assert!(Home::below(&deep).socket().as_os_str().len() <= MAX_SOCKET_PATH);
    }
}
