//! What can be seen of a network from outside: of its traffic, and by those who don't hold its key.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::capture::Capture;
use common::contents::{MIB, hash_of, marked_file, random_file, text_file};
use common::process::tool;
use common::relay::Relay;
use common::search::{found_in, markers};
use common::wait::until;
use common::{Network, Node};
use flashget::base::ids::ContentId;
use flashget::net::dial::dial;
use flashget::net::handshake::{Access, Identity, Kind, initiate};
use flashget::net::link::{Answer, LinkError, PeerAddr, PeerLink, Service};
use flashget::vault::invite;
use flashget::vault::keys::Psk;
use flashget::vault::store::passing_identity;
use flashget::wire::message::{Notice, Request, Response};

/// A stranger's connection is closed in this time: well before a handshake times out.
const CLOSED: Duration = Duration::from_secs(5);

/// The two nodes of the traffic test do what nodes do, with things that can be told in a capture.
fn traffic(network: &Network, source: &mut Node, reader: &mut Node, size: u64) {
    let share = network.path("zq-shared-folder");
    let hash =
        marked_file(&share.join("zq-folder/zq-image.bin"), size, "traffic", Some(b"zq-marker-inside-of-the-content!"));
    text_file(&share.join("zq-folder/zq-text.txt"), "zq-line-of-a-text that compresses well\n".repeat(100_000));
    text_file(&share.join("zq-small.txt"), "zq-small-content");
    source.start();
    source.share(&share);
    reader.start();
    let mount = reader.mount();
    reader.sees("zq-folder/zq-image.bin", 1);
    let copy = network.path("copy");
    tool("cp", ["-r".as_ref(), mount.as_os_str(), copy.as_os_str()]);
    assert_eq!(hash_of(&copy.join("zq-folder/zq-image.bin")), hash);
    text_file(&share.join("zq-later.txt"), "zq-later-content");
    reader.sees("zq-later.txt", 1);
    assert_eq!(std::fs::read_to_string(mount.join("zq-later.txt")).unwrap(), "zq-later-content");
    reader.umount();
    reader.stop();
    source.stop();
}

const SECRETS: [&str; 11] = [
    "zq-shared-folder",
    "zq-folder",
    "zq-image",
    "zq-text",
    "zq-small",
    "zq-later",
    "zq-marker-inside-of-the-content!",
    "zq-line-of-a-text",
    "zq-network",
    "zq-alice",
    "zq-bob",
];

#[test]
fn the_traffic_shows_no_name_no_path_and_no_content() {
    let size = 48 * MIB;
    let as_root = rustix::process::geteuid().is_root();
    let ip = std::net::Ipv4Addr::LOCALHOST;
    let (network, relay) = if as_root {
        (Network::without_tracker("zq-network"), None)
    } else {
        // Nobody but root may capture: instead everything goes through relays that remember it.
        let tracker = common::network::free_port(ip);
        let relay = Relay::start(tracker);
        (Network::at("zq-network", ip, tracker, relay.addr), Some(relay))
    };
    let mut network = network;
    let capture = as_root.then(|| Capture::start(network.ip));
    network.start_tracker();
    let (mut source, mut reader) = (network.member("zq-alice"), network.member("zq-bob"));
    let mut relays: Vec<Relay> = relay.into_iter().collect();
    if !as_root {
        for node in [&source, &reader] {
            let relay = Relay::start(node.addr);
            node.settings(&format!("node.advertise = \"{}\"\n", relay.addr));
            relays.push(relay);
        }
    }
    traffic(&network, &mut source, &mut reader, size);
    // The proof that what is sent in the clear is found.
    let control = "zq-sent-in-the-clear";
    let listener = std::net::TcpListener::bind((network.ip, 0)).unwrap();
    let through = if as_root {
        listener.local_addr().unwrap()
    } else {
        relays.push(Relay::start(listener.local_addr().unwrap()));
        relays.last().unwrap().addr
    };
    TcpStream::connect(through).unwrap().write_all(control.as_bytes()).unwrap();
    let mut heard = String::new();
    listener.accept().unwrap().0.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, control);

    let flows: Vec<Vec<u8>> = match capture {
        Some(capture) => capture.finish().flows().map(<[u8]>::to_vec).collect(),
        None => relays.iter().flat_map(Relay::flows).collect(),
    };
    let seen: u64 = flows.iter().map(|flow| flow.len() as u64).sum();
    assert!(seen > size, "{seen} bytes were seen, but the file alone has {size}");
    let secrets = markers(&SECRETS);
    for flow in &flows {
        assert_eq!(found_in(flow, &secrets), Vec::<&str>::new(), "in a flow of {} bytes", flow.len());
    }
    let control = markers(&[control]);
    assert_eq!(flows.iter().filter(|flow| !found_in(flow, &control).is_empty()).count(), 1);
}

