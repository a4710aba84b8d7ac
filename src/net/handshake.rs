//! From a fresh TCP stream to a session: preamble, Noise `XXpsk0`, identities, versions.
//!
//! The initiator sends a clear preamble (magic, newest and oldest protocol version, cipher) and the first message. A
//! responder that can't open it with any of its networks' keys closes without a byte.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use snow::params::NoiseParams;
use snow::{Builder, HandshakeState, StatelessTransportState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::cipher::Resolver;
use crate::base::ids::{NetworkId, NodeId};
use crate::base::limits::MAX_NODE_NAME;
use crate::vault::block::has_aes;
use crate::vault::keys::Psk;
use crate::vault::store::verify;
use crate::wire::message::PROTOCOL_VERSION;

const MAGIC: &[u8; 6] = b"FLSHGT";
/// The oldest protocol version that this build speaks.
const OLDEST: u8 = 1;
const PREAMBLE: usize = 10;
const AES: u8 = 1;
const CHACHA: u8 = 2;
/// Domain of the signature that binds a NodeId to a session.
const DOMAIN: &[u8] = b"flashget 2026-11 session identity";
/// Handshake messages carry a name and a few addresses.
const MAX_MESSAGE: usize = 4096;
/// Addresses that a peer may say it listens on.
const MAX_ADDRS: usize = 16;

/// Signs with the node's key.
pub type Sign = Arc<dyn Fn(&[u8]) -> [u8; 64] + Send + Sync>;

/// Who this node is, as far as a handshake says it.
#[derive(Clone)]
pub struct Identity {
    /// Its public key.
    pub node: NodeId,
    /// Signs with the private one.
    pub sign: Sign,
    /// How it calls itself; said to members only.
    pub name: String,
    /// Where it accepts sessions; an unspecified address means: the one you see.
    pub listens: Vec<SocketAddr>,
}

/// Whom a session is with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// Members with each other.
    Member,
    /// A member with a tracker.
    Tracker,
}

