//! A table of places (`u32`), found by a hash of what lies there; the things themselves are kept by whoever owns them. A good
//! 6 bytes for each place, whatever their number: tables of the usual kind double, and are half empty then.

use std::hash::{BuildHasher, Hash, RandomState};
use std::iter::Chain;
use std::ops::Range;

/// Of a slot that holds nothing.
const FREE: u8 = 0;

/// See the module. Made once for so many places.
#[derive(Debug)]
pub struct Places {
    slots: Box<[u32]>,
    /// Eight bits of each slot's hash, so that most others are passed without a look at what they stand for, which would be
    /// a cache miss each.
    tags: Box<[u8]>,
    /// With secrets of its own, so that nobody can choose things that collide.
    hasher: RandomState,
}

impl Places {
    /// With room for `count` places.
    pub fn with_room(count: usize) -> Self {
        // A fifth stays free, so that searches are short.
        let len = count + count / 4 + 1;
        let (slots, tags) = (vec![0; len].into_boxed_slice(), vec![FREE; len].into_boxed_slice());
        Self { slots, tags, hasher: RandomState::new() }
    }

    /// The tag of a thing, and the slots in which it is searched for. The upper bits say where that begins.
    fn search<T: Hash>(&self, thing: &T) -> (u8, Chain<Range<usize>, Range<usize>>) {
        let (hash, len) = (self.hasher.hash_one(thing), self.slots.len());
        let first = ((u128::from(hash) * len as u128) >> 64) as usize;
        ((hash as u8).max(FREE + 1), (first..len).chain(0..first))
    }

    /// The place of `thing`: one that `is_it`.
    pub fn find(&self, thing: &impl Hash, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let (tag, slots) = self.search(thing);
        let taken = slots.take_while(|slot| self.tags[*slot] != FREE);
        taken.filter(|slot| self.tags[*slot] == tag).map(|slot| self.slots[slot]).find(|place| is_it(*place))
    }

    /// Puts a place in, where there is room left. Whether the thing is there already is not looked at.
    pub fn put(&mut self, thing: &impl Hash, place: u32) {
        let (tag, mut slots) = self.search(thing);
        if let Some(slot) = slots.find(|slot| self.tags[*slot] == FREE) {
            (self.slots[slot], self.tags[slot]) = (place, tag);
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.slots) + size_of_val(&*self.tags)
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
            assert!(places.bytes() <= count as usize * 25 / 4 + 5);
        }
    }
}
