//! Exit codes: numbered, stable, documented in docs/CONFIGURATION.md and in `flashget --help`.

use std::process::ExitCode;

use crate::control::ErrorCode;

/// The exit code of an error. 0 is done; 2 is also what clap exits with for wrong arguments.
pub fn code_of(error: ErrorCode) -> ExitCode {
    ExitCode::from(match error {
        ErrorCode::Failed => 1,
        ErrorCode::Invalid => 2,
        ErrorCode::NotFound => 3,
        ErrorCode::Conflict => 4,
        ErrorCode::Locked => 5,
        ErrorCode::Unreachable => 6,
        ErrorCode::Denied => 7,
        ErrorCode::NoDaemon => 8,
    })
}
