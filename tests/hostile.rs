//! Members that lie about catalogs: a node refuses what they bring, says so, and pays little for it.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::contents::text_file;
use common::wait::until;
use common::{Network, Node};
use ed25519_dalek::{Signer, SigningKey};
use flashget::base::clock::Timestamp;
use flashget::base::ids::{NetworkId, NodeId};
use flashget::base::limits::CATALOG_PART;
use flashget::catalog::signed::{MAX_BODY, SnapshotHead};
use flashget::net::dial::dial;
use flashget::net::handshake::{Access, Identity, Kind};
use flashget::net::link::{Answer, PeerAddr, PeerLink, Service};
use flashget::vault::invite;
use flashget::wire::message::{Buckets, CatalogAnswer, CatalogRequest, CatalogVersion, Notice, Request, Response};
use parking_lot::Mutex;
use serde_bytes::ByteBuf;

/// What one hostile member does when it is asked for a catalog.
type Lie = Box<dyn Fn(&CatalogRequest) -> CatalogAnswer + Send + Sync>;

struct Liar {
    lie: Lie,
    asked: Mutex<usize>,
}

#[async_trait]
impl Service for Liar {
    async fn connected(&self, _: Arc<dyn PeerLink>) {}

    async fn request(&self, _: &Arc<dyn PeerLink>, request: Request) -> Answer {
        Answer::Message(match request {
            Request::Catalog(request) => {
                *self.asked.lock() += 1;
                Response::Catalog((self.lie)(&request))
            }
            _ => Response::Refused,
        })
    }

    async fn notice(&self, _: &Arc<dyn PeerLink>, _: Notice) {}
}

struct Member {
    key: SigningKey,
    access: Access,
    network: NetworkId,
}

impl Member {
    fn new(invite_line: &str, tag: u8) -> Self {
        let network = invite::read(invite_line).unwrap();
        let access = Access { network: network.id(), psk: network.member_psk().unwrap(), kind: Kind::Member };
        Self { key: SigningKey::from_bytes(&[tag; 32]), access, network: network.id() }
    }

    fn node(&self) -> NodeId {
        NodeId(self.key.verifying_key().to_bytes())
    }

    fn sign(&self) -> impl Fn(&[u8]) -> [u8; 64] + Send + Sync + use<> {
        let key = self.key.clone();
        move |message: &[u8]| key.sign(message).to_bytes()
    }

    async fn join(&self, to: &Node, lie: Lie) -> (Arc<dyn PeerLink>, Arc<Liar>) {
        let identity =
            Identity { node: self.node(), sign: Arc::new(self.sign()), name: "liar".into(), listens: Vec::new() };
        let liar = Arc::new(Liar { lie, asked: Mutex::default() });
        let service: Arc<dyn Service> = liar.clone();
        let link = dial(PeerAddr::Tcp(to.addr), &identity, &self.access, None, service).await.unwrap();
        (link, liar)
    }

    /// A signed claim of a snapshot with so many bytes.
    fn head(&self, node: NodeId, body: &[u8], body_len: u64) -> Vec<u8> {
        let head = SnapshotHead {
            network: self.network,
            node,
            epoch: u64::MAX / 2,
            version: 9,
            at: Timestamp::now(),
            chain: [0; 32],
            body_hash: *blake3::hash(body).as_bytes(),
            body_len,
        };
        head.seal(&self.sign()).unwrap()
    }
}

fn snapshot(header: Vec<u8>, part: u32, parts: u32, body: Vec<u8>) -> CatalogAnswer {
    CatalogAnswer::Snapshot { header: header.into(), part, parts, body: body.into() }
}

