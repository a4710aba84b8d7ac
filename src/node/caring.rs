//! `cache`: what is kept, pinning and evicting by path, checking and resizing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::errors::Failures;
use super::looking::{first_places, percent};
use super::networks::Joined;
use super::{Node, blocking};
use crate::base::chunks::chunk_count;
use crate::base::ids::ContentId;
use crate::base::ranges::Ranges;
use crate::cache::care::{Cached, Checked, disk_cost};
use crate::catalog::tree::ViewKind;
use crate::control::report::{CachedReport, CheckedReport, Event, GetProgress, KeptReport};
use crate::control::text::PathText;
use crate::control::{ControlError, ErrorCode, OnEvent};
use crate::settings::units::show_size;

/// Chunks that are fetched between two looks at whether the disk has kept up with them.
const STEP: u64 = 64;
/// Times that a pinned file is tried: the disk may have dropped some of it.
const TRIES: usize = 5;
/// After an error a source is looked for again after this.
const AGAIN: Duration = Duration::from_millis(200);
/// Digits of a root that name one cached content without doubt.
const ROOT_DIGITS: usize = 12;
/// A check tells how far it is after so many records.
const TELL: u64 = 64;

/// A file that a command is about.
#[derive(Clone)]
struct Chosen {
    content: ContentId,
    path: PathText,
    /// Where it can be fetched; `None` if it is in no view.
    joined: Option<Arc<Joined>>,
}

impl Node {
    pub(super) async fn cache_list(self: &Arc<Self>) -> Result<Vec<CachedReport>, ControlError> {
        let node = Arc::clone(self);
        blocking(move || {
            let cached = node.cache.list();
            let mut places: HashMap<ContentId, (PathText, String)> = HashMap::new();
            for joined in node.networks.all() {
                let view = joined.view();
                for (content, index) in first_places(&view, cached.iter().map(|one| one.content)) {
                    if let Some(path) = view.path(index) {
                        let place = || (path.as_bytes().into(), joined.membership.name().to_owned());
                        places.entry(content).or_insert_with(place);
                    }
                }
            }
            let report = |one: Cached| {
                let (path, network) = places.get(&one.content).cloned().unzip();
                CachedReport {
                    path,
                    network,
                    root: one.content.root,
                    size: one.content.size,
                    cached_percent: percent(one.content, one.chunks),
                    disk_bytes: one.bytes,
                    used: one.used.into(),
                    pinned: one.pinned,
                }
            };
            Ok(cached.into_iter().map(report).collect())
        })
        .await
    }

    /// The files that `paths` mean: of the view, below folders of it, or cached ones by their roots. Each once.
    async fn choose(
        self: &Arc<Self>,
        paths: Vec<PathText>,
        network: Option<String>,
    ) -> Result<Vec<Chosen>, ControlError> {
        let node = Arc::clone(self);
        blocking(move || {
            let (mut chosen, mut seen) = (Vec::new(), HashSet::new());
            for path in paths {
                let found = match node.find(Some(&path), network.as_deref()) {
                    Ok((view, index)) => {
                        let (joined, _) = node.locate(Some(&path), network.as_deref())?;
                        let one = |index, content| Chosen {
                            content,
                            path: view.path(index).map(|path| path.as_bytes().into()).unwrap_or_default(),
                            joined: Some(Arc::clone(&joined)),
                        };
                        match view.kind(index) {
                            ViewKind::File(file) => vec![one(index, file.content())],
                            ViewKind::Folder(_) => {
                                view.files(index).map(|(index, file)| one(index, file.content())).collect()
                            }
                        }
                    }
                    Err(error) => vec![node.by_root(&path).ok_or(error)?],
                };
                chosen.extend(found.into_iter().filter(|one| seen.insert(one.content)));
            }
            Ok(chosen)
        })
        .await
    }

    fn by_root(&self, text: &PathText) -> Option<Chosen> {
        let digits = std::str::from_utf8(&text.0).ok()?;
        let hex = digits.len() >= ROOT_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let is_it = |content: &ContentId| content.root.to_string().starts_with(&digits.to_ascii_lowercase());
        let mut all = self.cache.list().into_iter().map(|cached| cached.content).filter(is_it);
        let content = all.next().filter(|_| hex)?;
        all.next().is_none().then(|| Chosen { content, path: text.clone(), joined: None })
    }

