//! The stages of one attempt: entries are found, compared with what is there,
//! and copied, each stage a window ahead of the next.

use super::{
    compare, directories,
    entry::Entry,
    lane, large,
    local_tree::{LocalTree, PutOptions},
    local_walk::{self, LocalSource, WalkOptions},
    options::CopyArgs,
    remote::{self, Remote, RemoteSource},
    report::Report,
    trouble::Trouble,
};
use crate::{
    failure::Failure,
    node_access::{FilePath, root::Root},
};
use std::sync::Arc;
use tokio::{
    sync::{Mutex, mpsc, watch},
    task::JoinSet,
};

/// Entries between two stages.
pub(super) const WINDOW: usize = 256;

/// Where something is copied from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Local(LocalSource),
    Remote(RemoteSource),
}

/// The directory that is copied into.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Local { root: Root, put: PutOptions },
    Remote { remote: Remote, directory: FilePath },
}

/// What all stages know.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) args: CopyArgs,
    pub(super) report: Arc<Report>,
    pub(super) sources: Vec<Source>,
    pub(super) target: Target,
    /// One file, and nothing is to be done in the directory but that.
    pub(super) is_single: bool,
    /// The directory is made by copying.
    pub(super) is_new: bool,
    pub(super) stop: Stop,
}

/// Nothing more is to be begun; what is under way comes to its end.
#[derive(Debug, Default)]
pub(super) struct Stop(watch::Sender<bool>);

impl Stop {
    fn ask(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is asked for. Cancel safe.
    pub(super) async fn asked(&self) {
        // The sender is here.
        let _ = self.0.subscribe().wait_for(|is_asked| *is_asked).await;
    }
}

impl Target {
    /// The same directory for one task.
    pub(super) fn tree(&self) -> Option<LocalTree> {
        match self {
            Self::Local { root, put } => Some(LocalTree::new(root.clone(), *put)),
            Self::Remote { .. } => None,
        }
    }
}

/// What is to be done with one entry by itself.
#[derive(Debug)]
pub(super) enum Job {
    /// To copy it.
    Copy(Entry),
    /// To copy it if its digest is another.
    Compare(Entry),
    /// To set its permissions and times.
    Attributes(Entry),
}

/// Receivers that several tasks take from.
pub(super) type Shared<T> = Arc<Mutex<mpsc::Receiver<T>>>;

/// Copies everything once.
pub(super) async fn run(copy: &Arc<Copy>) -> Result<(), Trouble> {
    let (walked, to_compare) = mpsc::channel(WINDOW);
    let (small, small_rx) = mpsc::channel(WINDOW);
    let (jobs, jobs_rx) = mpsc::channel(16);
    let mut stages = JoinSet::new();
    stages.spawn(walk(copy.clone(), false, walked));
    stages.spawn(compare::run(
        copy.clone(),
        to_compare,
        compare::Sorted { small, jobs },
    ));
    let small_rx: Shared<Entry> = Arc::new(Mutex::new(small_rx));
    let jobs_rx: Shared<Job> = Arc::new(Mutex::new(jobs_rx));
    for _ in 0..copy.args.lanes() {
        stages.spawn(lane::run(copy.clone(), small_rx.clone()));
        stages.spawn(large::run(copy.clone(), jobs_rx.clone()));
    }
    drop((small_rx, jobs_rx));
    let counting = copy
        .report
        .wants_totals()
        .then(|| tokio::spawn(count(copy.clone())));
    let ended = all(stages, &copy.stop).await;
    if let Some(counting) = counting {
        counting.abort();
    }
    ended?;
    if copy.args.recursive && !copy.args.no_preserve && !copy.args.dry_run {
        directories::run(copy).await?;
    }
    Ok(())
}

/// Waits for all of them. A lost connection ends the others at once; any other
/// reason lets them end what they are at.
async fn all(mut stages: JoinSet<Result<(), Trouble>>, stop: &Stop) -> Result<(), Trouble> {
    let mut first = None;
    let mut is_quiet = false;
    while let Some(ended) = stages.join_next().await {
        let trouble = match ended {
            Ok(Ok(())) => continue,
            Ok(Err(trouble)) => trouble,
            Err(error) => Failure::local(format!("a part of the copy failed: {error}")).into(),
        };
        match trouble {
            Trouble::Quiet => is_quiet = true,
            // What ends because of the first.
            _ if first.is_some() => {}
            Trouble::Lost(error) => return Err(Trouble::Lost(error)),
            trouble => {
                stop.ask();
                first = Some(trouble);
            }
        }
    }
    match first {
        Some(trouble) => Err(trouble),
        None if is_quiet => Err(Trouble::Quiet),
        None => Ok(()),
    }
}

/// Tells the entries of all sources.
pub(super) async fn walk(
    copy: Arc<Copy>,
    directories_only: bool,
    entries: mpsc::Sender<Entry>,
) -> Result<(), Trouble> {
    for source in &copy.sources {
        match source {
            Source::Remote(source) => {
                remote::walk(source, &copy.args, directories_only, &copy.report, &entries).await?;
            }
            Source::Local(source) => {
                let (source, report, entries) =
                    (source.clone(), copy.report.clone(), entries.clone());
                let options = walk_options(&copy.args, directories_only);
                blocking(move || local_walk::walk(&source, options, &report, &entries)).await??;
            }
        }
    }
    Ok(())
}

fn walk_options(args: &CopyArgs, directories_only: bool) -> WalkOptions {
    WalkOptions {
        recursive: args.recursive,
        dereference: args.dereference,
        directories_only,
    }
}

/// Counts what there is, ahead of the copy.
async fn count(copy: Arc<Copy>) {
    let mut is_known = true;
    for source in &copy.sources {
        match source {
            Source::Remote(source) => {
                is_known &= remote::count(source, copy.args.recursive, &copy.report).await;
            }
            Source::Local(source) => {
                let (source, report) = (source.clone(), copy.report.clone());
                let options = walk_options(&copy.args, false);
                is_known &= blocking(move || local_walk::count(&source, options, &report))
                    .await
                    .is_ok();
            }
        }
    }
    // What links lead to is not counted.
    if is_known && !copy.args.dereference {
        copy.report.all_counted();
    }
}

/// Does on a thread of its own what waits for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Trouble> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::local(format!("a part of the copy failed: {error}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node_access::{CallError, ErrorCode};
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    /// One stage fails; whether another that waits for the stop came to its end.
    async fn ends_another(trouble: Trouble) -> (Result<(), Trouble>, bool) {
        let stop = Arc::new(Stop::default());
        let has_ended = Arc::new(AtomicBool::new(false));
        let mut stages = JoinSet::new();
        stages.spawn(async move { Err(trouble) });
        let (asked, ended) = (stop.clone(), has_ended.clone());
        stages.spawn(async move {
            asked.asked().await;
            tokio::task::yield_now().await;
            ended.store(true, SeqCst);
            Ok(())
        });
        let done = all(stages, &stop).await;
        (done, has_ended.load(SeqCst))
    }

    #[tokio::test]
    async fn what_is_under_way_comes_to_its_end_when_another_fails() {
        let (done, has_ended) = ends_another(Failure::local("no room").into()).await;
        assert!(matches!(done, Err(Trouble::Stop(failure)) if failure.message == "no room"));
        assert!(has_ended);
        let lost = CallError::new(ErrorCode::Lost, "gone");
        let (done, has_ended) = ends_another(Trouble::Lost(lost)).await;
        assert!(matches!(done, Err(Trouble::Lost(_))));
        assert!(!has_ended);
    }
}
