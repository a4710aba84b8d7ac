//! What is due, in the order of its times; of two that are due at once, the one that was set first comes first.

use std::collections::BTreeMap;

/// See the module. `A` is a time.
#[derive(Debug)]
pub struct Agenda<A, T> {
    due: BTreeMap<(A, u64), T>,
    number: u64,
}

impl<A, T> Default for Agenda<A, T> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), number: 0 }
    }
}

impl<A: Ord + Copy, T> Agenda<A, T> {
    /// Something is due then.
    pub fn set(&mut self, at: A, what: T) {
        self.number += 1;
        self.due.insert((at, self.number), what);
    }

    /// When something is due next.
    pub fn next(&self) -> Option<A> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes out what is due first, if that is no later than `until`.
    pub fn take(&mut self, until: A) -> Option<(A, T)> {
        let first = self.due.first_entry().filter(|first| first.key().0 <= until)?;
        let ((at, _), what) = first.remove_entry();
        Some((at, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_first_comes_first_and_of_two_the_one_that_was_set_first() {
        let mut agenda = Agenda::default();
        [(3, 'd'), (1, 'a'), (2, 'b'), (2, 'c')].into_iter().for_each(|(at, what)| agenda.set(at, what));
        assert_eq!((agenda.next(), agenda.take(0)), (Some(1), None));
        let taken: Vec<_> = std::iter::from_fn(|| agenda.take(2)).collect();
        assert_eq!(taken, [(1, 'a'), (2, 'b'), (2, 'c')]);
        assert_eq!((agenda.next(), agenda.take(9), agenda.next()), (Some(3), Some((3, 'd')), None));
    }
}
