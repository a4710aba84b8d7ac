//! Errors as a daemon tells them: a code that programs act on, and a sentence for people that says what to do.

use serde::{Deserialize, Serialize};

/// What kind of error. The command line maps each to an exit code (docs/CONFIGURATION.md).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Anything that has no code of its own.
    Failed,
    /// The request makes no sense as it is: correct it.
    Invalid,
    /// There is no such network, share, mount or file.
    NotFound,
    /// It is there already, in use, or in the way of something.
    Conflict,
    /// The vault is locked, or the passphrase or key file is wrong.
    Locked,
    /// Nobody who could help is reachable.
    Unreachable,
    /// Not allowed for this user.
    Denied,
    /// No daemon is running.
    NoDaemon,
}

/// An error for whoever asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// The kind.
    pub code: ErrorCode,
    /// One line for people; names in it are escaped.
    pub message: String,
}

impl ControlError {
    /// An error of a kind.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// An error without a code of its own.
    pub fn failed(error: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::Failed, error.to_string())
    }

    /// A request that makes no sense.
    pub fn invalid(error: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::Invalid, error.to_string())
    }
}
