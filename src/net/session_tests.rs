//! Sessions over real sockets on loopback.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::*;
use crate::base::chunks::CHUNK;
use crate::base::ids::{ContentId, NetworkId, NodeId, Root};
use crate::base::limits::{CATALOG_PART, MAX_REQUESTS_PER_PEER};
use crate::base::ranges::Ranges;
use crate::net::dial::{DialError, dial};
use crate::net::handshake::{Kind, Opened, initiate};
use crate::net::link::{Answer, LinkError, PeerAddr};
use crate::vault::keys::NetworkKey;
use crate::wire::frame::{Header, Kind as FrameKind};
use crate::wire::message::{Buckets, CatalogAnswer, CatalogRequest, Notice, Request, Response};

#[derive(Default)]
struct Peer {
    links: Mutex<Vec<Arc<dyn PeerLink>>>,
    linked: Notify,
    contents: HashMap<ContentId, Bytes>,
    hanging: Arc<AtomicUsize>,
    /// Answers that were made.
    made: AtomicUsize,
    notices: Mutex<Vec<Notice>>,
    noticed: Notify,
}

struct Hanging(Arc<AtomicUsize>);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Service for Peer {
    async fn connected(&self, link: Arc<dyn PeerLink>) {
        self.links.lock().push(link);
        self.linked.notify_one();
    }

    async fn request(&self, _: &Arc<dyn PeerLink>, request: Request) -> Answer {
        match request {
            Request::Chunk { content, index } => match self.contents.get(&content) {
                Some(bytes) => {
                    let start = (index * CHUNK) as usize;
                    Answer::Chunk(bytes.slice(start..(start + CHUNK as usize).min(bytes.len())), None)
                }
                None => Answer::Message(Response::NotHere(Ranges::of(3..5))),
            },
            Request::Open(_) => {
                self.hanging.fetch_add(1, Ordering::SeqCst);
                let _hanging = Hanging(Arc::clone(&self.hanging));
                std::future::pending().await
            }
            Request::Catalog(_) => {
                self.made.fetch_add(1, Ordering::SeqCst);
                let part = serde_bytes::ByteBuf::from(vec![1; CATALOG_PART]);
                Answer::Message(Response::Catalog(CatalogAnswer::Deltas(vec![part], None)))
            }
            // More than a frame can hold.
            Request::Group { group: u64::MAX, .. } => {
                Answer::Message(Response::Group(vec![crate::base::ids::SubtreeHash([1; 32]); 200_000]))
            }
            // As large as the answer of a hash list gets, and still control.
            Request::Group { .. } => {
                self.made.fetch_add(1, Ordering::SeqCst);
                Answer::Message(Response::Group(vec![crate::base::ids::SubtreeHash([1; 32]); 256]))
            }
            _ => Answer::Message(Response::Versions(Vec::new())),
        }
    }

    async fn notice(&self, _: &Arc<dyn PeerLink>, notice: Notice) {
        self.notices.lock().push(notice);
        self.noticed.notify_one();
    }
}

fn identity(tag: u8) -> Identity {
    let key = ed25519_dalek::SigningKey::from_bytes(&[tag; 32]);
    let node = NodeId(key.verifying_key().to_bytes());
    let sign = move |message: &[u8]| ed25519_dalek::Signer::sign(&key, message).to_bytes();
    Identity { node, sign: Arc::new(sign), name: format!("node-{tag}"), listens: vec![([0, 0, 0, 0], 7450).into()] }
}

fn access(tag: u8) -> Access {
    let key = NetworkKey::from_bytes([tag; 32]);
    Access { network: key.id(), psk: key.member_psk(), kind: Kind::Member }
}

async fn listen(tag: u8, accesses: Vec<Access>, peer: Arc<Peer>) -> (Listener, PeerAddr) {
    let identity = watch::channel(identity(tag)).1;
    let listener =
        Listener::bind(([127, 0, 0, 1], 0).into(), identity, watch::channel(accesses).1, peer).await.unwrap();
    let addr = PeerAddr::Tcp(listener.local_addr());
    (listener, addr)
}

