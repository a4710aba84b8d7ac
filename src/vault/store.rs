//! The vault: everything secret of a node, in one sealed file.
//!
//! Layout: `FGVAULT1`, one byte for the way it is unlocked (1 key file, 2 passphrase), for a passphrase Argon2id's memory
//! in KiB, passes and lanes (u32 LE each) and a 16-byte salt; then a 24-byte nonce and the XChaCha20-Poly1305 ciphertext
//! of the body, with everything before the nonce as associated data.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::keys::{ContentKey, NameKey};
use super::network::{Network, Packed};
use crate::base::ids::NodeId;

const MAGIC: &[u8; 8] = b"FGVAULT1";
const BY_KEY_FILE: u8 = 1;
const BY_PASSPHRASE: u8 = 2;
const SALT: usize = 16;
const NONCE: usize = 24;
/// RFC 9106, section 4, the second recommended option: 64 MiB, 3 passes, 4 lanes.
const ARGON_MEMORY_KIB: u32 = 64 * 1024;
const ARGON_PASSES: u32 = 3;
const ARGON_LANES: u32 = 4;
/// What a vault file may ask of this machine at most: a file from elsewhere must not eat all memory.
const ARGON_MAX_MEMORY_KIB: u32 = 1024 * 1024;
const ARGON_MAX_PASSES: u32 = 64;
const ARGON_MAX_LANES: u32 = 64;
/// A vault is a few KiB.
const MAX_FILE: u64 = 1024 * 1024;

/// Why a vault can't be used.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// A file operation failed.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// Not a vault, or damaged.
    #[error("{0} is not a flashget vault, or it is damaged")]
    NotAVault(PathBuf),
    /// The passphrase (or the key file) is not this vault's.
    #[error("the vault does not open: wrong passphrase or key file")]
    Wrong,
    /// It is locked by a passphrase and none was given.
    #[error("the vault is locked by a passphrase: give --passphrase-file FILE")]
    NeedsPassphrase,
    /// It is locked by a key file and a passphrase was given.
    #[error("the vault is locked by a key file, not by a passphrase")]
    NeedsKeyFile,
    /// A key file or passphrase file that others may read protects nothing.
    #[error("{0} may be read by others: run chmod 600 on it")]
    KeyFileOpen(PathBuf),
    /// Somebody else wrote it, and may read and change it at any time.
    #[error("{0} belongs to another user: make a copy of your own, and run chmod 600 on it")]
    NotOwn(PathBuf),
    /// Not a key file.
    #[error("{0} is not a flashget key file")]
    BadKeyFile(PathBuf),
    /// The network is there already.
    #[error("this node is in network '{0}' already")]
    NetworkExists(String),
    /// What was asked for needs keys that are not in memory.
    #[error("the vault is locked: run flashget unlock")]
    Locked,
    /// There is no such network.
    #[error("there is no network '{0}': see flashget network list")]
    NoNetwork(String),
    /// The system gave no random bytes.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// How a vault is unlocked.
#[derive(Clone, Debug)]
pub enum Unlock {
    /// By the bytes of a file that only the owner may read.
    KeyFile(PathBuf),
    /// By Argon2id of a passphrase.
    Passphrase(Zeroizing<String>),
}

#[derive(Serialize, Deserialize)]
struct Body {
    identity: serde_bytes::ByteArray<32>,
    name_key: serde_bytes::ByteArray<32>,
    content_key: serde_bytes::ByteArray<32>,
    networks: Vec<Packed>,
}

/// An open vault.
pub struct Vault {
    file: PathBuf,
    header: Vec<u8>,
    /// `None` while it is locked: contents do not open, and nothing can be saved.
    keys: Option<Keys>,
    identity: SigningKey,
    name_key: NameKey,
    networks: Vec<Network>,
}

/// What [`Vault::lock`] wipes.
struct Keys {
    wrapping: Zeroizing<[u8; 32]>,
    content: ContentKey,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("file", &self.file).finish_non_exhaustive()
    }
}

/// True if `signature` over `message` is `node`'s.
pub fn verify(node: NodeId, message: &[u8], signature: &[u8; 64]) -> bool {
    let signature = ed25519_dalek::Signature::from_bytes(signature);
    VerifyingKey::from_bytes(&node.0).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
}

