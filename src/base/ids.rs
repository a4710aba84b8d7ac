//! Identities: who a node is, which network it belongs to, and what a file is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A 32-byte value that is not what it should be: the text form did not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hexadecimal digits")]
pub struct BadHex;

/// 64 digits in JSON, where people and programs compare them with what `b3sum` prints; bytes in MessagePack.
mod hex_for_people {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() {
            to.serialize_str(&data_encoding::HEXLOWER.encode(bytes))
        } else {
            serde_bytes::serialize(bytes, to)
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        if !from.is_human_readable() {
            return serde_bytes::deserialize(from);
        }
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        let bytes =
            data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| D::Error::custom(super::BadHex))?;
        bytes.try_into().map_err(|_| D::Error::custom(super::BadHex))
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(#[serde(with = "hex_for_people")] pub [u8; 32]);

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

        impl FromStr for $name {
            type Err = BadHex;

            fn from_str(text: &str) -> Result<Self, BadHex> {
                let bytes = data_encoding::HEXLOWER_PERMISSIVE
                    .decode(text.as_bytes())
                    .map_err(|_| BadHex)?;
                Ok(Self(bytes.try_into().map_err(|_| BadHex)?))
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
        let json = serde_json::to_string(&root).unwrap();
        assert_eq!(json, format!("\"{root}\""));
        assert_eq!(serde_json::from_str::<Root>(&json).unwrap(), root);
        let packed = rmp_serde::to_vec(&root).unwrap();
        assert_eq!(packed.len(), 34);
        assert_eq!(rmp_serde::from_slice::<Root>(&packed).unwrap(), root);
    }
}