fn identity(name: &str) -> Identity {
    let (node, sign) = passing_identity().unwrap();
    Identity { node, sign: Arc::new(sign), name: name.into(), listens: Vec::new() }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// The bytes that a node sends first, made by the node's own code.
fn first_message(access: &Access) -> Vec<u8> {
    let runtime = runtime();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let access = access.clone();
        let caller = tokio::spawn(async move {
            let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
            // Nobody answers.
            let _ = initiate(&mut stream, &identity("stranger"), &access, None).await;
        });
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut message = vec![0; 12];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut message).await.unwrap();
        let mut rest = vec![0; usize::from(u16::from_be_bytes([message[10], message[11]]))];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut rest).await.unwrap();
        drop(stream);
        caller.await.unwrap();
        message.extend(rest);
        message
    })
}

/// Sends bytes and returns what comes back until the connection is closed; at most a few, where it stays open.
fn answer(addr: SocketAddr, message: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(CLOSED)).unwrap();
    stream.write_all(message).unwrap();
    let mut heard = vec![0; 16];
    match stream.read(&mut heard) {
        Ok(len) => heard.truncate(len),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => heard.clear(),
        Err(error) => panic!("the connection is neither answered nor closed: {error}"),
    }
    heard
}

fn access(text: &str, kind: Kind) -> Access {
    let network = invite::read(text).unwrap();
    let psk = match kind {
        Kind::Member => network.member_psk().unwrap(),
        Kind::Tracker => network.tracker_psk(),
    };
    Access { network: network.id(), psk, kind }
}

#[test]
fn a_stranger_gets_no_answer_at_all() {
    let network = Network::new();
    let node = network.node("node");
    let other = Network::without_tracker("other");
    for (addr, kind, wrong_kind) in
        [(node.addr, Kind::Member, Kind::Tracker), (network.tracker_addr(), Kind::Tracker, Kind::Member)]
    {
        let right = access(&network.invite, kind);
        assert!(!answer(addr, &first_message(&right)).is_empty(), "a member is answered");

        let mut strangers = vec![
            first_message(&access(&other.invite, kind)),
            first_message(&access(&network.invite, wrong_kind)),
            first_message(&Access { psk: Psk::random().unwrap(), ..right.clone() }),
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
            vec![0; 100],
        ];
        // And a member's message that was altered anywhere.
        for at in [0, 6, 8, 9, 13, 40, 59] {
            let mut message = first_message(&right);
            message[at] ^= 1;
            strangers.push(message);
        }
        for message in strangers {
            let began = Instant::now();
            assert_eq!(answer(addr, &message), b"", "{:02x?}", &message[..message.len().min(16)]);
            assert!(began.elapsed() < CLOSED);
        }
    }
    assert_eq!(node.status().networks[0].peers, 0);
}

/// A peer that serves nothing.
struct Nothing;

#[async_trait::async_trait]
impl Service for Nothing {
    async fn connected(&self, _: Arc<dyn PeerLink>) {}