/// Signs a message with a node's key.
pub type Signer = Box<dyn Fn(&[u8]) -> [u8; 64] + Send + Sync>;

/// A signing key that lives as long as the process: for a tracker, which nobody needs to recognise.
pub fn passing_identity() -> Result<(NodeId, Signer), VaultError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice())?;
    let key = SigningKey::from_bytes(&seed);
    let node = NodeId(key.verifying_key().to_bytes());
    Ok((node, Box::new(move |message: &[u8]| key.sign(message).to_bytes())))
}

impl Vault {
    /// Opens `file`, or makes it if it is not there (and the key file, if that is how it is unlocked).
    pub fn open_or_create(file: &Path, unlock: &Unlock) -> Result<Self, VaultError> {
        if file.exists() { Self::open(file, unlock) } else { Self::create(file, unlock) }
    }

    /// Makes a new vault with new keys. Refuses to replace one.
    pub fn create(file: &Path, unlock: &Unlock) -> Result<Self, VaultError> {
        if file.exists() {
            let error = io::Error::new(io::ErrorKind::AlreadyExists, "there is a vault already");
            return Err(VaultError::Io(file.into(), error));
        }
        let (header, wrapping) = new_header(file, unlock)?;
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice())?;
        let vault = Self {
            file: file.into(),
            header,
            keys: Some(Keys { wrapping, content: ContentKey::random()? }),
            identity: SigningKey::from_bytes(&seed),
            name_key: NameKey::random()?,
            networks: Vec::new(),
        };
        vault.save()?;
        Ok(vault)
    }

    /// Opens an existing vault.
    pub fn open(file: &Path, unlock: &Unlock) -> Result<Self, VaultError> {
        let io = |error| VaultError::Io(file.into(), error);
        if fs::metadata(file).map_err(io)?.len() > MAX_FILE {
            return Err(VaultError::NotAVault(file.into()));
        }
        let bytes = fs::read(file).map_err(io)?;
        let damaged = || VaultError::NotAVault(file.into());
        let (header, rest) = bytes.split_at_checked(header_len(&bytes).ok_or_else(damaged)?).ok_or_else(damaged)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE).ok_or_else(damaged)?;
        let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| damaged())?;
        let wrapping = wrapping_key(file, header, unlock)?;
        let cipher = XChaCha20Poly1305::new((&*wrapping).into());
        let body = cipher.decrypt(&XNonce::from(nonce), Payload { msg: sealed, aad: header });
        let mut body = body.map_err(|_| VaultError::Wrong)?;
        let parsed: Result<Body, _> = rmp_serde::from_slice(&body);
        body.zeroize();
        let parsed = parsed.map_err(|_| damaged())?;
        let networks: Option<Vec<Network>> = parsed.networks.into_iter().map(Packed::open).collect();
        Ok(Self {
            file: file.into(),
            header: header.to_vec(),
            keys: Some(Keys { wrapping, content: ContentKey::from_bytes(parsed.content_key.into_array()) }),
            identity: SigningKey::from_bytes(&parsed.identity),
            name_key: NameKey::from_bytes(parsed.name_key.into_array()),
            networks: networks.ok_or_else(damaged)?,
        })
    }

    /// True if `file` asks for a passphrase; false for a key file, or if there is no vault.
    pub fn needs_passphrase(file: &Path) -> bool {
        fs::read(file).is_ok_and(|bytes| bytes.starts_with(MAGIC) && bytes.get(MAGIC.len()) == Some(&BY_PASSPHRASE))
    }

    /// Writes the vault: beside the old one, then in its place.
    fn save(&self) -> Result<(), VaultError> {
        let keys = self.keys.as_ref().ok_or(VaultError::Locked)?;
        let body = Body {
            identity: self.identity.to_bytes().into(),
            name_key: (*self.name_key.expose()).into(),
            content_key: (*keys.content.expose()).into(),
            networks: self.networks.iter().map(Packed::of).collect(),
        };
        let body = Zeroizing::new(
            rmp_serde::to_vec(&body).map_err(|e| VaultError::Io(self.file.clone(), io::Error::other(e)))?,
        );
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce)?;
        let cipher = XChaCha20Poly1305::new((&*keys.wrapping).into());
        let sealed = cipher.encrypt(&XNonce::from(nonce), Payload { msg: &body, aad: &self.header });
        let sealed = sealed.map_err(|_| VaultError::NotAVault(self.file.clone()))?;
        write_in_place(&self.file, &[&self.header, &nonce, &sealed]).map_err(|e| VaultError::Io(self.file.clone(), e))
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        NodeId(self.identity.verifying_key().to_bytes())
    }

    /// The node's signing key, for whoever signs in its name.
    pub fn signer(&self) -> impl Fn(&[u8]) -> [u8; 64] + Send + Sync + 'static {
        let key = self.identity.clone();
        move |message| key.sign(message).to_bytes()
    }

    /// Seals names.
    pub fn name_key(&self) -> &NameKey {
        &self.name_key
    }

    /// Seals contents; [`VaultError::Locked`] while the vault is.
    pub fn content_key(&self) -> Result<&ContentKey, VaultError> {
        self.keys.as_ref().map(|keys| &keys.content).ok_or(VaultError::Locked)
    }

    /// Wipes the keys of contents, and what opens the vault, from memory. The identity, networks and names stay.
    pub fn lock(&mut self) {
        self.keys = None;
    }

    /// The vault's file, for opening it anew.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Takes back the keys that [`Vault::lock`] wiped, from the same vault, opened anew.
    pub fn unlock(&mut self, opened: Self) -> Result<(), VaultError> {
        if opened.node() != self.node() {
            return Err(VaultError::NotAVault(self.file.clone()));
        }
        (self.header, self.keys) = (opened.header, opened.keys);
        Ok(())
    }

    /// From now on the vault is unlocked by `unlock`, and by nothing else. A key file is made where there is none.
    /// Slow: Argon2id takes its time.
    pub fn change(&mut self, unlock: &Unlock) -> Result<(), VaultError> {
        let content = self.content_key()?.clone();
        let (header, wrapping) = new_header(&self.file, unlock)?;
        let old = (std::mem::replace(&mut self.header, header), self.keys.replace(Keys { wrapping, content }));
        self.save().inspect_err(|_| (self.header, self.keys) = old)
    }

    /// The networks that this node is in.
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// The network called `name`.
    pub fn network(&self, name: &str) -> Result<&Network, VaultError> {
        self.networks.iter().find(|n| n.name() == name).ok_or_else(|| VaultError::NoNetwork(name.to_owned()))
    }

    /// Adds a network and saves. The same network twice, or a name twice, is refused.
    pub fn add_network(&mut self, network: Network) -> Result<(), VaultError> {
        let same = |have: &&Network| have.name() == network.name() || have.id() == network.id();
        if let Some(have) = self.networks.iter().find(same) {
            return Err(VaultError::NetworkExists(have.name().to_owned()));
        }
        self.networks.push(network);
        self.save().inspect_err(|_| drop(self.networks.pop()))
    }

    /// Leaves a network and saves.
    pub fn remove_network(&mut self, name: &str) -> Result<(), VaultError> {
        self.network(name)?;
        let before = self.networks.clone();
        self.networks.retain(|network| network.name() != name);
        self.save().inspect_err(|_| self.networks = before)
    }
}

