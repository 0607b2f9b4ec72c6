//! What every command has: how to speak, which data directory, and a way to
//! the running node.

use crate::{
    commands::keys::read_key_file,
    failure::{Exit, Failure},
    hint::{Place, explain},
    node_access::{CallError, CallOptions, ErrorCode, Home, Route, nearest},
    output::Out,
};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::OnceCell;

/// One run of the program.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) out: Out,
    pub(crate) dir: PathBuf,
    pub(crate) verbose: u8,
    /// Where the API key lies that commands act with.
    key_file: Option<PathBuf>,
    home: Arc<OnceCell<Home>>,
    /// Of the one that [`App::again`] made last: a command that is stopped in the
    /// middle leaves it open.
    again: Mutex<Option<Arc<OnceCell<Home>>>>,
}

impl App {
    pub(crate) fn new(out: Out, dir: PathBuf, key_file: Option<PathBuf>, verbose: u8) -> Self {
        Self {
            out,
            dir,
            key_file,
            verbose,
            home: Arc::default(),
            again: Mutex::default(),
        }
    }

    /// The same, with a way of its own to the node, which
    /// [`App::close_again`] closes once it is dropped. One at a time.
    pub(crate) fn again(&self) -> Self {
        let key_file = self.key_file.clone();
        let again = Self::new(self.out, self.dir.clone(), key_file, self.verbose);
        *self.kept() = Some(again.home.clone());
        again
    }

    fn kept(&self) -> MutexGuard<'_, Option<Arc<OnceCell<Home>>>> {
        self.again.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the way of the one that [`App::again`] made.
    pub(crate) async fn close_again(&self) {
        let kept = self.kept().take();
        close(kept).await;
    }

    /// Whether commands find this data directory without being told.
    pub(crate) fn is_default_dir(&self) -> bool {
        crate::default_data_dir().is_some_and(|dir| dir == self.dir)
    }

    /// The data directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Refuses what works on the data directory itself if an API key was given
    /// to act with: no node is there to hold that to what the key may.
    pub(crate) fn takes_no_key(&self, what: &str) -> Result<(), Failure> {
        if self.key_file.is_none() {
            return Ok(());
        }
        let message = format!(
            "`alknet {what}` works on the data directory as its owner, and an API key was given to act with"
        );
        Err(Failure::new(Exit::NOT_ALLOWED, "FORBIDDEN", message)
            .hint("leave out --key-file, or unset ALKNET_KEY_FILE"))
    }

    /// The running node, connected at the first use.
    pub(crate) async fn home(&self) -> Result<&Home, Failure> {
        let connecting = || async {
            let key = match self.key_file.clone() {
                None => None,
                // A pipe that nobody writes to holds up nobody else.
                Some(path) => {
                    let reading = tokio::task::spawn_blocking(move || read_key_file(&path));
                    let read = reading.await;
                    Some(read.map_err(|error| {
                        Failure::local(format!("failed to read the key file: {error}"))
                    })??)
                }
            };
            Home::connect(&self.dir, key.as_ref()).await
        };
        self.home.get_or_try_init(connecting).await
    }

    /// Tells the node that we leave, so that it cancels what we asked for at
    /// once and not when the connection times out.
    pub(crate) async fn close(self) {
        self.close_again().await;
        close(Some(self.home)).await;
    }

    /// Calls an operation of the running node that the command itself chose.
    pub(crate) async fn ask(&self, operation: &str, input: Value) -> Result<Value, Failure> {
        self.ask_at(Route::new(), operation, input).await
    }

    /// The same of the node at the end of a route.
    pub(crate) async fn ask_at(
        &self,
        route: Route,
        operation: &str,
        input: Value,
    ) -> Result<Value, Failure> {
        let home = self.home().await?;
        let options = CallOptions {
            route: route.clone(),
            ..CallOptions::default()
        };
        let place = Place {
            home: home.name().to_owned(),
            route,
            operation: String::new(),
        };
        let asked = home.call(operation, input, options).await;
        asked.map_err(|error| explain(&error, &place))
    }

    /// What a person is told about the error of a built-in operation.
    pub(crate) fn explain(&self, home: &Home, error: &CallError) -> Failure {
        explain(
            error,
            &Place {
                home: home.name().to_owned(),
                ..Place::default()
            },
        )
    }

    /// Adds names that are near to the error of a call that named a peer which
    /// does not exist.
    pub(crate) async fn with_near_peers(&self, home: &Home, error: CallError) -> CallError {
        let details = error.details.as_deref();
        let field = |name: &str| details.and_then(|details| details.get(name));
        let named = field("peer").and_then(Value::as_str);
        let told = field("operation").or(field("suggestions")).is_some();
        let Some(wanted) = named.filter(|_| error.is(ErrorCode::NotFound) && !told) else {
            return error;
        };
        let listed = home.call("peers/list", json!({}), CallOptions::default());
        // Who may not list peers gets the error as it is.
        let listed = listed.await.unwrap_or_default();
        let peers = listed.get("peers").and_then(Value::as_array);
        let names = peers.into_iter().flatten();
        let names: Vec<&str> = names
            .filter_map(|peer| peer.get("peer")?.as_str())
            .collect();
        if names.contains(&wanted) {
            let message = format!("peer `{wanted}` is no node: it calls, and cannot be called");
            let details = json!({ "peer": wanted, "suggestions": [] });
            return CallError::new(ErrorCode::NotFound, message).with_details(details);
        }
        let near = nearest(wanted, names);
        let details = json!({ "peer": wanted, "suggestions": near });
        error.with_details(details)
    }
}

/// Closes a way that nobody uses any more, if it was ever open.
async fn close(home: Option<Arc<OnceCell<Home>>>) {
    let home = home.and_then(Arc::into_inner);
    if let Some(home) = home.and_then(OnceCell::into_inner) {
        home.close().await;
    }
}
