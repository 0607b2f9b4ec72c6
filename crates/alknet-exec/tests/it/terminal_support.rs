//! An open terminal, and whoever is in it.

use crate::support::*;
use alknet_core::{CallError, ChannelCall, Dispatcher};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Instant};

/// An open terminal, and what it has shown so far.
pub(crate) struct Screen {
    pub(crate) call: ChannelCall,
    pub(crate) seen: String,
}

impl Screen {
    pub(crate) async fn open(door: &Dispatcher, input: Value) -> Self {
        let call = door.open(to("shell/open", &input)).await.unwrap();
        Self {
            call,
            seen: String::new(),
        }
    }

    /// A terminal that echoes nothing and changes no line ends.
    pub(crate) async fn plain(door: &Dispatcher, script: &str) -> Self {
        let modes = json!({ "ECHO": 0, "ONLCR": 0 });
        let input = json!({ "argv": ["sh", "-c", script], "modes": modes });
        Self::open(door, input).await
    }

    pub(crate) fn pid(&self) -> u32 {
        pid(&self.call.reply)
    }

    pub(crate) async fn type_in(&mut self, text: &str) {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        self.call.channel.tx.send(bytes).await.unwrap();
    }

    pub(crate) async fn say(&self, control: Value) {
        self.call.channel.control_tx.send(control).await.unwrap();
    }

    /// Reads on until this has been shown, and forgets all up to there.
    #[track_caller]
    pub(crate) fn until(&mut self, text: &str) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        async move {
            let started = Instant::now();
            loop {
                if let Some(at) = self.seen.find(text) {
                    let rest = self.seen.split_off(at + text.len());
                    return std::mem::replace(&mut self.seen, rest);
                }
                let left = SOON.saturating_sub(started.elapsed());
                let next = tokio::time::timeout(left, self.call.channel.rx.recv()).await;
                let Ok(Ok(Some(chunk))) = next else {
                    panic!(
                        "{caller}: {text:?} was not shown, but {:?}: {next:?}",
                        self.seen
                    );
                };
                assert!(!chunk.aux, "a terminal has one output");
                self.seen.push_str(&String::from_utf8_lossy(&chunk.bytes));
            }
        }
    }

    /// Reads to the end.
    pub(crate) async fn rest(self) -> Result<Outcome, CallError> {
        let mut outcome = drain(self.call).await?;
        outcome.stdout.splice(0..0, self.seen.into_bytes());
        Ok(outcome)
    }
}

/// Processes of a session that have not ended, with their command lines.
pub(crate) fn session(id: u32) -> BTreeMap<u32, String> {
    let all = std::fs::read_dir("/proc").unwrap();
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map(|(_, fields)| fields);
        let of = fields.and_then(|fields| fields.split(' ').nth(3));
        of == Some(id.to_string().as_str()) && is_alive(*pid)
    })
    .map(|pid| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        (pid, line.replace('\0', " "))
    })
    .collect()
}