/// The clear header of a vault that `unlock` is to open, and the key that wraps its body. Makes a missing key file.
fn new_header(file: &Path, unlock: &Unlock) -> Result<(Vec<u8>, Zeroizing<[u8; 32]>), VaultError> {
    let mut header = MAGIC.to_vec();
    match unlock {
        Unlock::KeyFile(path) => {
            header.push(BY_KEY_FILE);
            if !path.exists() {
                create_key_file(path)?;
            }
        }
        Unlock::Passphrase(_) => {
            let mut salt = [0; SALT];
            getrandom::fill(&mut salt)?;
            header.push(BY_PASSPHRASE);
            for value in [ARGON_MEMORY_KIB, ARGON_PASSES, ARGON_LANES] {
                header.extend_from_slice(&value.to_le_bytes());
            }
            header.extend_from_slice(&salt);
        }
    }
    let wrapping = wrapping_key(file, &header, unlock)?;
    Ok((header, wrapping))
}

/// Bytes of the clear header, if this is one.
fn header_len(bytes: &[u8]) -> Option<usize> {
    let way = bytes.strip_prefix(MAGIC)?.first()?;
    match *way {
        BY_KEY_FILE => Some(MAGIC.len() + 1),
        BY_PASSPHRASE => Some(MAGIC.len() + 1 + 12 + SALT),
        _ => None,
    }
}

