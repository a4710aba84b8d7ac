//! SWIM's messages in bytes. All integers are big-endian.
//!
//! ```text
//! life     node 32 ‖ generation 4 ‖ address
//! address  4 ‖ IPv4 4 ‖ port 2    or    6 ‖ IPv6 16 ‖ port 2
//! member   life ‖ incarnation 2 ‖ state 1 (0 alive, 1 suspect, 2 down)
//! header   kind 1 (1 ping … 10 "you are dead") ‖ life of the sender ‖ its incarnation 2 ‖ the receiver: first 8 bytes of its node, generation 4
//!          ‖ for kinds 1 to 6: probe number 1 ‖ for kinds 3 to 6: a life
//! ```
//!
//! After the header SWIM has the number of members (2), and the members.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, Message, State};
use parking_lot::Mutex;

use super::directory::{Directory, Life};
use crate::base::ids::NodeId;
use crate::members::known::is_nobody;
use crate::wire::message::MemberRecord;

/// A generation further in the future than this is nobody's: whoever claimed the last possible one for another node would
/// keep it out for ever.
const AHEAD: u32 = 24 * 3600;
/// Stands for a receiver that is not this node.
const SOMEBODY: u32 = u32::MAX;

/// Bytes that are no letter, or that do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a gossip message, or too much for one")]
pub struct BadLetter;

/// Reads and writes for one node.
pub struct Letters {
    pub directory: Arc<Mutex<Directory>>,
    pub own: NodeId,
    /// Where the datagram that is read came from, and when it was sent, by the sender's clock.
    pub from: Option<(SocketAddr, u32)>,
    /// Who sent it.
    pub sender: Option<Life>,
    /// Seconds since 1970.
    pub wall: u32,
    /// The newest generation of this very node that others know of.
    pub own_seen: u32,
    /// Others know this very node, in the life that it has, at an address that is not its own.
    pub twin: bool,
}

fn take<const N: usize>(buf: &mut impl Buf) -> Result<[u8; N], BadLetter> {
    let mut bytes = [0; N];
    buf.try_copy_to_slice(&mut bytes).map_err(|_| BadLetter)?;
    Ok(bytes)
}

fn byte(buf: &mut impl Buf) -> Result<u8, BadLetter> {
    buf.try_get_u8().map_err(|_| BadLetter)
}

fn put(buf: &mut impl BufMut, bytes: &[u8]) -> Result<(), BadLetter> {
    if buf.remaining_mut() < bytes.len() {
        return Err(BadLetter);
    }
    buf.put_slice(bytes);
    Ok(())
}

fn write_addr(buf: &mut Vec<u8>, addr: SocketAddr) {
    match addr.ip() {
        IpAddr::V4(ip) => {
            buf.push(4);
            buf.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            buf.push(6);
            buf.extend_from_slice(&ip.octets());
        }
    }
    buf.extend_from_slice(&addr.port().to_be_bytes());
}

fn read_addr(buf: &mut impl Buf) -> Result<SocketAddr, BadLetter> {
    let ip = match byte(buf)? {
        4 => IpAddr::V4(Ipv4Addr::from(take::<4>(buf)?)),
        6 => IpAddr::V6(Ipv6Addr::from(take::<16>(buf)?)),
        _ => return Err(BadLetter),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes(take(buf)?)))
}

impl Letters {
    fn write_life(&self, buf: &mut Vec<u8>, life: Life) -> Result<(), BadLetter> {
        let directory = self.directory.lock();
        let card = directory.card(life.number).ok_or(BadLetter)?;
        buf.extend_from_slice(&card.node.0);
        buf.extend_from_slice(&life.generation.to_be_bytes());
        write_addr(buf, card.claimed);
        Ok(())
    }

    fn read_life(&mut self, buf: &mut impl Buf) -> Result<Life, BadLetter> {
        let node = NodeId(take(buf)?);
        let generation = u32::from_be_bytes(take(buf)?);
        let addr = read_addr(buf)?;
        self.life(node, generation, addr)
    }

    fn life(&mut self, node: NodeId, generation: u32, addr: SocketAddr) -> Result<Life, BadLetter> {
        if generation > self.wall.saturating_add(AHEAD) || is_nobody(&node) {
            return Err(BadLetter);
        }
        let mut directory = self.directory.lock();
        if node == self.own {
            self.own_seen = self.own_seen.max(generation);
            // What others believe of this node's address is no news to it.
            let number = directory.number(&node).ok_or(BadLetter)?;
            let card = directory.card(number).ok_or(BadLetter)?;
            self.twin |= generation == card.generation && addr != card.claimed;
            return Ok(Life { number, generation });
        }
        directory.meet(node, generation, addr).ok_or(BadLetter)
    }

