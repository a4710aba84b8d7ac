//! Every limit of the protocol and the formats, in one place, with its reason. Settings that a user may change and
//! their defaults are in `settings/`.

use std::time::Duration;

/// Bytes in a name: what Linux allows (`NAME_MAX`).
pub const MAX_NAME: usize = 255;
/// Bytes in a path inside the view: what Linux lets a program name at once (`PATH_MAX`).
pub const MAX_PATH: usize = 4096;
/// Levels in a path: deep trees cost recursion in every tool that walks them.
pub const MAX_PATH_DEPTH: usize = 256;
/// Bytes in the display name of a node.
pub const MAX_NODE_NAME: usize = 64;
/// Bytes in a network's name.
pub const MAX_NETWORK_NAME: usize = 64;

/// Bytes in one control frame on the wire, checked before allocating. A catalog part is the largest; a chunk frame
/// is a chunk plus its header.
pub const MAX_FRAME: usize = 4 * 1024 * 1024;
/// Catalog bytes in one answer; a larger catalog is sent in parts.
pub const CATALOG_PART: usize = 1024 * 1024;
/// Entries in one node's catalog: what one share can sensibly publish; a hostile peer can't fill memory beyond it.
pub const MAX_CATALOG_ENTRIES: usize = 4_000_000;
/// Catalogs of one network that are kept: as many as nodes that one membership can sensibly have.
pub const MAX_CATALOGS: usize = 100_000;
/// Bytes of all catalogs of one network that are kept, about 10 million entries: what a member publishes under made-up nodes
/// ends there.
pub const MAX_CATALOG_BYTES: usize = 1 << 30;
/// Bytes of catalogs that are being fetched in parts at one time, and so are in memory unverified.
pub const CATALOGS_UNDER_WAY: usize = 256 << 20;
/// Versions of catalogs in one message: about 54 bytes each, so that they fit a catalog's part. More go in several notices;
/// where one answer is expected, some of them go, others the next time.
pub const MAX_VERSIONS: usize = 16_384;
/// Bytes in a file. A catalog that claims more is refused: a thousand times what a single disk holds, and little enough
/// that no arithmetic on offsets, or on what is kept of each chunk, comes near its end.
pub const MAX_FILE_SIZE: u64 = 1 << 50;
/// Requests that one peer may have open with us at once, from when they come until their answers have been written; more
/// are a protocol violation.
pub const MAX_REQUESTS_PER_PEER: usize = 1024;
/// Requests that we have open with one peer; more wait. Well below what the peer allows, for it still counts those that
/// we have cancelled, or whose answers we have just read.
pub const MAX_ASKED: usize = 768;

/// A handshake must be over in this time, or its connection is closed.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes in progress at once on a listening port; a connection beyond that is closed without a word, so that a flood
/// of them takes no more than this and whoever is turned away learns it at once, and tries again.
pub const MAX_HANDSHAKES: usize = 256;
/// Sessions on a node's listening port.
pub const MAX_SESSIONS: usize = 4096;
/// A TCP connection to a peer must be there in this time.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between the answer to one ping and the next: each session is pinged, also a busy one, for pings measure its round
/// trip too.
pub const KEEPALIVE: Duration = Duration::from_secs(5);
/// A session that nobody uses is pinged by each side at least this often.
pub const OWN_PING: Duration = Duration::from_secs(25);
/// A session on which a ping has had no answer for this long, and nothing else came in that time, is closed: the peer is
/// gone. One that brings anything has only a long queue.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(15);
