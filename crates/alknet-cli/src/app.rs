//! What every command has: how to speak, which data directory, and a way to
//! the running node.

use crate::{
    failure::Failure,
    hint::{Place, explain},
    node_access::{CallError, CallOptions, Home},
    output::Out,
};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokio::sync::OnceCell;

/// One run of the program.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) out: Out,
    pub(crate) dir: PathBuf,
    pub(crate) verbose: u8,
    home: OnceCell<Home>,
}

impl App {
    pub(crate) fn new(out: Out, dir: PathBuf, verbose: u8) -> Self {
        Self {
            out,
            dir,
            verbose,
            home: OnceCell::new(),
        }
    }

    /// Whether commands find this data directory without being told.
    pub(crate) fn is_default_dir(&self) -> bool {
        crate::default_data_dir().is_some_and(|dir| dir == self.dir)
    }

    /// The data directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The running node, connected at the first use.
    pub(crate) async fn home(&self) -> Result<&Home, Failure> {
        self.home.get_or_try_init(|| Home::connect(&self.dir)).await
    }

    /// Tells the node that we leave, so that it cancels what we asked for at
    /// once and not when the connection times out.
    pub(crate) async fn close(mut self) {
        if let Some(home) = self.home.take() {
            home.close().await;
        }
    }

    /// Calls an operation of the running node that the command itself chose.
    pub(crate) async fn ask(&self, operation: &str, input: Value) -> Result<Value, Failure> {
        let home = self.home().await?;
        home.call(operation, input, CallOptions::default())
            .await
            .map_err(|error| self.explain(home, &error))
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
}
