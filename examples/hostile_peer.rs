//! A member that lies, for `scripts/bench-swarm`: it publishes a file like an honest node and then sends flipped bits,
//! other chunks, or nothing at all.
//!
//! Usage: hostile_peer HOME LISTEN FILE NAME flip|other|silent

use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use flashget::base::chunks::{CHUNK, chunk_count, chunk_len, chunk_start};
use flashget::base::clock::Timestamp;
use flashget::base::names::ValidPath;
use flashget::base::ranges::Ranges;
use flashget::base::tree::{Manifest, manifest_of};
use flashget::catalog::entry::Entry;
use flashget::members::membership::{Around, Membership};
use flashget::net::handshake::Identity;
use flashget::net::link::{Answer, PeerLink, Service};
use flashget::net::listen::Listener;
use flashget::settings::home::Home;
use flashget::vault::sealer::Sealer;
use flashget::vault::store::{Unlock, Vault};
use flashget::wire::message::{Notice, Opened, Request, Response};
use tokio::sync::watch;

struct Liar {
    lie: String,
    bytes: Bytes,
    manifest: Manifest,
    membership: OnceLock<Arc<Membership>>,
}

impl Liar {
    async fn chunk(&self, index: u64) -> Answer {
        let count = chunk_count(self.bytes.len() as u64);
        let real = |index: u64| {
            let start = chunk_start(index) as usize;
            self.bytes.slice(start..start + chunk_len(self.bytes.len() as u64, index))
        };
        match self.lie.as_str() {
            "flip" => {
                let mut wrong = real(index).to_vec();
                wrong[(index % CHUNK) as usize % 1000] ^= 1;
                Answer::Chunk(wrong.into(), None)
            }
            "other" => Answer::Chunk(real((index + 1) % count), None),
            _ => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Service for Liar {
    async fn connected(&self, link: Arc<dyn PeerLink>) {
        if let Some(membership) = self.membership.get() {
            membership.connected(link);
        }
    }

    async fn request(&self, link: &Arc<dyn PeerLink>, request: Request) -> Answer {
        let Some(membership) = self.membership.get() else { return Answer::Message(Response::Busy) };
        if let Some(response) = membership.answer(link, &request) {
            return Answer::Message(response);
        }
        match request {
            Request::Open(content) if content == self.manifest.content() => Answer::Message(Response::Opened(Opened {
                held: Ranges::of(0..chunk_count(content.size)),
                groups: self.manifest.groups(),
                first_group: self.manifest.group(0).to_vec(),
                content: None,
                max_requests: 256,
            })),
            Request::Group { group, .. } => Answer::Message(Response::Group(self.manifest.group(group).to_vec())),
            Request::Chunk { index, .. } => self.chunk(index).await,
            _ => Answer::Message(Response::Refused),
        }
    }

    async fn notice(&self, link: &Arc<dyn PeerLink>, notice: Notice) {
        if let Some(membership) = self.membership.get() {
            membership.notice(link, notice);
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [home, listen, file, name, lie] = words.as_slice() else {
        return Err("usage: hostile_peer HOME LISTEN FILE NAME flip|other|silent".into());
    };
    let home = Home::below(home.as_ref());
    let vault = Vault::open(&home.vault_file(), &Unlock::KeyFile(home.key_file()))?;
    let network = vault.networks().first().ok_or("the home is in no network")?.clone();
    let bytes = Bytes::from(std::fs::read(file)?);
    let manifest = manifest_of(&bytes);
    let content = manifest.content();
    let liar = Arc::new(Liar { lie: lie.clone(), bytes, manifest, membership: OnceLock::new() });
    let service: Arc<dyn Service> = liar.clone();
    let identity = Identity {
        node: vault.node(),
        sign: Arc::new(vault.signer()),
        name: format!("liar-{lie}"),
        listens: vec![listen.parse()?],
    };
    let around = Arc::new(Around {
        identity: identity.clone(),
        sealer: Arc::new(Sealer::new(vault.name_key())),
        state_dir: home.state_dir().to_path_buf(),
        linger: std::time::Duration::from_secs(60),
        peers: Vec::new(),

        remember: true,
        mesh: 16,
        datagrams: None,
        whole: Box::new(|_| false),
        whole_changes: watch::channel(0).1,
        service: OnceLock::from(Arc::downgrade(&service) as Weak<dyn Service>),
    });
    let membership = Membership::load(&network, around, flashget::members::pending::Pending::default())
        .ok_or("only a tracker's key")?;
    let access = membership.access().clone();
    let entry = Entry {
        path: ValidPath::new(name.as_bytes())?,
        content,
        mtime: Timestamp { secs: 1_700_000_000, nanos: 0 },
        executable: false,
    };
    membership.publish(&[entry])?;
    // Set once, just above.
    let _ = liar.membership.set(Arc::clone(&membership));
    membership.begin();
    let (identities, accesses) = (watch::channel(identity).1, watch::channel(vec![access]).1);
    let _listener = Listener::bind(listen.parse()?, identities, accesses, service).await?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}