    /// Pins files, then fetches what of them is not here.
    pub(super) async fn cache_pin(
        self: &Arc<Self>,
        paths: Vec<PathText>,
        network: Option<String>,
        on_event: OnEvent<'_>,
    ) -> Result<KeptReport, ControlError> {
        self.refuse_locked()?;
        let chosen = self.choose(paths, network).await?;
        let bytes = chosen.iter().fold(0u64, |sum, one| sum.saturating_add(one.content.size));
        self.refuse_too_much(&chosen)?;
        self.set_pinned(chosen.clone(), true).await?;
        let mut progress = GetProgress {
            path: PathText::default(),
            files: chosen.len() as u64,
            files_done: 0,
            bytes,
            bytes_done: 0,
            sources: Vec::new(),
        };
        let missing = Failures::default();
        for one in &chosen {
            let before = progress.bytes_done;
            progress.path = one.path.clone();
            if let Err(error) = self.keep(one, &mut progress, on_event).await {
                missing.add(error);
            }
            progress.files_done += 1;
            progress.bytes_done = before.saturating_add(one.content.size);
            on_event(Event::Get(progress.clone()));
        }
        match missing.all() {
            None => Ok(KeptReport { files: chosen.len() as u64, bytes }),
            Some((first, count)) => {
                let all = chosen.len();
                let what =
                    format!("{count} of {all} pinned files are not whole here yet: pin them again later. {first}");
                Err(ControlError::new(first.code, what))
            }
        }
    }

    /// What could never be on disk at once is refused before anything is fetched.
    fn refuse_too_much(&self, chosen: &[Chosen]) -> Result<(), ControlError> {
        let limit = self.cache.stats().disk_limit;
        let mut all = self.cache.pinned();
        all.extend(chosen.iter().map(|one| one.content));
        let bytes = disk_cost(&all);
        if bytes <= limit {
            return Ok(());
        }
        let (bytes, limit) = (show_size(bytes), show_size(limit));
        let what =
            format!("pinned files would take {bytes}, and the cache may take {limit}: see flashget cache resize");
        Err(ControlError::new(ErrorCode::Conflict, what))
    }

