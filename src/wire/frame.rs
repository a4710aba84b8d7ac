//! Frames inside the Noise stream: a 16-byte header, then a MessagePack body or a chunk's raw bytes.
//!
//! A frame begins at the start of a Noise message and may go on through several. The header of a bulk frame stands in
//! a Noise message of its own, so that a chunk is sealed from where it lies and opened to where it will stay.

use bytes::Bytes;

use crate::base::chunks::CHUNK;
use crate::base::limits::MAX_FRAME;
use crate::base::pool::Buffer;

/// Bytes of a header.
pub const HEADER: usize = 16;
/// The most plaintext that fits one Noise message (65,535 bytes with its 16-byte tag).
pub const MAX_PART: usize = 65_535 - 16;
/// The body is compressed with Snappy (raw format).
pub const FLAG_SNAPPY: u8 = 1;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A question.
    Request,
    /// An answer.
    Response,
    /// A chunk's bytes, in answer to a question.
    Bulk,
    /// The asker does not want the answer any more. No body.
    Cancel,
    /// Said without a question. Its id is 0.
    Notice,
}

/// Stands before each body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// Bytes of the body.
    pub len: u32,
    /// `FLAG_SNAPPY` or 0.
    pub flags: u8,
    /// Which question.
    pub id: u32,
    /// Of a bulk frame: bytes of the body once it is decompressed. 0 otherwise.
    pub plain_len: u32,
}

/// The peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a header.
    #[error("a malformed frame header")]
    Header,
    /// Longer than anything that we would ask for.
    #[error("a frame that is too long")]
    TooLong,
    /// A part that goes beyond the frame that it belongs to.
    #[error("a frame with more bytes than it announced")]
    Overrun,
}

impl Header {
    /// To bytes: u32 LE length, kind, flags, 2 zero bytes, u32 LE id, u32 LE plain length.
    pub fn write(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..4].copy_from_slice(&self.len.to_le_bytes());
        out[4] = match self.kind {
            Kind::Request => 1,
            Kind::Response => 2,
            Kind::Bulk => 3,
            Kind::Cancel => 4,
            Kind::Notice => 5,
        };
        out[5] = self.flags;
        out[8..12].copy_from_slice(&self.id.to_le_bytes());
        out[12..].copy_from_slice(&self.plain_len.to_le_bytes());
        out
    }

    /// From bytes that a peer sent: every cap is checked here, before anything is allocated.
    pub fn read(bytes: &[u8; HEADER]) -> Result<Self, FrameError> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let kind = match bytes[4] {
            1 => Kind::Request,
            2 => Kind::Response,
            3 => Kind::Bulk,
            4 => Kind::Cancel,
            5 => Kind::Notice,
            _ => return Err(FrameError::Header),
        };
        let header = Self { kind, len: word(0), flags: bytes[5], id: word(8), plain_len: word(12) };
        let cap = match kind {
            Kind::Bulk => CHUNK as usize,
            Kind::Cancel => 0,
            _ => MAX_FRAME,
        };
        if header.len as usize > cap || header.plain_len as usize > CHUNK as usize {
            return Err(FrameError::TooLong);
        }
        let bulk = kind == Kind::Bulk;
        let compressed = header.flags == FLAG_SNAPPY && bulk;
        let lengths = if compressed {
            header.len < header.plain_len
        } else {
            header.flags == 0 && header.plain_len == if bulk { header.len } else { 0 }
        };
        if bytes[6] != 0 || bytes[7] != 0 || !lengths {
            return Err(FrameError::Header);
        }
        Ok(header)
    }
}

/// A whole frame as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Its body.
    pub body: Bytes,
}

/// Puts frames together from the plaintexts of Noise messages. For each message: ask for [`Assembler::space`], open the
/// message into it, then call [`Assembler::filled`].
#[derive(Debug)]
pub struct Assembler {
    first: Box<[u8]>,
    begun: Option<(Header, Buffer, usize)>,
}

impl Default for Assembler {
    fn default() -> Self {
        Self { first: vec![0; MAX_PART].into(), begun: None }
    }
}

impl Assembler {
    /// Where the next message's `len` bytes of plaintext go.
    pub fn space(&mut self, len: usize) -> Result<&mut [u8], FrameError> {
        match &mut self.begun {
            None => self.first.get_mut(..len).ok_or(FrameError::Overrun),
            Some((_, body, filled)) => body.as_mut().get_mut(*filled..*filled + len).ok_or(FrameError::Overrun),
        }
    }

    /// `len` bytes have been put where [`Assembler::space`] said. Returns the frame, if this was its last part.
    pub fn filled(&mut self, len: usize) -> Result<Option<Frame>, FrameError> {
        let (header, body, filled) = match self.begun.take() {
            Some((header, body, filled)) => (header, body, filled + len),
            None => {
                let (head, part) = self.first[..len].split_first_chunk().ok_or(FrameError::Header)?;
                let header = Header::read(head)?;
                let mut body = Buffer::new(header.len as usize);
                body.as_mut().get_mut(..part.len()).ok_or(FrameError::Overrun)?.copy_from_slice(part);
                (header, body, part.len())
            }
        };
        let whole = body.as_ref().len();
        if filled == whole {
            return Ok(Some(Frame { header, body: body.share(0..whole) }));
        }
        if len == 0 {
            // A peer that sends empty parts would keep us busy for nothing.
            return Err(FrameError::Header);
        }
        self.begun = Some((header, body, filled));
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(assembler: &mut Assembler, part: &[u8]) -> Result<Option<Frame>, FrameError> {
        assembler.space(part.len())?.copy_from_slice(part);
        assembler.filled(part.len())
    }

    fn bulk(len: u32) -> Header {
        Header { kind: Kind::Bulk, len, flags: 0, id: 7, plain_len: len }
    }

    proptest! {
        #[test]
        fn a_frame_comes_out_as_it_went_in(body in proptest::collection::vec(any::<u8>(), 0..3000), cut in 1usize..700, alone: bool) {
            let header = bulk(body.len() as u32);
            let mut assembler = Assembler::default();
            for _ in 0..2 {
                let first = if alone { 0 } else { cut.min(body.len()) };
                let mut out = feed(&mut assembler, &[&header.write()[..], &body[..first]].concat()).unwrap();
                for part in body[first..].chunks(cut) {
                    prop_assert!(out.is_none());
                    out = feed(&mut assembler, part).unwrap();
                }
                prop_assert_eq!(out, Some(Frame { header, body: body.clone().into() }));
            }
        }

        #[test]
        fn what_a_peer_invents_never_panics_and_never_exceeds_the_caps(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..20)) {
            let mut assembler = Assembler::default();
            for part in parts {
                match feed(&mut assembler, &part) {
                    Ok(Some(frame)) => prop_assert!(frame.body.len() <= MAX_FRAME),
                    Ok(None) => {}
                    Err(_) => break,
                }
            }
        }
    }

    #[test]
    fn lengths_are_checked_before_anything_is_allocated() {
        let read = |header: Header| Header::read(&header.write());
        assert_eq!(read(bulk(CHUNK as u32 + 1)), Err(FrameError::TooLong));
        assert_eq!(
            read(Header { kind: Kind::Request, len: u32::MAX, flags: 0, id: 1, plain_len: 0 }),
            Err(FrameError::TooLong)
        );
        assert_eq!(read(Header { flags: FLAG_SNAPPY, ..bulk(10) }), Err(FrameError::Header));
        assert_eq!(read(Header { plain_len: 11, ..bulk(10) }), Err(FrameError::Header));
        assert!(read(bulk(CHUNK as u32)).is_ok());
    }
}