fn holder(tag: u8, size: usize) -> (Arc<Peer>, ContentId, Bytes) {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&[tag]).finalize_xof().fill(&mut bytes);
    // Half of it compresses.
    bytes[size / 2..].fill(tag);
    let content = ContentId { root: Root([tag; 32]), size: size as u64 };
    let bytes = Bytes::from(bytes);
    (Arc::new(Peer { contents: HashMap::from([(content, bytes.clone())]), ..Peer::default() }), content, bytes)
}

async fn expect_chunks(link: &dyn PeerLink, content: ContentId, bytes: &Bytes, times: usize) {
    let count = bytes.len().div_ceil(CHUNK as usize) as u64;
    let asks = (0..count * times as u64).map(|i| link.chunk(content, i % count));
    for (i, raw) in join_all(asks).await.into_iter().enumerate() {
        let at = i % count as usize * CHUNK as usize;
        let end = (at + CHUNK as usize).min(bytes.len());
        assert!(raw.unwrap().bytes == bytes.slice(at..end), "chunk {i}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_ask_for_hundreds_of_chunks_at_once() {
    let (server, there, there_bytes) = holder(1, 40 * CHUNK as usize + 5);
    let (client, here, here_bytes) = holder(2, 30 * CHUNK as usize);
    let (_listener, addr) = listen(1, vec![access(8), access(9)], Arc::clone(&server)).await;
    let link = dial(addr, &identity(2), &access(9), Some(identity(1).node), client).await.unwrap();
    assert_eq!((link.name(), link.network()), ("node-1", access(9).network));
    server.linked.notified().await;
    let back = Arc::clone(&server.links.lock()[0]);
    assert_eq!(back.node(), identity(2).node);
    assert_eq!(back.addrs(), [PeerAddr::Tcp(([127, 0, 0, 1], 7450).into())]);
    tokio::join!(expect_chunks(&*link, there, &there_bytes, 8), expect_chunks(&*back, here, &here_bytes, 8));
    let unknown = ContentId { root: Root([7; 32]), size: 1 };
    assert_eq!(link.chunk(unknown, 0).await.unwrap_err(), LinkError::NotHere(Ranges::of(3..5)));
    link.notify(Notice::Bye);
    server.noticed.notified().await;
    link.close();
    back.closed().await;
    assert_eq!(link.chunk(there, 0).await.unwrap_err(), LinkError::Closed);
}

#[tokio::test]
async fn a_dropped_request_is_cancelled_at_the_other_side() {
    let server = Arc::new(Peer::default());
    let (_listener, addr) = listen(1, vec![access(9)], Arc::clone(&server)).await;
    let link = dial(addr, &identity(2), &access(9), None, Arc::new(Peer::default())).await.unwrap();
    let content = ContentId { root: Root([7; 32]), size: 1 };
    let until = async |hanging: usize| {
        while server.hanging.load(Ordering::SeqCst) != hanging {
            tokio::task::yield_now().await;
        }
    };
    {
        let mut ask = Box::pin(link.request(Request::Open(content)));
        tokio::select! {
            _ = &mut ask => panic!("it never answers"),
            () = until(1) => {}
        }
    }
    until(0).await;
    // The session lives on.
    assert!(link.request(Request::Versions { buckets: Buckets([255; 32]), versions: Vec::new() }).await.is_ok());
}

#[tokio::test]
async fn strangers_get_no_byte() {
    let (_listener, addr) = listen(1, vec![access(9)], Arc::new(Peer::default())).await;
    let refused = dial(addr, &identity(2), &access(8), None, Arc::new(Peer::default())).await;
    assert!(matches!(refused.unwrap_err(), DialError::Handshake(HandshakeError::Stranger)));
    let PeerAddr::Tcp(addr) = addr;
    // A well-formed first message of another network, sent by hand, and what else comes to a port.
    for first in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"FLSHGT\x01\x01\x01\x00\x00\x30",
        &[b"FLSHGT\x01\x01\x01\x00\x00\x30", &[9; 48][..]].concat(),
    ] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(first).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // Closed, or reset: either way without a byte.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
    }
}