fn wrapping_key(file: &Path, header: &[u8], unlock: &Unlock) -> Result<Zeroizing<[u8; 32]>, VaultError> {
    let way = header.get(MAGIC.len()).copied();
    let parameters = header.get(MAGIC.len() + 1..).unwrap_or(&[]);
    match (way, unlock) {
        (Some(BY_KEY_FILE), Unlock::KeyFile(path)) => read_key_file(path),
        (Some(BY_PASSPHRASE), Unlock::Passphrase(passphrase)) => {
            let damaged = || VaultError::NotAVault(file.into());
            let (numbers, salt) = parameters.split_at_checked(12).ok_or_else(damaged)?;
            let number = |at: usize| numbers[at..at + 4].iter().rev().fold(0, |sum, &b| sum << 8 | u32::from(b));
            let (memory, passes, lanes) = (number(0), number(4), number(8));
            if memory > ARGON_MAX_MEMORY_KIB || passes > ARGON_MAX_PASSES || lanes > ARGON_MAX_LANES {
                return Err(damaged());
            }
            let params = Params::new(memory, passes, lanes, Some(32)).map_err(|_| damaged())?;
            let mut key = Zeroizing::new([0; 32]);
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice())
                .map_err(|_| damaged())?;
            Ok(key)
        }
        (Some(BY_PASSPHRASE), _) => Err(VaultError::NeedsPassphrase),
        _ => Err(VaultError::NeedsKeyFile),
    }
}

fn create_key_file(path: &Path) -> Result<(), VaultError> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(key.as_mut_slice())?;
    let text = Zeroizing::new(data_encoding::HEXLOWER.encode(key.as_slice()) + "\n");
    let write = || {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| VaultError::Io(path.into(), error))
}

fn read_key_file(path: &Path) -> Result<Zeroizing<[u8; 32]>, VaultError> {
    let io = |error| VaultError::Io(path.into(), error);
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    refuse_open(path, &metadata)?;
    let bad = || VaultError::BadKeyFile(path.into());
    if metadata.len() > 1024 {
        return Err(bad());
    }
    let mut text = Zeroizing::new(Vec::with_capacity(1024));
    file.take(1024).read_to_end(&mut text).map_err(io)?;
    let bytes = Zeroizing::new(data_encoding::HEXLOWER.decode(text.trim_ascii()).map_err(|_| bad())?);
    Ok(Zeroizing::new(bytes.as_slice().try_into().map_err(|_| bad())?))
}

