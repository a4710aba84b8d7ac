//! One terse session, without its socket: ciphertext in, answers as ciphertext out. What it holds while nothing is under
//! way are its keys and counters.

use snow::StatelessTransportState;

use super::{Caller, Clerk};
use crate::base::limits::MAX_FRAME;
use crate::wire::frame::{HEADER, Header, Kind, MAX_PART};
use crate::wire::message::{Request, Response};

const TAG: usize = 16;
const LEN: usize = 2;
/// Bytes of a request: an announcement with 16 addresses has less than one kilobyte.
pub(super) const MAX_REQUEST: usize = 16 * 1024;
/// Answers are made until there are so many bytes of them to be written: what one asker can make this side hold is this
/// and one answer.
pub(super) const ENOUGH: usize = 64 * 1024;

/// The other side broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

/// What all sessions use in turns.
#[derive(Default)]
pub(super) struct Scratch {
    plain: Vec<u8>,
    answer: Vec<u8>,
    /// Sealed answers.
    pub out: Vec<u8>,
}

/// See the module.
pub(super) struct Line {
    noise: StatelessTransportState,
    opened: u64,
    sealed: u64,
    /// A frame that has not come whole.
    frame: Vec<u8>,
}

impl Line {
    pub fn new(noise: StatelessTransportState) -> Self {
        Self { noise, opened: 0, sealed: 0, frame: Vec::new() }
    }

    /// Opens and answers what has come, into `scratch.out`, until that is enough. Returns how many bytes were dealt with; what
    /// is left is to be passed again, with what follows.
    pub fn take(
        &mut self,
        data: &[u8],
        scratch: &mut Scratch,
        caller: &Caller,
        clerk: &dyn Clerk,
    ) -> Result<usize, Broken> {
        let mut taken = 0;
        while scratch.out.len() < ENOUGH
            && let Some(len) = data[taken..].first_chunk().map(|len| usize::from(u16::from_be_bytes(*len)))
        {
            let plain = len.checked_sub(TAG).ok_or(Broken)?;
            if self.frame.len() + plain > HEADER + MAX_REQUEST {
                return Err(Broken);
            }
            let Some(record) = data.get(taken + LEN..taken + LEN + len) else { break };
            scratch.plain.resize(plain, 0);
            self.noise.read_message(self.opened, record, &mut scratch.plain).map_err(|_| Broken)?;
            self.opened += 1;
            taken += LEN + len;
            self.opened_part(scratch, caller, clerk)?;
        }
        Ok(taken)
    }

    /// One record's plaintext is in `scratch.plain`.
    fn opened_part(&mut self, scratch: &mut Scratch, caller: &Caller, clerk: &dyn Clerk) -> Result<(), Broken> {
        if self.frame.is_empty() {
            let header = header_of(&scratch.plain)?;
            if scratch.plain.len() == HEADER + header.len as usize {
                let plain = std::mem::take(&mut scratch.plain);
                let answered = self.frame_came(&header, &plain[HEADER..], scratch, caller, clerk);
                scratch.plain = plain;
                return answered;
            }
        } else if scratch.plain.is_empty() {
            // Nobody should keep us busy for nothing.
            return Err(Broken);
        }
        self.frame.extend_from_slice(&scratch.plain);
        let header = header_of(&self.frame)?;
        match (HEADER + header.len as usize).cmp(&self.frame.len()) {
            std::cmp::Ordering::Less => Err(Broken),
            std::cmp::Ordering::Greater => Ok(()),
            std::cmp::Ordering::Equal => {
                let frame = std::mem::take(&mut self.frame);
                self.frame_came(&header, &frame[HEADER..], scratch, caller, clerk)
            }
        }
    }

    fn frame_came(
        &mut self,
        header: &Header,
        body: &[u8],
        scratch: &mut Scratch,
        caller: &Caller,
        clerk: &dyn Clerk,
    ) -> Result<(), Broken> {
        match header.kind {
            Kind::Request => {}
            // It is answered before anybody can change his mind.
            Kind::Cancel | Kind::Notice => return Ok(()),
            // Nothing was asked.
            Kind::Response | Kind::Bulk => return Err(Broken),
        }
        let request: Request = rmp_serde::from_slice(body).map_err(|_| Broken)?;
        let mut answer = std::mem::take(&mut scratch.answer);
        answer.clear();
        answer.resize(HEADER, 0);
        match request {
            Request::Ping => append(&Response::Pong, &mut answer)?,
            _ => clerk.answer(caller, &request, &mut answer),
        }
        if answer.len() == HEADER || answer.len() > HEADER + MAX_FRAME {
            answer.truncate(HEADER);
            append(&Response::Refused, &mut answer)?;
        }
        let len = (answer.len() - HEADER) as u32;
        let head = Header { kind: Kind::Response, len, flags: 0, id: header.id, plain_len: 0 };
        answer[..HEADER].copy_from_slice(&head.write());
        for part in answer.chunks(MAX_PART) {
            self.seal(part, &mut scratch.out)?;
        }
        scratch.answer = answer;
        Ok(())
    }

    fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        let len = plain.len() + TAG;
        out.extend_from_slice(&(len as u16).to_be_bytes());
        let at = out.len();
        out.resize(at + len, 0);
        match self.noise.write_message(self.sealed, plain, &mut out[at..]) {
            Ok(written) if written == len => self.sealed += 1,
            _ => return Err(Broken),
        }
        Ok(())
    }
}

fn append(response: &Response, out: &mut Vec<u8>) -> Result<(), Broken> {
    rmp_serde::encode::write(out, response).map_err(|_| Broken)
}

fn header_of(frame: &[u8]) -> Result<Header, Broken> {
    let header = Header::read(frame.first_chunk().ok_or(Broken)?).map_err(|_| Broken)?;
    if header.len as usize > MAX_REQUEST { Err(Broken) } else { Ok(header) }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
