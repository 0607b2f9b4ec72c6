//! Copies between this machine and buckets, and between buckets.
//!
//! An attempt is a row of [stages](stage): entries of the sources are found,
//! compared with what is at the destination, and copied, each stage a bounded
//! window ahead of the next, so that memory stays flat whatever there is. Small
//! files go in streams, several at a time; large ones by themselves, and go on
//! where they were cut. When a connection is lost, another attempt finds what
//! is there already.

mod between;
mod compare;
mod directories;
mod entry;
mod lane;
mod large;
mod local_tree;
mod local_walk;
mod options;
mod piece;
mod plan;
mod progress;
mod remote;
mod report;
mod stage;
pub(crate) mod stdin;
mod trouble;

pub(crate) use self::{
    options::{COPY_HELP, CopyArgs},
    plan::Request,
};

use self::{
    plan::{Shape, plan},
    report::{Report, Sums, UnderWay},
    trouble::Trouble,
};
use crate::{
    app::App,
    descriptors,
    duration::millis,
    failure::{Exit, Failure},
    files::FilePlace,
    hint::{Place, explain},
    node_access::{CallError, CallOptions},
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// How long a lost connection is tried again without coming any further.
const TRY_FOR: Duration = Duration::from_secs(60);
/// The first wait before another attempt; each is twice as long as the one before.
const WAIT_FIRST: Duration = Duration::from_millis(500);
/// How long a peer is looked for before an attempt.
const DIAL_FOR: Duration = Duration::from_secs(10);
/// The longest wait, unless the peer asks for more.
const WAIT_MAX: Duration = Duration::from_secs(8);

/// Copies, and tells what came of it.
pub(crate) async fn run(app: &App, request: Request) -> Result<Exit, Failure> {
    descriptors::raise_limit();
    let args = &request.args;
    let report = Arc::new(Report::new(
        app.out,
        app.verbose > 0,
        args.dry_run,
        args.progress,
    ));
    let ticking = {
        let report = report.clone();
        tokio::spawn(async move {
            loop {
                sleep(Duration::from_millis(100)).await;
                report.tick();
            }
        })
    };
    let mut attempts = Attempts::default();
    let under_way = UnderWay::new(&report);
    let ended = loop {
        // Its own way to the node here, which may have been started anew.
        let fresh = app.again();
        let ended = attempt(&fresh, &request, &report, &mut attempts).await;
        drop(fresh);
        app.close_again().await;
        let Err(trouble) = ended else { break Ok(()) };
        match attempts.lost(trouble, &report) {
            Ok(wait) => {
                sleep(wait).await;
                report.again();
            }
            Err(failure) => break Err(failure),
        }
    };
    ticking.abort();
    under_way.ended();
    match ended {
        Ok(()) => exit_of(&report.finish(true)?, report.out),
        Err(mut failure) => {
            if attempts.is_planned {
                let sums = report.finish(false)?;
                if failure.exit == Exit::NOT_ALLOWED && sums != Sums::default() && has_copied(&sums)
                {
                    failure.exit = Exit::FAILED;
                }
                if attempts.goes_on_with_t(args) {
                    failure = go_on_hint(failure, has_copied(&sums), &request.destination);
                }
            }
            Err(failure)
        }
    }
}

/// A directory that an unfinished copy made is there when the same is typed
/// again. Where nothing was allowed none was made, and a directory that may not be
/// looked at was taken for the name of the copy, unless a slash says what it is.
fn go_on_hint(failure: Failure, has_copied: bool, destination: &FilePlace) -> Failure {
    let hint = match destination {
        _ if has_copied || failure.exit != Exit::NOT_ALLOWED => {
            "the same command with -T goes on".to_owned()
        }
        FilePlace::Remote(place) if !place.is_directory => {
            format!("if a directory is there, `{place}/`, with the slash, copies into it")
        }
        _ => return failure,
    };
    let hint = match &failure.hint {
        Some(first) => format!("{first}; {hint}"),
        None => hint,
    };
    failure.hint(hint)
}

fn has_copied(sums: &Sums) -> bool {
    sums.files + sums.directories + sums.links + sums.skipped > 0
}

fn exit_of(sums: &Sums, _: crate::output::Out) -> Result<Exit, Failure> {
    match sums.failed {
        0 => Ok(Exit::FINE),
        _ => Ok(Exit::FAILED),
    }
}

/// Has the node here look for the peers at once, which it would do by and by.
async fn dial(app: &App, request: &Request) {
    let Ok(home) = app.home().await else { return };
    let places = request.sources.iter().chain([&request.destination]);
    let peers: BTreeSet<String> = places
        .filter_map(|place| match place {
            FilePlace::Remote(place) => Some(place.route.first()?.to_string()),
            FilePlace::Local(_) => None,
        })
        .collect();
    for peer in peers {
        let input = json!({ "peer": peer, "timeout_ms": millis(DIAL_FOR) });
        let dialled = home.call("peers/dial", input, CallOptions::default()).await;
        // Who may not dial waits for the node to do it; the copy tells the rest.
        if let Err(error) = dialled {
            tracing::debug!(%error, "not dialled");
        }
    }
}

async fn attempt(
    app: &App,
    request: &Request,
    report: &Arc<Report>,
    attempts: &mut Attempts,
) -> Result<(), Trouble> {
    let mut shape = attempts.shape;
    if attempts.is_planned {
        dial(app, request).await;
    }
    attempts.moved = report.moved_so_far();
    let mut copy = plan(app, request, report, &mut shape).await?;
    attempts.shape = shape;
    attempts.is_planned = true;
    if attempts.goes_on_with_t(&request.args) {
        report.goes_on_with_t();
    }
    between::run(app, &mut copy).await?;
    stage::run(&Arc::new(copy)).await
}

/// Attempts so far.
#[derive(Debug, Default)]
struct Attempts {
    shape: Option<Shape>,
    is_planned: bool,
    /// What had been done when the last one began.
    moved: u64,
    /// Since when nothing has come any further.
    lost: Option<Instant>,
    wait: Option<Duration>,
}

impl Attempts {
    /// Whether the destination of a tree is taken for something to copy into by now.
    fn goes_on_with_t(&self, args: &CopyArgs) -> bool {
        self.shape == Some(Shape::As) && args.recursive && !args.no_target_directory
    }

    /// How long to wait before the next one, if there is to be one.
    fn lost(&mut self, trouble: Trouble, report: &Report) -> Result<Duration, Failure> {
        let (failure, asked) = match trouble {
            Trouble::Lost(error) => (told(&error), error.retry_after),
            // The node here is not there, at the moment.
            Trouble::Stop(failure) if failure.exit == Exit::UNREACHABLE => (*failure, None),
            Trouble::Stop(failure) => return Err(*failure),
            Trouble::Entry(problem) => {
                let error = CallError::domain(problem.code, problem.message);
                return Err(Failure::call(&error).naming_domain_code());
            }
            Trouble::Quiet => {
                return Err(Failure::local("a part of the copy ended without a reason"));
            }
        };
        // What was never reached is not lost.
        if !self.is_planned {
            return Err(failure);
        }
        if report.moved_so_far() > self.moved {
            self.lost = None;
            self.wait = None;
        }
        let since = *self.lost.get_or_insert_with(Instant::now);
        if since.elapsed() >= TRY_FOR {
            let mut failure = failure;
            failure.exit = Exit::UNREACHABLE;
            return Err(failure);
        }
        let wait = self
            .wait
            .map_or(WAIT_FIRST, |wait| (wait * 2).min(WAIT_MAX));
        self.wait = Some(wait);
        let wait = asked.map_or(wait, |asked| asked.max(wait).min(TRY_FOR));
        report.note(&format!("{}; trying again", failure.message));
        Ok(wait)
    }
}

fn told(error: &CallError) -> Failure {
    explain(error, &Place::default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::node_access::ErrorCode;
    use std::ffi::OsStr;

    #[test]
    fn only_what_was_begun_is_said_to_go_on() {
        let hint = |code: ErrorCode, has_copied, destination: &str| {
            let failure = Failure::call(&CallError::new(code, "x"));
            let destination = FilePlace::parse(OsStr::new(destination)).unwrap();
            go_on_hint(failure, has_copied, &destination).hint
        };
        let goes_on = Some("the same command with -T goes on".to_owned());
        assert_eq!(hint(ErrorCode::Lost, false, "home:inbox/a"), goes_on);
        assert_eq!(hint(ErrorCode::Forbidden, true, "home:inbox/a"), goes_on);
        assert_eq!(
            hint(ErrorCode::Forbidden, false, "home:inbox/a").unwrap(),
            "if a directory is there, `home:inbox/a/`, with the slash, copies into it"
        );
        assert_eq!(hint(ErrorCode::Forbidden, false, "home:inbox/a/"), None);
        assert_eq!(hint(ErrorCode::Forbidden, false, "here"), None);
    }
}
