//! Reading MessagePack where it lies, without copies: what catalogs are made of, in the one form in which this program
//! writes it.

/// A place in bytes, from which values are taken one after the other. `None` where there is something else.
#[derive(Clone, Copy)]
pub struct Pack<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Pack<'a> {
    /// At the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How far it has come.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The bytes from `from` to where it is.
    pub fn since(&self, from: usize) -> &'a [u8] {
        self.bytes.get(from..self.at).unwrap_or_default()
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn fixed<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        self.take(LEN)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.fixed::<1>().map(|[byte]| byte)
    }

    /// The length of an array, whose values follow.
    pub fn array(&mut self) -> Option<usize> {
        match self.byte()? {
            byte @ 0x90..=0x9f => Some(usize::from(byte & 0x0f)),
            0xdc => Some(u16::from_be_bytes(self.fixed()?).into()),
            0xdd => Some(u32::from_be_bytes(self.fixed()?) as usize),
            _ => None,
        }
    }

    /// Bytes.
    pub fn bin(&mut self) -> Option<&'a [u8]> {
        let len = match self.byte()? {
            0xc4 => self.byte()?.into(),
            0xc5 => u16::from_be_bytes(self.fixed()?).into(),
            0xc6 => u32::from_be_bytes(self.fixed()?) as usize,
            _ => return None,
        };
        self.take(len)
    }

    /// A number that is not negative.
    pub fn uint(&mut self) -> Option<u64> {
        match self.byte()? {
            byte @ 0..=0x7f => Some(byte.into()),
            0xcc => Some(self.byte()?.into()),
            0xcd => Some(u16::from_be_bytes(self.fixed()?).into()),
            0xce => Some(u32::from_be_bytes(self.fixed()?).into()),
            0xcf => Some(u64::from_be_bytes(self.fixed()?)),
            _ => None,
        }
    }

    /// A number.
    pub fn int(&mut self) -> Option<i64> {
        match *self.bytes.get(self.at)? {
            byte @ 0xe0..=0xff => self.byte().map(|_| i64::from(byte as i8)),
            0xd0 => self.take(1).and_then(|_| Some(i8::from_be_bytes(self.fixed()?).into())),
            0xd1 => self.take(1).and_then(|_| Some(i16::from_be_bytes(self.fixed()?).into())),
            0xd2 => self.take(1).and_then(|_| Some(i32::from_be_bytes(self.fixed()?).into())),
            0xd3 => self.take(1).and_then(|_| Some(i64::from_be_bytes(self.fixed()?))),
            _ => self.uint()?.try_into().ok(),
        }
    }

    /// Yes or no.
    pub fn bool(&mut self) -> Option<bool> {
        match self.byte()? {
            0xc2 => Some(false),
            0xc3 => Some(true),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(int: i64, small in -200i64..300, uint: u64, yes: bool, bin: Vec<u8>, long in 0usize..70_000) {
            let bin = serde_bytes::ByteBuf::from(bin);
            let long = serde_bytes::ByteBuf::from(vec![7; long]);
            let bytes = rmp_serde::to_vec(&(int, small, uint, yes, &bin, &long)).unwrap();
            let mut pack = Pack::new(&bytes);
            prop_assert_eq!(pack.array(), Some(6));
            prop_assert_eq!((pack.int(), pack.int(), pack.uint(), pack.bool()), (Some(int), Some(small), Some(uint), Some(yes)));
            prop_assert_eq!((pack.bin(), pack.bin()), (Some(&bin[..]), Some(&long[..])));
            prop_assert_eq!((pack.at(), pack.bool(), pack.bin()), (bytes.len(), None, None));
        }

        #[test]
        fn nothing_from_outside_panics(bytes: Vec<u8>) {
            let takes: [fn(&mut Pack<'_>) -> bool; 5] = [
                |pack| pack.array().is_some(), |pack| pack.bin().is_some(), |pack| pack.uint().is_some(),
                |pack| pack.int().is_some(), |pack| pack.bool().is_some(),
            ];
            for take in takes {
                let mut pack = Pack::new(&bytes);
                while take(&mut pack) {}
                prop_assert!(pack.at() <= bytes.len());
            }
        }
    }
}