#[tokio::test]
async fn impostors_and_oneself_are_refused() {
    let (_listener, addr) = listen(1, vec![access(9)], Arc::new(Peer::default())).await;
    let wrong = dial(addr, &identity(2), &access(9), Some(NodeId([3; 32])), Arc::new(Peer::default())).await;
    assert!(matches!(wrong.unwrap_err(), DialError::Handshake(HandshakeError::Other(_))));
    let own = dial(addr, &identity(1), &access(9), None, Arc::new(Peer::default())).await;
    assert!(matches!(own.unwrap_err(), DialError::Handshake(HandshakeError::Myself)));
    // Signs with another key than it names.
    let liar = Identity { node: identity(4).node, ..identity(2) };
    let link = dial(addr, &liar, &access(9), None, Arc::new(Peer::default())).await;
    // It learns of its refusal only from the closed session.
    if let Ok(link) = link {
        link.closed().await;
    }
}

#[tokio::test]
async fn a_tracker_learned_the_names_of_nodes() {
    let server = Arc::new(Peer::default());
    let of_tracker = Access { kind: Kind::Tracker, ..access(9) };
    let (_listener, addr) = listen(1, vec![of_tracker.clone()], Arc::clone(&server)).await;
    let link = dial(addr, &identity(2), &of_tracker, None, Arc::new(Peer::default())).await.unwrap();
    server.linked.notified().await;
    let back = Arc::clone(&server.links.lock()[0]);
    assert_eq!((back.node(), back.name(), link.name()), (identity(2).node, "", ""));
}

/// Forwards between a client and `to`, flipping one bit of the byte at `at` of what the client receives, and keeps all.
async fn tampering(to: PeerAddr, at: usize) -> (PeerAddr, Arc<Mutex<Vec<u8>>>) {
    let PeerAddr::Tcp(to) = to;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = PeerAddr::Tcp(listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(to).await.unwrap();
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        let up = async {
            let mut buffer = [0; 4096];
            while let Ok(got @ 1..) = from_client.read(&mut buffer).await {
                record.lock().extend_from_slice(&buffer[..got]);
                let _ = to_server.write_all(&buffer[..got]).await;
            }
        };
        let down = async {
            let (mut buffer, mut passed) = ([0; 4096], 0);
            while let Ok(got @ 1..) = from_server.read(&mut buffer).await {
                if (passed..passed + got).contains(&at) {
                    buffer[at - passed] ^= 16;
                }
                passed += got;
                record.lock().extend_from_slice(&buffer[..got]);
                let _ = to_client.write_all(&buffer[..got]).await;
            }
        };
        tokio::select! { () = up => {}, () = down => {} }
    });
    (addr, seen)
}

#[tokio::test]
async fn a_changed_byte_ends_the_session_and_delivers_nothing() {
    let (server, content, bytes) = holder(1, 3 * CHUNK as usize);
    let (_listener, addr) = listen(1, vec![access(9)], server).await;
    for at in [0, 5, 100, 300, 700, 1000, 66_000, 200_000, 262_144, 400_000] {
        let (proxy, _) = tampering(addr, at).await;
        let Ok(link) = dial(proxy, &identity(2), &access(9), None, Arc::new(Peer::default())).await else { continue };
        for index in 0..3 {
            match link.chunk(content, index).await {
                Ok(raw) => assert!(raw.bytes == bytes.slice((index * CHUNK) as usize..((index + 1) * CHUNK) as usize)),
                Err(error) => assert_eq!(error, LinkError::Closed),
            }
        }
        // A changed length may leave the reader waiting for more; whatever came was right.
        link.close();
    }
}

#[tokio::test]
async fn nothing_readable_goes_over_the_wire() {
    let text = b"the quick brown fox jumps over the lazy dog. ".repeat(4000);
    let content = ContentId { root: Root(*blake3::hash(&text).as_bytes()), size: text.len() as u64 };
    let server = Arc::new(Peer { contents: HashMap::from([(content, Bytes::from(text))]), ..Peer::default() });
    let (_listener, addr) = listen(1, vec![access(9)], server).await;
    let (proxy, seen) = tampering(addr, usize::MAX).await;
    let link = dial(proxy, &identity(2), &access(9), None, Arc::new(Peer::default())).await.unwrap();
    link.chunk(content, 0).await.unwrap();
    let seen = seen.lock().clone();
    assert!(seen.len() > 100_000);
    let network: NetworkId = access(9).network;
    for secret in [
        &b"quick brown"[..],
        b"node-1",
        b"node-2",
        &identity(1).node.0[..8],
        &identity(2).node.0[..8],
        &content.root.0[..8],
        &network.0[..8],
    ] {
        assert!(!seen.windows(secret.len()).any(|window| window == secret));
    }
}