/// Refuses a file with a secret that others may read, or that another user wrote. One of root's is fine: root reads everything
/// anyhow, and who hands secrets to a service (systemd does) lets its group read them. Pipes and terminals have no readers to
/// come.
pub fn refuse_open(path: &Path, metadata: &fs::Metadata) -> Result<(), VaultError> {
    match openness(metadata.is_file(), metadata.uid(), metadata.mode(), rustix::process::geteuid().as_raw()) {
        Openness::Private => Ok(()),
        Openness::Open => Err(VaultError::KeyFileOpen(path.into())),
        Openness::Foreign => Err(VaultError::NotOwn(path.into())),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Openness {
    Private,
    Open,
    Foreign,
}

fn openness(is_file: bool, owner: u32, mode: u32, user: u32) -> Openness {
    const ROOT: u32 = 0;
    // By root for another user: reading by a group is how that user gets it.
    let others = if owner == ROOT && user != ROOT { 0o027 } else { 0o077 };
    match () {
        () if !is_file => Openness::Private,
        () if owner != user && owner != ROOT => Openness::Foreign,
        () if mode & others != 0 => Openness::Open,
        () => Openness::Private,
    }
}

/// Writes a file beside `path` (0600), makes it durable, and puts it in `path`'s place: the old one stays until the new
/// one is whole.
pub fn write_in_place(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::vault::keys::NetworkKey;
    use crate::vault::network::NetworkSecret;

    fn network(tag: u8, name: &str) -> Network {
        Network::new(name, NetworkSecret::Member(NetworkKey::from_bytes([tag; 32])), vec![]).unwrap()
    }

    #[test]
    fn what_is_saved_opens_again_and_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (file, key) = (dir.path().join("vault"), dir.path().join("key"));
        let unlock = Unlock::KeyFile(key.clone());
        let mut vault = Vault::open_or_create(&file, &unlock).unwrap();
        vault.add_network(network(1, "secret-laboratory")).unwrap();
        assert!(matches!(vault.add_network(network(2, "secret-laboratory")), Err(VaultError::NetworkExists(_))));
        assert!(matches!(vault.add_network(network(1, "other")), Err(VaultError::NetworkExists(_))));
        let again = Vault::open(&file, &unlock).unwrap();
        assert_eq!(again.node(), vault.node());
        assert_eq!(again.networks().len(), 1);
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
        let signature = vault.signer()(b"message");
        assert!(verify(again.node(), b"message", &signature));
        assert!(!verify(again.node(), b"massage", &signature));

        // Locked, it is still this node, and changes nothing.
        vault.lock();
        assert!(matches!(vault.content_key(), Err(VaultError::Locked)));
        assert!(matches!(vault.add_network(network(3, "third")), Err(VaultError::Locked)));
        assert_eq!((vault.node(), vault.networks().len()), (again.node(), 1));
        let stranger = Vault::create(&dir.path().join("other"), &unlock).unwrap();
        assert!(matches!(vault.unlock(stranger), Err(VaultError::NotAVault(_))));
        let content = *again.content_key().unwrap().expose();
        vault.unlock(again).unwrap();
        assert_eq!(*vault.content_key().unwrap().expose(), content);
        vault.add_network(network(3, "third")).unwrap();

        // Another way to unlock it, and only that.
        let by_word = Unlock::Passphrase(Zeroizing::new("word".to_owned()));
        vault.change(&by_word).unwrap();
        assert!(matches!(Vault::open(&file, &unlock), Err(VaultError::NeedsPassphrase)));
        assert_eq!(*Vault::open(&file, &by_word).unwrap().content_key().unwrap().expose(), content);
        vault.change(&unlock).unwrap();
        assert!(matches!(Vault::open(&file, &by_word), Err(VaultError::NeedsKeyFile)));
        assert_eq!(Vault::open(&file, &unlock).unwrap().networks().len(), 2);

        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Vault::open(&file, &unlock), Err(VaultError::KeyFileOpen(_))));
    }

    #[test]
    fn a_secret_is_its_users_alone() {
        let of = |owner, mode, user| openness(true, owner, mode, user);
        for (user, owner) in [(0, 0), (7, 7)] {
            assert_eq!((of(owner, 0o600, user), of(owner, 0o400, user)), (Openness::Private, Openness::Private));
            for mode in [0o640, 0o604, 0o620, 0o644] {
                assert_eq!(of(owner, mode, user), Openness::Open, "{mode:o}");
            }
        }
        assert_eq!(of(8, 0o600, 7), Openness::Foreign);
        assert_eq!(of(8, 0o600, 0), Openness::Foreign, "its owner may change what root reads");
        // As systemd hands it to a service.
        assert_eq!(
            (of(0, 0o440, 7), of(0, 0o444, 7), of(0, 0o660, 7)),
            (Openness::Private, Openness::Open, Openness::Open)
        );
        assert_eq!(openness(false, 8, 0o666, 7), Openness::Private);
    }

    #[test]
    fn a_passphrase_locks_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vault");
        let unlock = |text: &str| Unlock::Passphrase(Zeroizing::new(text.to_owned()));
        Vault::create(&file, &unlock("right")).unwrap();
        assert!(Vault::needs_passphrase(&file));
        assert!(matches!(Vault::open(&file, &unlock("wrong")), Err(VaultError::Wrong)));
        let key_file = Unlock::KeyFile(dir.path().join("key"));
        assert!(matches!(Vault::open(&file, &key_file), Err(VaultError::NeedsPassphrase)));
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&file, &bytes).unwrap();
        assert!(matches!(Vault::open(&file, &unlock("right")), Err(VaultError::Wrong)));
        fs::write(&file, &bytes[..20]).unwrap();
        assert!(matches!(Vault::open(&file, &unlock("right")), Err(VaultError::NotAVault(_))));
    }
}
