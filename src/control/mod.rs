//! What the command line and the page may ask of a daemon: the questions and answers as types, a trait that a daemon
//! implements, and the local socket that carries them. docs/CONTROL.md describes the socket's protocol.

pub mod client;
pub mod error;
pub mod request;
pub mod report;
pub mod secret;
pub mod socket;
pub mod text;
pub mod tracking;

use std::sync::Arc;

use async_trait::async_trait;

pub use error::{ControlError, ErrorCode};
pub use report::Report;
pub use request::Request;

use crate::reader::contents::ContentHandle;
use text::PathText;

/// A file that was opened: its bytes, and what to read them through.
pub type Opened = (u64, Arc<dyn ContentHandle>);

/// Hears of progress while a request is under way. Called from async tasks: must not block.
pub type OnEvent<'a> = &'a (dyn Fn(report::Event) + Send + Sync);

/// A daemon, as those who ask it see it.
#[async_trait]
pub trait Control: Send + Sync {
    /// Carries out one request. Dropping the future gives up the wait; what was begun is finished or undone.
    async fn call(&self, request: Request, on_event: OnEvent<'_>) -> Result<Report, ControlError>;
    /// Opens a file of the view to read: its size and what to read it through.
    async fn open(&self, path: &PathText, network: Option<&str>) -> Result<Opened, ControlError>;
}
