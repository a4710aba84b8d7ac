//! Waiting for a condition, with a deadline: a sleep alone never proves anything.

use std::time::{Duration, Instant};

/// What should be there in a moment is given this long: generous, for a machine that is busy with other things too.
pub const SOON: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(20);

/// Looks until there is something to see, and returns it; fails the test if `limit` passes first.
pub fn until_within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(began.elapsed() < limit, "waited {limit:?} in vain until {what}");
        std::thread::sleep(PAUSE);
    }
}

/// The same, with [`SOON`] as the limit, for what is true or false.
pub fn until(what: &str, mut look: impl FnMut() -> bool) {
    until_within(SOON, what, || look().then_some(()));
}
