//! The daemon's side of the local socket: a line of JSON per request; lines of JSON for events and the answer.
//!
//! Only the daemon's own user and root may connect: the socket is 0600, and the peer's credentials are checked too.
//!
//! A client may close its sending half when it has asked (`echo ... | socat`): it still gets its answer. Only one that
//! has closed both halves is gone, and what it asked for is given up.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::error::{ControlError, ErrorCode};
use super::report::{Event, Report};
use super::request::Request;
use super::{Control, Opened};
use crate::reader::contents::ReadError;

/// The longest request line: paths and invites are far shorter.
pub const MAX_LINE: u64 = 1 << 20;
/// Bytes that are read of a file at once.
const READ: usize = 1 << 20;
/// Clients at once.
const MAX_CLIENTS: usize = 256;
/// Events that wait for a slow client; more are left out, for the next one says as much.
const EVENTS: usize = 64;

/// One line from the daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Progress; more lines follow.
    Event(Event),
    /// So many bytes of a file follow, and then more lines.
    Data(usize),
    /// The answer.
    Ok(Box<Report>),
    /// It came to nothing.
    Error(ControlError),
}

/// Listens until it is dropped, and then removes the socket.
pub struct ControlSocket {
    path: PathBuf,
    task: JoinHandle<()>,
    /// Requests that are being answered.
    busy: Arc<watch::Sender<usize>>,
}

impl ControlSocket {
    /// Listens on `path`. The caller holds the home's lock, so a socket that is there is a dead daemon's.
    pub fn bind(path: &Path, control: Arc<dyn Control>) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let busy = Arc::new(watch::channel(0).0);
        let task = tokio::spawn(accept(listener, control, Arc::clone(&busy)));
        Ok(Self { path: path.into(), task, busy })
    }

    /// Accepts nobody any more, and waits until those who asked have their answers, at most for `limit`.
    pub async fn finish(self, limit: Duration) {
        self.task.abort();
        let mut busy = self.busy.subscribe();
        let _ = tokio::time::timeout(limit, busy.wait_for(|busy| *busy == 0)).await;
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.task.abort();
        // A daemon that starts next removes it as well.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, control: Arc<dyn Control>, busy: Arc<watch::Sender<usize>>) {
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        // The semaphore is never closed.
        let Ok(client) = Arc::clone(&clients).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (control, busy) = (Arc::clone(&control), Arc::clone(&busy));
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, &*control, &busy).await {
                        tracing::debug!(%error, "a control client went away");
                    }
                    drop(client);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a control client failed");
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        }
    }
}

/// Counts a request for as long as it is answered.
struct Busy<'a>(&'a watch::Sender<usize>);

impl<'a> Busy<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|busy| *busy += 1);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|busy| *busy -= 1);
    }
}

async fn serve(stream: UnixStream, control: &dyn Control, busy: &watch::Sender<usize>) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    // Looked at apart from what is read and written, which has its own idea of readiness.
    let watched = UnixStream::from_std(stream.as_fd().try_clone_to_owned()?.into())?;
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    if uid != own && uid != 0 {
        let denied = ControlError::new(ErrorCode::Denied, "this daemon belongs to another user");
        return write(&mut to, &Line::Error(denied)).await;
    }
    loop {
        // It may hold a passphrase.
        let mut line = Zeroizing::new(Vec::new());
        (&mut from).take(MAX_LINE).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(());
        }
        if line.len() as u64 == MAX_LINE && line.last() != Some(&b'\n') {
            let wrong = ControlError::invalid(format!("a request is one line of at most {MAX_LINE} bytes"));
            // Where the next request begins can't be told any more.
            return write(&mut to, &Line::Error(wrong)).await;
        }
        let _busy = Busy::new(busy);
        tokio::select! {
            answered = answer(&line, &mut to, control) => answered?,
            () = gone(&watched) => return Ok(()),
        }
    }
}

/// Returns once the client has closed both halves: it would not hear an answer.
async fn gone(socket: &UnixStream) {
    // An error means that the runtime is ending.
    while let Ok(ready) = socket.ready(Interest::WRITABLE).await {
        if ready.is_write_closed() {
            return;
        }
        // Forgets that it can be written to, and so waits for the next change.
        let _: io::Result<()> = socket.try_io(Interest::WRITABLE, || Err(io::ErrorKind::WouldBlock.into()));
    }
}

/// Carries out one request, and writes what comes of it.
async fn answer(line: &[u8], to: &mut OwnedWriteHalf, control: &dyn Control) -> io::Result<()> {
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => {
            let wrong = ControlError::invalid(format!("not a request: {error}"));
            return write(to, &Line::Error(wrong)).await;
        }
    };
    if let Request::Read { path, network } = &request {
        return match control.open(path, network.as_deref()).await {
            Ok(opened) => send_file(to, opened).await,
            Err(error) => write(to, &Line::Error(error)).await,
        };
    }
    let (events, mut heard) = mpsc::channel(EVENTS);
    let on_event = move |event| {
        // A client that is slow misses some.
        let _ = events.try_send(event);
    };
    let call = control.call(request, &on_event);
    tokio::pin!(call);
    let answer = loop {
        tokio::select! {
            answer = &mut call => break answer,
            Some(event) = heard.recv() => write(to, &Line::Event(event)).await?,
        }
    };
    let line = match answer {
        Ok(report) => Line::Ok(Box::new(report)),
        Err(error) => Line::Error(error),
    };
    write(to, &line).await
}

/// Sends a file's bytes in order, as fast as they are taken.
async fn send_file(to: &mut (impl AsyncWriteExt + Unpin), (size, handle): Opened) -> io::Result<()> {
    let mut at = 0;
    while at < size {
        match handle.read(at, READ).await {
            Ok(bytes) if !bytes.is_empty() => {
                write(to, &Line::Data(bytes.len())).await?;
                for piece in bytes.pieces() {
                    to.write_all(piece).await?;
                }
                at += bytes.len() as u64;
            }
            Ok(_) => break,
            Err(error) => {
                let (code, what) = match error {
                    ReadError::Locked => (ErrorCode::Locked, format!("{error}: run flashget unlock")),
                    ReadError::Local => (ErrorCode::Failed, error.to_string()),
                    _ => (ErrorCode::Unreachable, error.to_string()),
                };
                let wrong = ControlError::new(code, what);
                return write(to, &Line::Error(wrong)).await;
            }
        }
    }
    write(to, &Line::Ok(Box::new(Report::Done))).await
}

async fn write(to: &mut (impl AsyncWriteExt + Unpin), line: &Line) -> io::Result<()> {
    let mut json = serde_json::to_vec(line).map_err(io::Error::other)?;
    json.push(b'\n');
    to.write_all(&json).await
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
