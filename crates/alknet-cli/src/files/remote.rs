//! The files of one node, through its operations.

use super::text::{place_text, route_text};
use crate::{
    app::App,
    commands::call::Failed,
    failure::{Exit, Failure},
    hint::{self, quote},
    node_access::{
        BucketInfo, CallError, CallOptions, ChannelCall, ErrorCode, FilePath, FileStat, Home,
        ListEntry, Opener, Route, nearest,
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::time::Duration;

/// Entries asked for at a time.
pub(crate) const PAGE_ENTRIES: usize = 1024;
/// Attempts at a call that comes too soon after others.
const ATTEMPTS_MAX: u32 = 30;
/// Longest wait before the next attempt.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A way to the files of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Remote<'a> {
    app: &'a App,
    home: &'a Home,
    pub(crate) route: Route,
    opener: Opener,
}

/// A page of a listing.
#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    pub(crate) entries: Vec<ListEntry>,
    #[serde(default)]
    pub(crate) next: Option<String>,
}

/// What is known of one file.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Stat {
    #[serde(flatten)]
    pub(crate) stat: FileStat,
    /// Where a link leads, if it was not followed.
    #[serde(default)]
    pub(crate) target: Option<String>,
}

impl<'a> Remote<'a> {
    /// The files of the node at the end of a route.
    pub(crate) async fn at(app: &'a App, route: &Route) -> Result<Self, Failure> {
        let home = app.home().await?;
        let options = CallOptions {
            route: route.clone(),
            ..CallOptions::default()
        };
        Ok(Self {
            app,
            home,
            route: route.clone(),
            opener: home.opener(options),
        })
    }

    /// Calls an operation; waits if that comes too soon after others.
    pub(crate) async fn call(&self, operation: &str, input: &Value) -> Result<Value, CallError> {
        let mut attempt = 1;
        loop {
            // The door refuses those before anything is done.
            match self.opener.call(operation, input).await {
                Err(error) if error.is(ErrorCode::RateLimited) && attempt < ATTEMPTS_MAX => {
                    attempt += 1;
                    let wait = error.retry_after.unwrap_or(Duration::from_secs(1));
                    tokio::time::sleep(wait.min(WAIT_MAX)).await;
                }
                done => return done,
            }
        }
    }

    /// The same, which may take that long.
    pub(crate) async fn call_within(
        &self,
        operation: &str,
        input: &Value,
        timeout: Duration,
    ) -> Result<Value, CallError> {
        let options = CallOptions {
            route: self.route.clone(),
            timeout: Some(timeout),
            ..CallOptions::default()
        };
        let patient = Self {
            opener: self.home.opener(options),
            ..self.clone()
        };
        patient.call(operation, input).await
    }

