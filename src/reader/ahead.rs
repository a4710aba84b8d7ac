//! Small files that will probably be read soon, fetched beside each other before anybody waits for them.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio::sync::Semaphore;

use super::handle::Origins;
use crate::base::ids::ContentId;

/// Files that are fetched at once. Some round trips' worth on a fast link; a slow one has its queue at the source.
const AT_ONCE: usize = 128;
/// A file that has not come by then is left to whoever reads it.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Ahead {
    origins: Origins,
    runtime: Runtime,
    room: Arc<Semaphore>,
}

impl Ahead {
    pub fn new(origins: &Origins, runtime: &Runtime) -> Self {
        Self { origins: origins.clone(), runtime: runtime.clone(), room: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Begins to fetch those of `contents` that are small, not here, and for which there is room now; the others come
    /// when they are read. Never blocks.
    pub fn fetch(&self, contents: &[ContentId]) {
        for &content in contents {
            let Origins { network, cache, own, swarm, .. } = &self.origins;
            let wanted = content.size > 0
                && content.is_small()
                && !cache.is_locked()
                && !cache.has(content, 0)
                && cache.ram_get(content, 0).is_none()
                && !own.offers(*network, content);
            if !wanted {
                continue;
            }
            let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else { return };
            let transfer = swarm.join(content);
            self.runtime.spawn(async move {
                // What it brings is in the cache; whoever reads it meanwhile shares the transfer.
                let _ = tokio::time::timeout(PATIENCE, transfer.chunk(0)).await;
                drop((transfer, permit));
            });
        }
    }
}