    /// The same of what came in a session.
    pub fn member(&mut self, record: &MemberRecord) -> Result<Member<Life>, BadLetter> {
        let life = self.life(record.node, record.generation, record.addr)?;
        Ok(Member::new(life, record.incarnation, if record.down { State::Down } else { State::Alive }))
    }
}

impl Codec<Life> for Letters {
    type Error = BadLetter;

    fn encode_header(&mut self, header: &Header<Life>, mut buf: impl BufMut) -> Result<(), BadLetter> {
        let mut out = Vec::with_capacity(128);
        let (kind, probe, life) = match header.message {
            Message::Ping(probe) => (1, Some(probe), None),
            Message::Ack(probe) => (2, Some(probe), None),
            Message::PingReq { target, probe_number } => (3, Some(probe_number), Some(target)),
            Message::IndirectPing { origin, probe_number } => (4, Some(probe_number), Some(origin)),
            Message::IndirectAck { target, probe_number } => (5, Some(probe_number), Some(target)),
            Message::ForwardedAck { origin, probe_number } => (6, Some(probe_number), Some(origin)),
            Message::Announce => (7, None, None),
            Message::Feed => (8, None, None),
            Message::Gossip => (9, None, None),
            Message::Broadcast => return Err(BadLetter),
            Message::TurnUndead => (10, None, None),
        };
        out.push(kind);
        self.write_life(&mut out, header.src)?;
        out.extend_from_slice(&header.src_incarnation.to_be_bytes());
        let (to, newest) = {
            let directory = self.directory.lock();
            let card = directory.card(header.dst.number).ok_or(BadLetter)?;
            (card.node, card.generation)
        };
        // Who is told that it is dead should know which life of it has ended, to begin a later one.
        let dead = header.message == Message::TurnUndead;
        let generation = if dead { newest.max(header.dst.generation) } else { header.dst.generation };
        out.extend_from_slice(&to.0[..8]);
        out.extend_from_slice(&generation.to_be_bytes());
        out.extend(probe);
        if let Some(life) = life {
            self.write_life(&mut out, life)?;
        }
        put(&mut buf, &out)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Life>, BadLetter> {
        let kind = byte(&mut buf)?;
        let src = self.read_life(&mut buf)?;
        self.sender = Some(src);
        let src_incarnation = u16::from_be_bytes(take(&mut buf)?);
        let to: [u8; 8] = take(&mut buf)?;
        let generation = u32::from_be_bytes(take(&mut buf)?);
        let own = self.directory.lock().number(&self.own).ok_or(BadLetter)?;
        let number = if to == self.own.0[..8] { own } else { SOMEBODY };
        if number == own && generation <= self.wall.saturating_add(AHEAD) {
            self.own_seen = self.own_seen.max(generation);
        }
        let dst = Life { number, generation };
        let message = match kind {
            1..=6 => {
                let probe_number = byte(&mut buf)?;
                match kind {
                    1 => Message::Ping(probe_number),
                    2 => Message::Ack(probe_number),
                    3 => Message::PingReq { target: self.read_life(&mut buf)?, probe_number },
                    4 => Message::IndirectPing { origin: self.read_life(&mut buf)?, probe_number },
                    5 => Message::IndirectAck { target: self.read_life(&mut buf)?, probe_number },
                    _ => Message::ForwardedAck { origin: self.read_life(&mut buf)?, probe_number },
                }
            }
            7 => Message::Announce,
            8 => Message::Feed,
            9 => Message::Gossip,
            10 => Message::TurnUndead,
            _ => return Err(BadLetter),
        };
        // One that was meant for somebody else says nothing of the way from here.
        if let Some((from, sent)) = self.from
            && src.number != own
            && dst.number == own
        {
            self.directory.lock().heard(src.number, from, sent);
        }
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(&mut self, member: &Member<Life>, mut buf: impl BufMut) -> Result<(), BadLetter> {
        let mut out = Vec::with_capacity(64);
        self.write_life(&mut out, *member.id())?;
        out.extend_from_slice(&member.incarnation().to_be_bytes());
        out.push(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        put(&mut buf, &out)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Life>, BadLetter> {
        let life = self.read_life(&mut buf)?;
        let incarnation = u16::from_be_bytes(take(&mut buf)?);
        let state = match byte(&mut buf)? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(BadLetter),
        };
        Ok(Member::new(life, incarnation, state))
    }
}
