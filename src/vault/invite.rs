//! Invites: a network as one line of text. `flashget1-` and lower-case base32 of a MessagePack body and the first four
//! bytes of its BLAKE3 hash, so that a slip of the mouse is told from a wrong invite.

use data_encoding::BASE32_NOPAD;

use super::network::{Network, Packed};

const PREFIX: &str = "flashget1-";
/// An invite with 64 trackers stays well below.
const MAX_LEN: usize = 16 * 1024;
const CHECK: usize = 4;

/// A text that is no invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadInvite {
    /// Something else altogether.
    #[error("this is not an invite: one begins with 'flashget1-'")]
    NotOne,
    /// Characters are missing or wrong.
    #[error("the invite is damaged: copy the whole line again")]
    Damaged,
    /// Made by a version that this one does not understand.
    #[error("the invite is of a kind that this version of flashget does not know")]
    Unknown,
}

/// The invite of a network: whoever has it is a member (or, of [`Network::for_tracker`], can run a tracker).
pub fn write(network: &Network) -> String {
    // A struct of plain values always packs.
    let mut body = rmp_serde::to_vec(&Packed::of(network)).unwrap_or_default();
    let check = blake3::hash(&body);
    body.extend_from_slice(&check.as_bytes()[..CHECK]);
    format!("{PREFIX}{}", BASE32_NOPAD.encode(&body).to_ascii_lowercase())
}

/// Reads an invite; white space around it is ignored.
pub fn read(text: &str) -> Result<Network, BadInvite> {
    let text = text.trim();
    let coded = text.strip_prefix(PREFIX).ok_or(BadInvite::NotOne)?;
    if text.len() > MAX_LEN {
        return Err(BadInvite::Damaged);
    }
    let bytes = BASE32_NOPAD.decode(coded.to_ascii_uppercase().as_bytes()).map_err(|_| BadInvite::Damaged)?;
    let (body, check) = bytes.split_at_checked(bytes.len().saturating_sub(CHECK)).ok_or(BadInvite::Damaged)?;
    if check != &blake3::hash(body).as_bytes()[..CHECK] {
        return Err(BadInvite::Damaged);
    }
    let packed: Packed = rmp_serde::from_slice(body).map_err(|_| BadInvite::Unknown)?;
    packed.open().ok_or(BadInvite::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::keys::NetworkKey;
    use crate::vault::network::NetworkSecret;
    use proptest::prelude::*;

    fn network() -> Network {
        let secret = NetworkSecret::Member(NetworkKey::from_bytes([5; 32]));
        Network::new("lab", secret, vec!["t.example:7440".into()]).unwrap()
    }

    #[test]
    fn an_invite_is_the_network() {
        let made = network();
        let line = write(&made);
        assert!(!line.contains(char::is_whitespace));
        let read_back = read(&format!(" {line}\n")).unwrap();
        assert_eq!((read_back.id(), read_back.name()), (made.id(), "lab"));
        assert_eq!(read_back.trackers(), made.trackers());
        let tracker = read(&write(&made.for_tracker())).unwrap();
        assert_eq!(tracker.id(), made.id());
        assert!(tracker.member_psk().is_none());
        assert_eq!(tracker.tracker_psk().expose(), made.tracker_psk().expose());
    }

    proptest! {
        #[test]
        fn damage_is_noticed(at: prop::sample::Index, to in "[a-z2-7]") {
            let line = write(&network());
            let at = PREFIX.len() + at.index(line.len() - PREFIX.len());
            prop_assume!(line[at..at + 1] != to);
            let mut bad = line.clone();
            bad.replace_range(at..at + 1, &to);
            prop_assert!(read(&bad).is_err());
            prop_assert!(read(&line[..at]).is_err());
        }

        #[test]
        fn nothing_panics(text in "(flashget1-)?.{0,200}") {
            let _ = read(&text);
        }
    }
}
