//! Nodes, peers that misbehave, and waiting without guessing.

mod nodes;
mod offers;
mod stranger;

pub(crate) use self::{
    nodes::{
        DRAIN, Pair, TestClock, TestNode, ask, builder, runs_commands, start, start_configured,
        start_with,
    },
    offers::{Alive, Offers},
    stranger::{Known, Stranger, close_code},
};
use std::time::Duration;

/// Longest wait for something that takes milliseconds: a busy machine is no
/// reason to fail.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What "within a second" is given on a busy machine.
pub(crate) const PROMPT: Duration = Duration::from_secs(1);

/// Waits until `holds` answers with something.
#[track_caller]
pub(crate) fn eventually<T, F>(what: &str, mut holds: impl FnMut() -> F) -> impl Future<Output = T>
where
    F: Future<Output = Option<T>>,
{
    let asked_at = std::panic::Location::caller();
    async move {
        let polled = async {
            loop {
                if let Some(found) = holds().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(SOON, polled).await {
            Ok(found) => found,
            Err(_) => panic!("{asked_at}: never happened: {what}"),
        }
    }
}

/// The outcome of `work`, which must come soon.
#[track_caller]
pub(crate) fn soon<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let asked_at = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(SOON, work).await {
            Ok(outcome) => outcome,
            Err(_) => panic!("{asked_at}: took longer than {SOON:?}"),
        }
    }
}

/// The outcome of `work`, which must come within a second.
#[track_caller]
pub(crate) fn promptly<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let asked_at = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PROMPT, work).await {
            Ok(outcome) => outcome,
            Err(_) => panic!("{asked_at}: took longer than {PROMPT:?}"),
        }
    }
}

/// The log of this process, once it is kept.
pub(crate) fn logs() -> alknet_node::LogBuffer {
    use tracing_subscriber::{filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};
    static LOGS: std::sync::OnceLock<alknet_node::LogBuffer> = std::sync::OnceLock::new();
    let install = || {
        let logs = alknet_node::LogBuffer::default();
        let registry = tracing_subscriber::registry().with(LevelFilter::DEBUG);
        registry.with(logs.clone()).init();
        logs
    };
    LOGS.get_or_init(install).clone()
}
