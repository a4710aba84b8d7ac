//! Errors of the layers below, as control errors: which code each has, in one place.

use std::net::SocketAddr;

use parking_lot::Mutex;

use crate::cache::CacheError;
use crate::control::{ControlError, ErrorCode};
use crate::settings::home::HomeError;
use crate::share::list::ListError;
use crate::vault::invite::BadInvite;
use crate::vault::network::BadNetworkName;
use crate::vault::store::VaultError;

/// An address that can't be listened on, and which option names another.
pub(super) fn cant_listen(addr: SocketAddr, option: &str, error: &std::io::Error) -> ControlError {
    let code = match error.kind() {
        std::io::ErrorKind::AddrInUse => ErrorCode::Conflict,
        _ => ErrorCode::Failed,
    };
    ControlError::new(code, format!("can't listen on {addr}: {error}; choose another address with {option}"))
}

/// What of many went wrong: the first error, and how many there were.
#[derive(Default)]
pub(super) struct Failures(Mutex<Option<(ControlError, u64)>>);

impl Failures {
    /// One more.
    pub fn add(&self, error: ControlError) {
        let mut failures = self.0.lock();
        let (first, count) = failures.take().unwrap_or((error, 0));
        *failures = Some((first, count + 1));
    }

    /// `None` if nothing did.
    pub fn all(&self) -> Option<(ControlError, u64)> {
        self.0.lock().clone()
    }
}

/// An error with a code of its own.
pub(crate) trait Coded: std::fmt::Display {
    fn code(&self) -> ErrorCode;
}

/// As a control error. Takes the error itself, so that it can be named where a function is wanted.
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn wrong<E: Coded>(error: E) -> ControlError {
    ControlError::new(error.code(), error.to_string())
}

/// The code of what the system says.
pub(crate) fn code_of(error: &std::io::Error) -> ErrorCode {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => ErrorCode::Denied,
        _ => ErrorCode::Failed,
    }
}

impl Coded for VaultError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Io(_, error) => code_of(error),
            Self::NotAVault(_) | Self::Random(_) => ErrorCode::Failed,
            Self::Wrong
            | Self::Locked
            | Self::NeedsPassphrase
            | Self::NeedsKeyFile
            | Self::KeyFileOpen(_)
            | Self::NotOwn(_)
            | Self::BadKeyFile(_) => ErrorCode::Locked,
            Self::NetworkExists(_) => ErrorCode::Conflict,
            Self::NoNetwork(_) => ErrorCode::NotFound,
        }
    }
}

impl Coded for ListError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Folder(_, error) if error.kind() == std::io::ErrorKind::NotFound => ErrorCode::NotFound,
            Self::Folder(_, error) => code_of(error),
            Self::Damaged(..) => ErrorCode::Failed,
            Self::NotAFolder(_) | Self::TooMany => ErrorCode::Invalid,
            Self::Mount(..) | Self::Home(..) | Self::Shared(..) => ErrorCode::Conflict,
            Self::NotShared(_) => ErrorCode::NotFound,
        }
    }
}

impl Coded for HomeError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NoHome => ErrorCode::Invalid,
            Self::InUse(_) => ErrorCode::Conflict,
            Self::NotPrivate(_) => ErrorCode::Denied,
            Self::Io { source, .. } => code_of(source),
        }
    }
}

impl Coded for CacheError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Strange(_) | Self::OfAnother(_) | Self::InUse(_) => ErrorCode::Conflict,
            Self::Io { source, .. } => code_of(source),
        }
    }
}

impl Coded for BadInvite {
    fn code(&self) -> ErrorCode {
        ErrorCode::Invalid
    }
}

impl Coded for BadNetworkName {
    fn code(&self) -> ErrorCode {
        ErrorCode::Invalid
    }
}

impl Coded for crate::settings::address::BadAddress {
    fn code(&self) -> ErrorCode {
        ErrorCode::Invalid
    }
}

impl Coded for crate::base::names::BadName {
    fn code(&self) -> ErrorCode {
        ErrorCode::Invalid
    }
}
