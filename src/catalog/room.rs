//! Which catalogs may go: those of owners that nobody has seen for long, and, where there is no room, those that count for
//! nothing. Pure.

use super::merge::Standing;
use crate::base::clock::Timestamp;

/// Nodes that were not seen for 30 days are forgotten, and their catalogs dropped.
const FORGET: i64 = 30 * 24 * 3600;

/// What a catalog is worth, the least first. A newcomer takes the place of what is worth less than itself, and of nothing else:
/// otherwise two that peers offer again and again would push each other out for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Worth {
    /// Its owner's claims have lapsed, or its owner was never live as far as this node can tell: anybody can make up such nodes.
    /// When it was last seen; the catalog that was seen longest ago goes first.
    Idle(Timestamp),
    /// Its owner is live, or was there of late: it stays.
    Kept,
}

/// What the catalog of an owner is worth that stands like this, was `seen` last at that time, and has `lived`: it was live once.
pub fn worth(standing: Standing, seen: Option<Timestamp>, lived: bool) -> Worth {
    match standing {
        Standing::Live | Standing::Lingering | Standing::Offline => Worth::Kept,
        Standing::Away if lived => Worth::Kept,
        Standing::Away | Standing::Lapsed => Worth::Idle(seen.unwrap_or_default()),
    }
}

/// True if a node that was `seen` last at that time was not there for so long that it is forgotten.
pub fn is_forgotten(seen: Option<Timestamp>, wall: Timestamp) -> bool {
    seen.is_none_or(|seen| seen.secs.saturating_add(FORGET) <= wall.secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_live_of_late_stays_and_the_others_go_oldest_first() {
        let at = |secs| Some(Timestamp { secs, nanos: 0 });
        for standing in [Standing::Live, Standing::Lingering, Standing::Offline] {
            assert_eq!(worth(standing, None, false), Worth::Kept);
        }
        assert_eq!(worth(Standing::Away, at(5), true), Worth::Kept);
        let made_up = worth(Standing::Away, at(9), false);
        let lapsed = worth(Standing::Lapsed, at(5), true);
        let unknown = worth(Standing::Lapsed, None, false);
        assert!(unknown < lapsed && lapsed < made_up && made_up < Worth::Kept);
        assert!(is_forgotten(at(0), Timestamp { secs: FORGET, nanos: 0 }) && is_forgotten(None, Timestamp::default()));
        assert!(!is_forgotten(at(1), Timestamp { secs: FORGET, nanos: 0 }));
    }
}