/// Peak memory of a node's daemon, in bytes.
fn peak(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.status().pid)).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_catalog_that_is_forged_replayed_cut_short_or_too_large_is_refused_and_costs_little() {
    let network = Network::new();
    let share = network.path("share");
    text_file(&share.join("first.txt"), "first");
    let victim = network.source("victim", &share);
    let reader = network.node("reader");
    reader.sees("first.txt", 1);
    let victims_id = victim.status().node;
    let runtime = tokio::runtime::Runtime::new().unwrap();

    // Somebody keeps what the victim published at first.
    let observer = Member::new(&network.invite, 100);
    let old = runtime.block_on(async {
        let (link, _) = observer.join(&victim, Box::new(|_| CatalogAnswer::UpToDate)).await;
        let request = CatalogRequest { node: victims_id, have: None, part: None };
        let answer = link.request(Request::Catalog(request)).await.unwrap();
        link.notify(Notice::Bye);
        let Response::Catalog(answer @ CatalogAnswer::Snapshot { .. }) = answer else { panic!("{answer:?}") };
        answer
    });
    text_file(&share.join("second.txt"), "second");
    fs::remove_file(share.join("first.txt")).unwrap();
    reader.sees("second.txt", 1);
    reader.misses("first.txt");

    let before = peak(&reader);
    let liars: Vec<Member> = (1..=7).map(|tag| Member::new(&network.invite, tag)).collect();
    let body = vec![0; 100];
    let of = |member: &Member| member.node();
    let claims = |node| CatalogVersion { node, epoch: u64::MAX / 2, version: 9 };
    let forged = liars[0].head(victims_id, &body, 100);
    let short = liars[2].head(of(&liars[2]), &body, 100);
    let giant = liars[3].head(of(&liars[3]), &body, MAX_BODY as u64 + 1);
    let many = u32::try_from(64 << 20 >> 20).unwrap();
    let endless = liars[4].head(of(&liars[4]), &body, 64 << 20);
    let false_count = {
        // A body of a few bytes that says that it has four billion entries.
        let body = [&u32::MAX.to_le_bytes()[..], &[0; 12]].concat();
        (liars[5].head(of(&liars[5]), &body, body.len() as u64), body)
    };
    // A change of a catalog of which there is nothing yet.
    let deltas = CatalogAnswer::Deltas(vec![ByteBuf::from(vec![0xc1; CATALOG_PART])], None);
    let lies: Vec<(NodeId, Lie, &str)> = vec![
        (victims_id, Box::new(move |_| snapshot(forged.clone(), 0, 1, vec![0; 100])), "wrong signature"),
        (victims_id, Box::new(move |_| old.clone()), "does not belong here"),
        (of(&liars[2]), Box::new(move |_| snapshot(short.clone(), 0, 1, vec![0; 99])), "malformed"),
        (of(&liars[3]), Box::new(move |_| snapshot(giant.clone(), 0, 257, vec![0; CATALOG_PART])), "too large"),
        (
            of(&liars[4]),
            Box::new(move |request| {
                let part = request.part.map_or(0, |(_, _, part)| part);
                // Not the bytes that were signed: noticed when all are there.
                snapshot(endless.clone(), part, many, vec![0; CATALOG_PART])
            }),
            "malformed",
        ),
        (of(&liars[5]), Box::new(move |_| snapshot(false_count.0.clone(), 0, 1, false_count.1.clone())), "too large"),
        (of(&liars[6]), Box::new(move |_| deltas.clone()), "does not belong here"),
    ];
    let refusals = |what: &str| {
        let log = fs::read_to_string(&reader.log).unwrap();
        log.lines().filter(|line| line.contains("a catalog did not come") && line.contains(what)).count()
    };
    for (liar, (node, lie, says)) in liars.iter().zip(lies) {
        let refused = refusals(says);
        runtime.block_on(async {
            let (link, service) = liar.join(&reader, lie).await;
            let told = Request::Versions { buckets: Buckets([255; 32]), versions: vec![claims(node)] };
            // The session may be closed before the answer is here.
            let _ = link.request(told).await;
            // Whoever breaks the rules has its session closed.
            tokio::time::timeout(Duration::from_secs(30), link.closed()).await.unwrap();
            assert!(*service.asked.lock() > 0);
        });
        until(&format!("'{says}' is logged"), || refusals(says) > refused);
    }
    let grown = peak(&reader).saturating_sub(before) >> 20;
    eprintln!("the reader's peak memory grew by {grown} MiB");
    // One of them claimed 64 MiB and sent them; nothing else costs anything.
    assert!(grown < 64 + 64, "{grown} MiB");
    assert_eq!(reader.listing(), ["second.txt"]);
    assert_eq!(reader.stat("second.txt").unwrap().sources, 1);
    // It all works on.
    text_file(&share.join("third.txt"), "third");
    reader.sees("third.txt", 1);
}