/// A peer that asks by hand, as often as it likes, and reads nothing of the answers.
struct Deaf {
    stream: TcpStream,
    opened: Opened,
    sent: u32,
}

impl Deaf {
    async fn connect(addr: PeerAddr) -> Self {
        let PeerAddr::Tcp(addr) = addr;
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        // Or the kernel would read for it.
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        let mut stream = socket.connect(addr).await.unwrap();
        let opened = initiate(&mut stream, &identity(2), &access(9), None).await.unwrap();
        Self { stream, opened, sent: 0 }
    }

    /// False once the session is over.
    async fn ask(&mut self, request: &Request) -> bool {
        let body = rmp_serde::to_vec(request).unwrap();
        let header =
            Header { kind: FrameKind::Request, len: body.len() as u32, flags: 0, id: self.sent + 1, plain_len: 0 };
        let plain = [&header.write()[..], &body].concat();
        let mut sealed = vec![0; plain.len() + 16];
        self.opened.noise.write_message(u64::from(self.sent), &plain, &mut sealed).unwrap();
        self.sent += 1;
        let record = [&(sealed.len() as u16).to_be_bytes()[..], &sealed].concat();
        self.stream.write_all(&record).await.is_ok()
    }
}

/// Until it has not moved for a while.
async fn settled(count: &AtomicUsize) -> usize {
    let mut before = usize::MAX;
    loop {
        let now = count.load(Ordering::SeqCst);
        if now == before {
            return now;
        }
        before = now;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_answers_to_a_peer_that_does_not_read_filled_the_memory() {
    let server = Arc::new(Peer::default());
    let (_listener, addr) = listen(1, vec![access(9)], Arc::clone(&server)).await;
    let mut deaf = Deaf::connect(addr).await;
    let part = Request::Catalog(CatalogRequest { node: NodeId([7; 32]), have: None, part: None });
    for _ in 0..300 {
        assert!(deaf.ask(&part).await, "300 open requests are allowed");
    }
    let made = settled(&server.made).await;
    // Four have room; some more went into the kernel's buffers.
    assert!((4..20).contains(&made), "{made} answers of a mebibyte were made");
    assert!(!server.links.lock()[0].is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_stopped_counting_once_its_answer_was_queued() {
    let server = Arc::new(Peer::default());
    let (_listener, addr) = listen(1, vec![access(9)], Arc::clone(&server)).await;
    let mut deaf = Deaf::connect(addr).await;
    let group = Request::Group { content: ContentId { root: Root([7; 32]), size: 1 }, group: 0 };
    for _ in 0..3 * MAX_REQUESTS_PER_PEER {
        if !deaf.ask(&group).await {
            break;
        }
    }
    settled(&server.made).await;
    assert!(server.links.lock()[0].is_closed(), "{} answers were queued", server.made.load(Ordering::SeqCst));
}

/// More than a peer allows are asked at once: the others wait here, and nobody breaks the rules.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_requests_at_once_end_no_session() {
    let server = Arc::new(Peer::default());
    let (_listener, addr) = listen(1, vec![access(9)], Arc::clone(&server)).await;
    let link = dial(addr, &identity(2), &access(9), None, Arc::new(Peer::default())).await.unwrap();
    let group = Request::Group { content: ContentId { root: Root([7; 32]), size: 1 }, group: 0 };
    let asks = (0..3 * MAX_REQUESTS_PER_PEER).map(|_| link.request(group.clone()));
    assert!(join_all(asks).await.iter().all(Result::is_ok));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_fits_no_frame_ended_the_session() {
    let (server, content, bytes) = holder(1, 3 * CHUNK as usize);
    let (_listener, addr) = listen(1, vec![access(8)], server).await;
    let link = dial(addr, &identity(2), &access(8), None, Arc::new(Peer::default())).await.unwrap();
    let answer = link.request(Request::Group { content, group: u64::MAX }).await;
    assert_eq!(answer, Err(LinkError::Refused));
    expect_chunks(&*link, content, &bytes, 1).await;
    assert!(!link.is_closed());
}
