//! A table of places (`u32`), found by a hash of what lies there; the things themselves are kept by whoever owns them. 5 bytes
//! for each place, whatever their number: tables of the usual kind double, and are half empty then.

use std::hash::{BuildHasher, Hash, RandomState};

/// No place.
const FREE: u32 = u32::MAX;

/// See the module. Made once for so many places.
#[derive(Debug)]
pub struct Places {
    slots: Box<[u32]>,
    /// With secrets of its own, so that nobody can choose things that collide.
    hasher: RandomState,
}

impl Places {
    /// With room for `count` places.
    pub fn with_room(count: usize) -> Self {
        // A fifth stays free, so that searches are short.
        let slots = vec![FREE; count + count / 4 + 1].into_boxed_slice();
        Self { slots, hasher: RandomState::new() }
    }

    /// The slots from where the search for a hash begins: its 64 bits are spread over them.
    fn slots_from(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let len = self.slots.len();
        let first = ((u128::from(hash) * len as u128) >> 64) as usize;
        (first..len).chain(0..first)
    }

    /// The place of `thing`: one that `is_it`.
    pub fn find(&self, thing: &impl Hash, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let places = self.slots_from(self.hasher.hash_one(thing)).map(|slot| self.slots[slot]);
        places.take_while(|place| *place != FREE).find(|place| is_it(*place))
    }

    /// Puts a place in, where there is room left. Whether the thing is there already is not looked at.
    pub fn put(&mut self, thing: &impl Hash, place: u32) {
        if let Some(slot) = self.slots_from(self.hasher.hash_one(thing)).find(|slot| self.slots[*slot] == FREE) {
            self.slots[slot] = place;
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_found_and_nothing_else() {
        for count in [0u32, 1, 2, 7, 1000, 100_000] {
            let thing = |place: u32| u64::from(place) * 3;
            let mut places = Places::with_room(count as usize);
            for place in 0..count {
                assert_eq!(places.find(&thing(place), |at| thing(at) == thing(place)), None);
                places.put(&thing(place), place);
            }
            for place in 0..count {
                assert_eq!(places.find(&thing(place), |at| thing(at) == thing(place)), Some(place));
                assert_eq!(places.find(&(thing(place) + 1), |at| thing(at) == thing(place) + 1), None);
            }
            assert!(places.bytes() <= 5 * count as usize + 4);
        }
    }
}
