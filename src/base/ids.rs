//! Identities: who a node is, which network it belongs to, and what a file is. In JSON they are hexadecimal text, as they
//! are printed everywhere else; in MessagePack (the wire, files) 32 bytes.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::chunks::CHUNK;

/// A 32-byte value that is not what it should be: the text form did not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hexadecimal digits")]
pub struct BadHex;

fn parse_hex(text: &str) -> Result<[u8; 32], BadHex> {
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| BadHex)?;
    bytes.try_into().map_err(|_| BadHex)
}

struct HexVisitor;

impl Visitor<'_> for HexVisitor {
    type Value = [u8; 32];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("64 hexadecimal digits")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<[u8; 32], E> {
        parse_hex(text).map_err(E::custom)
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The first `digits` hexadecimal digits: enough to tell two apart in a log or a table.
            pub fn short(&self, digits: usize) -> String {
                let mut hex = data_encoding::HEXLOWER.encode(&self.0);
                hex.truncate(digits);
                hex
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short(12))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                if to.is_human_readable() { to.collect_str(self) } else { to.serialize_bytes(&self.0) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                if from.is_human_readable() {
                    from.deserialize_str(HexVisitor).map(Self)
                } else {
                    serde_bytes::deserialize(from).map(Self)
                }
            }
        }

        impl FromStr for $name {
            type Err = BadHex;

            fn from_str(text: &str) -> Result<Self, BadHex> {
                parse_hex(text).map(Self)
            }
        }
    };
}

hex_id! {
    /// A node: its Ed25519 public key.
    NodeId
}
hex_id! {
    /// A network: derived from its key, safe to show to members; says nothing of the key.
    NetworkId
}
hex_id! {
    /// A file's BLAKE3 hash, exactly what `b3sum FILE` prints.
    Root
}
hex_id! {
    /// The BLAKE3 subtree hash of an aligned piece of a file (a group or a chunk).
    /// For a file of one chunk it is the root itself.
    SubtreeHash
}

/// What a file is: its bytes' hash and their number. Two names with one identity are one file with two sources.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ContentId {
    /// BLAKE3 of the whole file.
    pub root: Root,
    /// Bytes. Trusted only once the last chunk has been verified: the tree proves no length.
    pub size: u64,
}

impl ContentId {
    /// True for at most one chunk: it is proved by its root alone, and comes whole with the opening.
    pub fn is_small(&self) -> bool {
        self.size <= CHUNK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_goes_there_and_back() {
        let root = Root([0xab; 32]);
        assert_eq!(root.to_string().parse::<Root>(), Ok(root));
        assert_eq!(root.short(4), "abab");
        assert!("abc".parse::<Root>().is_err());
        assert!("zz".repeat(32).parse::<Root>().is_err());
    }

    #[test]
    fn ids_were_arrays_of_numbers_in_json() {
        let content = ContentId { root: Root([0xab; 32]), size: 7 };
        let json = serde_json::to_string(&content).unwrap();
        assert_eq!(json, format!(r#"{{"root":"{}","size":7}}"#, "ab".repeat(32)));
        assert_eq!(serde_json::from_str::<ContentId>(&json).unwrap(), content);
        assert_eq!(serde_json::from_value::<ContentId>(serde_json::to_value(content).unwrap()).unwrap(), content);
        for wrong in [r#""abcd""#, r#""""#, "[1, 2]", "null"] {
            assert!(serde_json::from_str::<NodeId>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn in_messagepack_an_id_is_32_bytes() {
        let node = NodeId([0xcd; 32]);
        let packed = rmp_serde::to_vec(&node).unwrap();
        assert_eq!(packed, [&[0xc4, 32][..], &[0xcd; 32]].concat());
        assert_eq!(rmp_serde::from_slice::<NodeId>(&packed).unwrap(), node);
        assert!(rmp_serde::from_slice::<NodeId>(&[&[0xc4, 31][..], &[0xcd; 31]].concat()).is_err());
        assert!(rmp_serde::from_slice::<NodeId>(&rmp_serde::to_vec(&"cd".repeat(32)).unwrap()).is_err());
    }
}