    async fn request(&self, _: &Arc<dyn PeerLink>, _: Request) -> Answer {
        Answer::Message(Response::Refused)
    }

    async fn notice(&self, _: &Arc<dyn PeerLink>, _: Notice) {}
}

#[test]
fn a_network_gets_nothing_of_another_one_that_a_node_is_in_too() {
    let (first, second) = (Network::named("first"), Network::named("second"));
    let (shared_first, shared_second) = (first.path("one"), first.path("two"));
    let size = MIB + 77;
    random_file(&shared_first.join("first-only.bin"), size, "first");
    text_file(&shared_second.join("second-only.txt"), "second");
    let remote = first.path("remote");
    let cached_hash = random_file(&remote.join("cached.bin"), size, "cached");

    // One home in both networks, with a share for each; it must be said which.
    let both = first.node("both");
    both.join(&second.invite);
    let add = |dir: &std::path::Path, network: &[&str]| {
        both.run([&["share", "add", dir.to_str().unwrap()], network].concat())
    };
    add(&shared_first, &[]).refused(2, "first, second");
    add(&shared_first, &["--network", "first"]).ok();
    add(&shared_second, &["--network", "second"]).ok();
    let (in_first, in_second) = (first.source("in-first", &remote), second.node("in-second"));
    in_first.sees("first-only.bin", 1);
    in_second.sees("second-only.txt", 1);
    assert_eq!(in_first.listing(), ["cached.bin", "first-only.bin"]);
    assert_eq!(in_second.listing(), ["second-only.txt"]);
    both.run(["mount", both.mount_point.to_str().unwrap()]).refused(2, "first, second");
    both.mount_with(&["first"]);
    assert_eq!(hash_of(&both.mount_point.join("cached.bin")), cached_hash);
    until("it is in the cache", || both.stat_in(Some("first"), "cached.bin").unwrap().cached_percent == 100);
    both.run(["ls"]).refused(2, "first, second");
    assert_eq!(both.json(["ls", "--network", "second"])["entries"][0]["path"], "second-only.txt");

    // A member of each asks for everything by its root, which it may have guessed.
    let file = |node: &Node, path: &str| {
        let entry = node.stat(path).unwrap();
        ContentId { root: entry.root.unwrap(), size: entry.size }
    };
    let contents = [file(&in_first, "first-only.bin"), file(&in_first, "cached.bin")];
    let of_second = file(&in_second, "second-only.txt");
    let ask = |invite: &str, content: ContentId| {
        runtime().block_on(async {
            let access = access(invite, Kind::Member);
            let link =
                dial(PeerAddr::Tcp(both.addr), &identity("asker"), &access, None, Arc::new(Nothing)).await.unwrap();
            let opened = link.request(Request::Open(content)).await;
            let group = link.request(Request::Group { content, group: 0 }).await;
            let chunk = link.chunk(content, 0).await;
            link.close();
            (opened, group, chunk.map(|chunk| chunk.bytes.len()))
        })
    };
    for content in contents {
        let (opened, group, chunk) = ask(&first.invite, content);
        assert!(matches!(opened, Ok(Response::Opened(_))), "{opened:?}");
        assert!(matches!(group, Ok(Response::Group(_))), "{group:?}");
        assert_eq!(chunk, Ok(256 << 10));
        let nothing = |error: &LinkError| matches!(error, LinkError::NotHere(held) if held.is_empty());
        let (opened, group, chunk) = ask(&second.invite, content);
        assert!(opened.as_ref().is_err_and(nothing), "{opened:?}");
        assert!(group.as_ref().is_err_and(nothing), "{group:?}");
        assert!(chunk.as_ref().is_err_and(nothing), "{chunk:?}");
    }
    assert!(ask(&second.invite, of_second).0.is_ok());
    assert!(ask(&first.invite, of_second).0.is_err());
}