    /// Fetches what of a pinned file is not in the cache, no faster than the disk takes it.
    async fn keep(
        self: &Arc<Self>,
        one: &Chosen,
        progress: &mut GetProgress,
        on_event: OnEvent<'_>,
    ) -> Result<(), ControlError> {
        let unreachable = |why: &dyn std::fmt::Display| {
            let what = format!("{} is pinned, and not all of it is here: {why}", one.path.shown());
            ControlError::new(ErrorCode::Unreachable, what)
        };
        let patience = self.settings.mount.timeout.0;
        for _ in 0..TRIES {
            let mut missing = Ranges::of(0..chunk_count(one.content.size));
            missing.subtract(&self.cache.held(one.content));
            if missing.is_empty() {
                return Ok(());
            }
            let Some(joined) = &one.joined else { return Err(unreachable(&"nobody shares it")) };
            if self.sharer.sources().offers(joined.membership.id(), one.content) {
                // Shared from this node itself: it is here as it is.
                return Ok(());
            }
            let transfer = joined.swarm.join(one.content);
            let mut download = transfer.download(&missing);
            let (mut count, mut last) = (0, Instant::now());
            while let Some(chunk) = download.next().await {
                self.refuse_locked()?;
                let chunk = match chunk {
                    Ok(chunk) => chunk,
                    Err(error) if last.elapsed() >= patience => return Err(unreachable(&error)),
                    // A source may come back.
                    Err(_) => {
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                };
                last = Instant::now();
                progress.bytes_done = progress.bytes_done.saturating_add(chunk.bytes().len() as u64);
                count += 1;
                if count % STEP == 0 {
                    on_event(Event::Get(progress.clone()));
                    self.flush_cache().await?;
                }
            }
            self.flush_cache().await?;
        }
        Err(unreachable(&"the disk is full, or does not keep up"))
    }

    async fn flush_cache(self: &Arc<Self>) -> Result<(), ControlError> {
        let cache = Arc::clone(&self.cache);
        blocking(move || {
            cache.flush();
            Ok(())
        })
        .await
    }

    async fn set_pinned(self: &Arc<Self>, chosen: Vec<Chosen>, pinned: bool) -> Result<(), ControlError> {
        let cache = Arc::clone(&self.cache);
        let contents: Vec<ContentId> = chosen.iter().map(|one| one.content).collect();
        blocking(move || {
            cache.set_pinned(&contents, pinned).map_err(not_saved)?;
            if pinned { Ok(()) } else { cache.make_room().map_err(ControlError::failed) }
        })
        .await
    }

    pub(super) async fn cache_unpin(
        self: &Arc<Self>,
        paths: Vec<PathText>,
        network: Option<String>,
    ) -> Result<KeptReport, ControlError> {
        let mut chosen = self.choose(paths, network).await?;
        chosen.retain(|one| self.cache.is_pinned(one.content));
        let bytes = chosen.iter().fold(0u64, |sum, one| sum.saturating_add(one.content.size));
        let files = chosen.len() as u64;
        self.set_pinned(chosen, false).await?;
        Ok(KeptReport { files, bytes })
    }

    pub(super) async fn cache_evict(
        self: &Arc<Self>,
        paths: Vec<PathText>,
        network: Option<String>,
    ) -> Result<KeptReport, ControlError> {
        let chosen = self.choose(paths, network).await?;
        if let Some(one) = chosen.iter().find(|one| self.cache.is_pinned(one.content)) {
            let what = format!("{} is pinned: run flashget cache unpin first", one.path.shown());
            return Err(ControlError::new(ErrorCode::Conflict, what));
        }
        let cache = Arc::clone(&self.cache);
        blocking(move || {
            let mut report = KeptReport::default();
            for one in chosen {
                if let Some(freed) = cache.evict(one.content).map_err(ControlError::failed)? {
                    report.files += 1;
                    report.bytes += freed;
                }
            }
            Ok(report)
        })
        .await
    }

    pub(super) async fn cache_clear(self: &Arc<Self>, pinned: bool) -> Result<KeptReport, ControlError> {
        let cache = Arc::clone(&self.cache);
        blocking(move || {
            if pinned {
                let pins: Vec<ContentId> = cache.pinned().into_iter().collect();
                cache.set_pinned(&pins, false).map_err(not_saved)?;
            }
            let (files, bytes) = cache.clear().map_err(ControlError::failed)?;
            Ok(KeptReport { files, bytes })
        })
        .await
    }

    /// Reads every record. Ends early when whoever asked has gone.
    pub(super) async fn cache_verify(self: &Arc<Self>, on_event: OnEvent<'_>) -> Result<CheckedReport, ControlError> {
        self.refuse_locked()?;
        let (tell, mut told) = tokio::sync::watch::channel(CheckedReport::default());
        let cache = Arc::clone(&self.cache);
        let disk_bytes = cache.stats().disk_bytes;
        let report = move |checked: &Checked| CheckedReport {
            records: checked.records,
            bytes: checked.bytes,
            damaged: checked.damaged,
            disk_bytes,
        };
        let mut work = tokio::task::spawn_blocking(move || {
            let checked = cache.verify(&mut |checked| {
                // Nobody listens any more: nobody wants to know.
                (checked.records + checked.damaged) % TELL != 0 || tell.send(report(checked)).is_ok()
            });
            checked.map(|checked| report(&checked))
        });
        loop {
            tokio::select! {
                done = &mut work => {
                    let done = done.map_err(ControlError::failed)?;
                    // Locked meanwhile.
                    self.refuse_locked()?;
                    return done.map_err(ControlError::failed);
                }
                Ok(()) = told.changed() => on_event(Event::Check(*told.borrow_and_update())),
            }
        }
    }

    pub(super) async fn cache_resize(self: &Arc<Self>, bytes: u64) -> Result<(), ControlError> {
        let cache = Arc::clone(&self.cache);
        blocking(move || {
            let pinned = disk_cost(&cache.pinned());
            if pinned > bytes {
                let pinned = show_size(pinned);
                let what = format!("pinned files take {pinned}: unpin some first (see flashget cache list)");
                return Err(ControlError::new(ErrorCode::Conflict, what));
            }
            cache.resize(bytes).map_err(ControlError::failed)
        })
        .await
    }
}

// By value, so that it can be named where a function is wanted.
#[allow(clippy::needless_pass_by_value)]
fn not_saved(error: std::io::Error) -> ControlError {
    ControlError::failed(format!("the list of pinned files can't be saved: {error}"))
}
