//! Snappy, where it pays: a sample tells whether the bytes shrink, and a link that is faster than the compressor gets
//! them as they are. Pure.

use crate::base::chunks::CHUNK;

/// Bytes of the sample: enough to see structure, about 10 µs of work.
const SAMPLE: usize = 4096;
/// Compression must save at least 1 part in this many to be worth the other side's work.
const WORTH: usize = 10;
/// Snappy compresses real binaries at 0.34 GB/s on one core (measured, docs/ARCHITECTURE.md). A link that takes half of
/// that or more gains little and loses a core.
const FAST_LINK: u64 = 170_000_000;
/// Before a link's rate is known: one with a longer round trip than this is taken for slow.
const FAR_MICROS: u64 = 2_000;

/// True if a link with these measurements is worth compressing for. `rate` in bytes per second and `rtt_micros` are 0
/// where they are not known yet.
pub fn pays_on(rate: u64, rtt_micros: u64) -> bool {
    match rate {
        0 => rtt_micros > FAR_MICROS,
        rate => rate < FAST_LINK,
    }
}

/// The compressed bytes, if they save enough.
pub fn compress(plain: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = snap::raw::Encoder::new();
    if plain.len() > 2 * SAMPLE {
        let middle = plain.len() / 2;
        let mut out = [0; SAMPLE + SAMPLE / 6 + 64];
        let len = encoder.compress(&plain[middle..middle + SAMPLE], &mut out).ok()?;
        if len > SAMPLE - SAMPLE / WORTH {
            return None;
        }
    }
    let packed = encoder.compress_vec(plain).ok()?;
    (packed.len() < plain.len() - plain.len() / WORTH).then_some(packed)
}

/// The plain bytes, if they are exactly `plain_len`. The length is checked before memory is taken.
pub fn decompress(packed: &[u8], plain_len: usize) -> Option<Vec<u8>> {
    let announced = snap::raw::decompress_len(packed).ok()?;
    if announced != plain_len || plain_len > CHUNK as usize {
        return None;
    }
    let mut plain = vec![0; plain_len];
    let len = snap::raw::Decoder::new().decompress(packed, &mut plain).ok()?;
    (len == plain_len).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn goes_there_and_back(piece in proptest::collection::vec(any::<u8>(), 1..200), times in 1usize..600) {
            let plain = piece.repeat(times);
            prop_assume!(plain.len() <= CHUNK as usize);
            if let Some(packed) = compress(&plain) {
                prop_assert!(packed.len() < plain.len());
                prop_assert_eq!(decompress(&packed, plain.len()), Some(plain.clone()));
                prop_assert_eq!(decompress(&packed, plain.len() + 1), None);
            }
        }

        #[test]
        fn rubbish_is_refused(packed: Vec<u8>, len in 0usize..1 << 20) {
            if let Some(plain) = decompress(&packed, len) {
                prop_assert_eq!(plain.len(), len);
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_left_alone() {
        let mut noise = vec![0; CHUNK as usize];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert!(compress(&noise).is_none());
        assert!(compress(&vec![7; CHUNK as usize]).is_some());
        assert!(pays_on(12_000_000, 100) && !pays_on(900_000_000, 100));
    }
}