    /// The same with a reply of this shape.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        operation: &str,
        input: &Value,
    ) -> Result<T, CallError> {
        let reply = self.call(operation, input).await?;
        serde_json::from_value(reply).map_err(|error| {
            let message = format!("the reply of `{operation}` makes no sense: {error}");
            CallError::new(ErrorCode::Internal, message)
        })
    }

    /// Opens a channel; waits if that comes too soon after others.
    pub(crate) async fn open(
        &self,
        operation: &str,
        input: &Value,
    ) -> Result<ChannelCall, CallError> {
        let mut attempt = 1;
        loop {
            match self.opener.open(operation, input).await {
                Err(error) if error.is(ErrorCode::RateLimited) && attempt < ATTEMPTS_MAX => {
                    attempt += 1;
                    let wait = error.retry_after.unwrap_or(Duration::from_secs(1));
                    tokio::time::sleep(wait.min(WAIT_MAX)).await;
                }
                done => return done,
            }
        }
    }

    /// The buckets in which the caller may list something.
    pub(crate) async fn buckets(&self) -> Result<Vec<BucketInfo>, CallError> {
        #[derive(Deserialize)]
        struct Buckets {
            buckets: Vec<BucketInfo>,
        }
        let found: Buckets = self.ask("fs/buckets", &json!({})).await?;
        Ok(found.buckets)
    }

    /// Describes one file.
    pub(crate) async fn stat(&self, file: &FilePath, follow: bool) -> Result<Stat, CallError> {
        let input = json!({ "file": file, "follow": follow });
        self.ask("fs/stat", &input).await
    }

    /// A page of a directory, from where the one before ended.
    pub(crate) async fn page(
        &self,
        directory: &FilePath,
        from: Option<&str>,
        limit: usize,
    ) -> Result<Page, CallError> {
        let mut input = json!({ "file": directory, "limit": limit });
        if let Some(from) = from {
            input["from"] = json!(from);
        }
        let page: Page = self.ask("fs/list", &input).await?;
        match page.next.as_deref() {
            // A node that never ends would keep us for ever.
            Some(next) if Some(next) == from => Err(CallError::new(
                ErrorCode::Internal,
                format!("`{directory}`: the listing does not go on"),
            )),
            _ => Ok(page),
        }
    }

    /// The entry of that name, by the listing of its directory: for those who
    /// may list and not read.
    pub(crate) async fn entry(&self, file: &FilePath) -> Result<Option<ListEntry>, CallError> {
        let (Some(parent), Some(name)) = (file.parent(), file.name()) else {
            return Ok(None);
        };
        let mut from = None;
        loop {
            let page = self.page(&parent, from.as_deref(), PAGE_ENTRIES).await?;
            let found = page.entries.into_iter().find(|entry| entry.name == *name);
            match page.next {
                Some(next) if found.is_none() => from = Some(next),
                _ => return Ok(found),
            }
        }
    }

    /// `peer:bucket/path`, as it can be typed.
    pub(crate) fn text(&self, file: &FilePath) -> String {
        place_text(&self.route, file)
    }

    /// What a person is told about a failed call that was about a file.
    pub(crate) async fn explain(&self, error: CallError, file: Option<&FilePath>) -> Failure {
        let code = error.code.clone();
        let place = hint::Place {
            home: self.home.name().to_owned(),
            route: self.route.clone(),
            operation: String::new(),
        };
        let told = Failed::Call(error).tell(self.app, self.home, &place).await;
        let mut told = told.naming_domain_code();
        let Some(file) = file else { return told };
        told.message = told
            .message
            .replace(&format!("`{file}`"), &format!("`{}`", self.text(file)));
        let hint = match &*code {
            "NO_SUCH_BUCKET" => Some(self.near_bucket(file).await.unwrap_or_else(|| {
                // No name is near, or none may be told.
                format!("alknet ls {}:", route_text(&self.route))
            })),
            // A bucket that is misspelt is one that nobody granted.
            "FORBIDDEN" => self.near_bucket(file).await,
            "IS_A_DIRECTORY" => Some(format!("alknet ls {}", quote(&self.text(file)))),
            // Its disk may hang, or it has a lot to do.
            "TIMEOUT" if !self.route.is_empty() => {
                Some(format!("alknet ping {}", quote(&route_text(&self.route))))
            }
            "DIRECTORY_NOT_EMPTY" => Some(format!("alknet rm -r {}", quote(&self.text(file)))),
            _ => None,
        };
        told.hint_if(hint)
    }

    /// A bucket whose name is near, unless there is one of that name.
    async fn near_bucket(&self, file: &FilePath) -> Option<String> {
        let buckets = self.buckets().await.ok()?;
        let names: Vec<&str> = buckets.iter().map(|bucket| bucket.name.as_str()).collect();
        if names.contains(&file.bucket()) {
            return None;
        }
        let near = nearest(file.bucket(), names);
        let near = near.first()?;
        Some(format!(
            "did you mean `{}:{near}`?",
            route_text(&self.route)
        ))
    }
}

/// Counts how it went with many files.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    done: u64,
    failed: u64,
    /// The exit code of all that failed, if they have one in common.
    exit: Option<Exit>,
}

impl Tally {
    /// One is done.
    pub(crate) fn done(&mut self) {
        self.done += 1;
    }

    /// One failed, which is told.
    pub(crate) fn failed(&mut self, app: &App, failure: &Failure) {
        app.out.failure(failure);
        self.exit = match self.exit {
            Some(exit) if exit != failure.exit => Some(Exit::FAILED),
            _ => Some(failure.exit),
        };
        self.failed += 1;
    }

    /// 0; 1 if some failed; what they have in common if all did.
    pub(crate) fn exit(self) -> Exit {
        match self.exit {
            None => Exit::FINE,
            Some(exit) if self.done == 0 => exit,
            Some(_) => Exit::FAILED,
        }
    }
}
