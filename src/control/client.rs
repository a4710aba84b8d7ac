//! The asking side of the local socket; blocking, for the command line.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::error::{ControlError, ErrorCode};
use super::report::{Event, Report};
use super::request::Request;
use super::socket::Line;

/// A connection to a daemon.
pub struct Client {
    from: BufReader<UnixStream>,
}

impl Client {
    /// Connects. `None` if no daemon listens there.
    pub fn connect(socket: &Path) -> Result<Option<Self>, ControlError> {
        match UnixStream::connect(socket) {
            Ok(stream) => Ok(Some(Self { from: BufReader::new(stream) })),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(ControlError::new(
                ErrorCode::Denied,
                format!("{}: this daemon belongs to another user", socket.display()),
            )),
            Err(error) => Err(ControlError::failed(format!("{}: {error}", socket.display()))),
        }
    }

    /// Asks, and waits for the answer. `on_event` hears of progress.
    pub fn call(&mut self, request: &Request, on_event: &mut dyn FnMut(Event)) -> Result<Report, ControlError> {
        let mut json = serde_json::to_vec(request).map_err(ControlError::failed)?;
        json.push(b'\n');
        self.from.get_mut().write_all(&json).map_err(|error| went_away(&error))?;
        loop {
            let mut line = Vec::new();
            if self.from.read_until(b'\n', &mut line).map_err(|error| went_away(&error))? == 0 {
                return Err(ControlError::new(ErrorCode::NoDaemon, "the daemon went away: see its log"));
            }
            match serde_json::from_slice(&line) {
                Ok(Line::Event(event)) => on_event(event),
                Ok(Line::Data(_)) => return Err(ControlError::failed("the daemon sends what was not asked for")),
                Ok(Line::Ok(report)) => return Ok(*report),
                Ok(Line::Error(error)) => return Err(error),
                Err(error) => {
                    return Err(ControlError::failed(format!("an answer of another version of flashget: {error}")));
                }
            }
        }
    }

    /// Copies a file's bytes to `out`. Ends early, and well, if whoever reads `out` has read enough.
    pub fn read_to(&mut self, request: &Request, out: &mut dyn Write) -> Result<(), ControlError> {
        let mut json = serde_json::to_vec(request).map_err(ControlError::failed)?;
        json.push(b'\n');
        self.from.get_mut().write_all(&json).map_err(|error| went_away(&error))?;
        loop {
            let mut line = Vec::new();
            self.from.read_until(b'\n', &mut line).map_err(|error| went_away(&error))?;
            match serde_json::from_slice(&line) {
                Ok(Line::Data(len)) => {
                    let copied = io::copy(&mut (&mut self.from).take(len as u64), out);
                    match copied {
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                        Err(error) => return Err(ControlError::failed(format!("can't write: {error}"))),
                        Ok(copied) if copied != len as u64 => {
                            return Err(ControlError::failed("the daemon went away"));
                        }
                        Ok(_) => {}
                    }
                }
                Ok(Line::Event(_)) => {}
                Ok(Line::Ok(_)) => return out.flush().map_err(ControlError::failed),
                Ok(Line::Error(error)) => return Err(error),
                Err(_) => return Err(ControlError::failed("the daemon went away: see its log")),
            }
        }
    }
}

fn went_away(error: &io::Error) -> ControlError {
    ControlError::new(ErrorCode::NoDaemon, format!("the daemon went away: {error}"))
}