/// What lets this node into one network's sessions of one kind.
#[derive(Clone, Debug)]
pub struct Access {
    /// Which network.
    pub network: NetworkId,
    /// Its key for this kind of session.
    pub psk: Psk,
    /// The kind.
    pub kind: Kind,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The stream ended or failed.
    #[error("the connection broke off: {0}")]
    Io(#[from] std::io::Error),
    /// Not our protocol, or a network of which this node has no key.
    #[error("the other side is not a member of the same network")]
    Stranger,
    /// Its proof of who it is was wrong.
    #[error("the other side is not who it says")]
    Impostor,
    /// It proved to be somebody else than expected: this one.
    #[error("the other side is not who it should be")]
    Other(NodeId),
    /// This node itself answered.
    #[error("that is this node itself")]
    Myself,
    /// No common version.
    #[error("the other side speaks protocol versions that this one does not")]
    Version,
    /// Noise failed.
    #[error("the handshake failed: {0}")]
    Noise(#[from] snow::Error),
}

/// What a finished handshake gives.
pub struct Opened {
    /// Seals and opens the session's messages.
    pub noise: StatelessTransportState,
    /// The peer.
    pub node: NodeId,
    /// Its name, cut to size, valid UTF-8; empty in sessions with trackers.
    pub name: String,
    /// Where it says that it accepts sessions.
    pub listens: Vec<SocketAddr>,
    /// Which network.
    pub network: NetworkId,
    /// What kind of session.
    pub kind: Kind,
    /// What it can do, in bits.
    pub capabilities: u64,
}

/// A capability: knows the notices that ask a node to call another.
pub const PASSES_CALLS: u64 = 1;

#[derive(Serialize, Deserialize)]
struct Hello {
    node: NodeId,
    #[serde(with = "serde_bytes")]
    signature: Vec<u8>,
    name: String,
    version: u8,
    listens: Vec<SocketAddr>,
    /// Bits for what later versions can do.
    capabilities: u64,
}

fn signed(network: NetworkId, kind: Kind, initiator: bool, noise_key: &[u8], version: u8) -> Vec<u8> {
    let mut message = DOMAIN.to_vec();
    message.extend_from_slice(&network.0);
    message.push(match kind {
        Kind::Member => 1,
        Kind::Tracker => 2,
    });
    message.push(u8::from(initiator));
    message.push(version);
    message.extend_from_slice(noise_key);
    message
}

fn params(cipher: u8) -> Result<NoiseParams, HandshakeError> {
    let name = match cipher {
        AES => "Noise_XXpsk0_25519_AESGCM_BLAKE2s",
        CHACHA => "Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s",
        _ => return Err(HandshakeError::Stranger),
    };
    Ok(name.parse()?)
}

struct Side {
    state: HandshakeState,
    public: Vec<u8>,
}

fn side(cipher: u8, psk: &Psk, prologue: &[u8], initiator: bool) -> Result<Side, HandshakeError> {
    let resolver = || Box::new(Resolver::default());
    // A fresh key for each session: who a node is, its signature says.
    let keys = Builder::with_resolver(params(cipher)?, resolver()).generate_keypair()?;
    let builder = Builder::with_resolver(params(cipher)?, resolver())
        .psk(0, psk.expose())?
        .prologue(prologue)?
        .local_private_key(&keys.private)?;
    let state = if initiator { builder.build_initiator()? } else { builder.build_responder()? };
    Ok(Side { state, public: keys.public })
}

async fn send(stream: &mut TcpStream, side: &mut Side, before: &[u8], payload: &[u8]) -> Result<(), HandshakeError> {
    let mut message = vec![0; MAX_MESSAGE];
    let len = side.state.write_message(payload, &mut message)?;
    let mut out = before.to_vec();
    out.extend_from_slice(&(len as u16).to_be_bytes());
    out.extend_from_slice(&message[..len]);
    stream.write_all(&out).await?;
    Ok(())
}

async fn receive(stream: &mut TcpStream) -> Result<Vec<u8>, HandshakeError> {
    let len = usize::from(stream.read_u16().await?);
    if len > MAX_MESSAGE {
        return Err(HandshakeError::Stranger);
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

fn read(side: &mut Side, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    let mut payload = vec![0; MAX_MESSAGE];
    let len = side.state.read_message(message, &mut payload)?;
    payload.truncate(len);
    Ok(payload)
}

fn hello(
    identity: &Identity,
    access: &Access,
    side: &Side,
    initiator: bool,
    version: u8,
) -> Result<Vec<u8>, HandshakeError> {
    let message = signed(access.network, access.kind, initiator, &side.public, version);
    // A tracker need not know what nodes, or their hosts, are called.
    let mut name = if access.kind == Kind::Member { identity.name.clone() } else { String::new() };
    while name.len() > MAX_NODE_NAME {
        name.pop();
    }
    let hello = Hello {
        node: identity.node,
        signature: (identity.sign)(&message).to_vec(),
        name,
        version,
        listens: identity.listens.iter().copied().take(MAX_ADDRS).collect(),
        capabilities: if access.kind == Kind::Member { PASSES_CALLS } else { 0 },
    };
    rmp_serde::to_vec(&hello).map_err(|_| HandshakeError::Impostor)
}

/// Checks what the peer says of itself against its Noise key.
fn check(
    identity: &Identity,
    access: &Access,
    side: &Side,
    initiator: bool,
    payload: &[u8],
) -> Result<Hello, HandshakeError> {
    let mut hello: Hello = rmp_serde::from_slice(payload).map_err(|_| HandshakeError::Impostor)?;
    let key = side.state.get_remote_static().ok_or(HandshakeError::Impostor)?;
    let signature: &[u8; 64] = hello.signature.as_slice().try_into().map_err(|_| HandshakeError::Impostor)?;
    let message = signed(access.network, access.kind, initiator, key, hello.version);
    if !verify(hello.node, &message, signature) || hello.name.len() > MAX_NODE_NAME {
        return Err(HandshakeError::Impostor);
    }
    if hello.node == identity.node {
        return Err(HandshakeError::Myself);
    }
    hello.listens.truncate(MAX_ADDRS);
    Ok(hello)
}

fn opened(side: Side, access: &Access, hello: Hello) -> Result<Opened, HandshakeError> {
    Ok(Opened {
        noise: side.state.into_stateless_transport_mode()?,
        node: hello.node,
        name: hello.name,
        listens: hello.listens,
        network: access.network,
        kind: access.kind,
        capabilities: hello.capabilities,
    })
}

/// Opens a session as the one who called. `expect`: who must answer, if that is known.
pub async fn initiate(
    stream: &mut TcpStream,
    identity: &Identity,
    access: &Access,
    expect: Option<NodeId>,
) -> Result<Opened, HandshakeError> {
    let cipher = if has_aes() { AES } else { CHACHA };
    let mut preamble = [0; PREAMBLE];
    preamble[..6].copy_from_slice(MAGIC);
    preamble[6] = PROTOCOL_VERSION;
    preamble[7] = OLDEST;
    preamble[8] = cipher;
    let mut side = side(cipher, &access.psk, &preamble, true)?;
    send(stream, &mut side, &preamble, &[]).await?;
    // A stranger closes without a word.
    let answer = receive(stream).await.map_err(|error| match error {
        HandshakeError::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => HandshakeError::Stranger,
        other => other,
    })?;
    let payload = read(&mut side, &answer)?;
    let theirs = check(identity, access, &side, false, &payload)?;
    if expect.is_some_and(|expected| expected != theirs.node) {
        return Err(HandshakeError::Other(theirs.node));
    }
    if !(OLDEST..=PROTOCOL_VERSION).contains(&theirs.version) {
        return Err(HandshakeError::Version);
    }
    let ours = hello(identity, access, &side, true, theirs.version)?;
    send(stream, &mut side, &[], &ours).await?;
    opened(side, access, theirs)
}

/// Opens a session as the one who was called, in whichever of `accesses` the caller belongs to.
pub async fn respond(
    stream: &mut TcpStream,
    identity: &Identity,
    accesses: &[Access],
) -> Result<Opened, HandshakeError> {
    let mut preamble = [0; PREAMBLE];
    stream.read_exact(&mut preamble).await?;
    if &preamble[..6] != MAGIC || preamble[9] != 0 {
        return Err(HandshakeError::Stranger);
    }
    let (newest, oldest, cipher) = (preamble[6], preamble[7], preamble[8]);
    let first = receive(stream).await?;
    let mut found = None;
    for access in accesses {
        let mut side = side(cipher, &access.psk, &preamble, false)?;
        if read(&mut side, &first).is_ok() {
            found = Some((side, access));
            break;
        }
    }
    // From here on the caller is known to hold the network's key.
    let (mut side, access) = found.ok_or(HandshakeError::Stranger)?;
    let version = newest.min(PROTOCOL_VERSION);
    if version < oldest.max(OLDEST) {
        return Err(HandshakeError::Version);
    }
    let ours = hello(identity, access, &side, false, version)?;
    send(stream, &mut side, &[], &ours).await?;
    let answer = receive(stream).await?;
    let payload = read(&mut side, &answer)?;
    let theirs = check(identity, access, &side, true, &payload)?;
    if theirs.version != version {
        return Err(HandshakeError::Version);
    }
    opened(side, access, theirs)
}
