//! Signed receipts: a node attests what it got from another, so that a source which itself receives nothing can tell
//! givers from takers.

use serde::{Deserialize, Serialize};

use crate::base::ids::{NetworkId, NodeId};
use crate::vault::store::verify;
use crate::wire::message::SignedReceipt;

/// Domain of the signature.
const DOMAIN: &[u8] = b"flashget 2026-11 receipt";
/// A receipt is about 150 bytes.
const MAX_MESSAGE: usize = 512;

/// What an attester signs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Receipt {
    /// In which network.
    pub network: NetworkId,
    /// Who got.
    pub attester: NodeId,
    /// From whom.
    pub giver: NodeId,
    /// Verified bytes, in all, since the attester began to count (at most a day or so ago).
    pub bytes: u64,
    /// When it was signed, in seconds since 1970, by the attester's clock.
    pub at: i64,
}

fn signed(message: &[u8]) -> Vec<u8> {
    [DOMAIN, message].concat()
}

impl Receipt {
    /// Signs. `None` only if a plain struct can't be written, which does not happen.
    pub fn seal(&self, sign: &dyn Fn(&[u8]) -> [u8; 64]) -> Option<SignedReceipt> {
        let message = rmp_serde::to_vec(self).ok()?;
        let signature = sign(&signed(&message)).to_vec();
        Some(SignedReceipt { message: message.into(), signature: signature.into() })
    }

    /// Reads a receipt, if it is signed by the attester that it names and is for `network`.
    pub fn open(network: NetworkId, sealed: &SignedReceipt) -> Option<Self> {
        if sealed.message.len() > MAX_MESSAGE {
            return None;
        }
        let receipt: Self = rmp_serde::from_slice(&sealed.message).ok()?;
        let signature: &[u8; 64] = sealed.signature.as_slice().try_into().ok()?;
        let valid = receipt.network == network && verify(receipt.attester, &signed(&sealed.message), signature);
        valid.then_some(receipt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::store::passing_identity;

    #[test]
    fn only_the_attester_can_write_one() {
        let (attester, sign) = passing_identity().unwrap();
        let (liar, forge) = passing_identity().unwrap();
        let network = NetworkId([3; 32]);
        let receipt = Receipt { network, attester, giver: liar, bytes: 1 << 30, at: 5 };
        let sealed = receipt.seal(&*sign).unwrap();
        assert_eq!(Receipt::open(network, &sealed), Some(receipt));
        assert_eq!(Receipt::open(NetworkId([4; 32]), &sealed), None);
        assert_eq!(Receipt::open(network, &receipt.seal(&*forge).unwrap()), None);
        let mut edited = sealed;
        let last = edited.message.len() - 1;
        edited.message[last] ^= 1;
        assert_eq!(Receipt::open(network, &edited), None);
    }
}
