//! What a client does when it is told to measure.

use super::{Measured, Work, payload::Payload};
use crate::{stats::quantile, worker::follow};
use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// The asking side of a contender.
pub(crate) trait Client: Send + Sync + 'static {
    /// Asks for the same bytes.
    fn echo(&self, payload: Payload, json: Bytes) -> impl Future<Output = Result<Bytes>> + Send;
    /// Sends bytes on one stream; answers with what arrived.
    fn upload(&self, _count: u64) -> impl Future<Output = Result<u64>> + Send {
        async { bail!("it has no bulk") }
    }
    /// Takes bytes from one stream; answers with what arrived.
    fn download(&self, _count: u64) -> impl Future<Output = Result<u64>> + Send {
        async { bail!("it has no bulk") }
    }
    /// Takes items of 64 bytes; answers with how many there were.
    fn items(&self, _count: u64) -> impl Future<Output = Result<u64>> + Send {
        async { bail!("it has no items") }
    }
    /// Ends in order.
    fn close(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// Follows orders with `client` until there are no more.
pub(crate) async fn serve(client: impl Client) -> Result<()> {
    let client = Arc::new(client);
    let ended = follow("ready", |work| {
        // On a thread of the runtime: the main one has to be woken by the system.
        let running = tokio::spawn(run(client.clone(), work));
        async { running.await? }
    })
    .await;
    client.close().await;
    ended
}

/// Does what a client is told to.
pub(crate) async fn run<C: Client>(client: Arc<C>, work: Work) -> Result<Measured> {
    match work {
        Work::Unary {
            payload,
            in_flight,
            ms,
        } => unary(&client, payload, in_flight, ms).await,
        Work::Upload { bytes } => counted(bytes, client.upload(bytes)).await,
        Work::Download { bytes } => counted(bytes, client.download(bytes)).await,
        Work::Items { count } => counted(count, client.items(count)).await,
        Work::Door { .. } => bail!("the door is measured without a client"),
    }
}

async fn counted(wanted: u64, work: impl Future<Output = Result<u64>>) -> Result<Measured> {
    let start = Instant::now();
    let found = work.await?;
    ensure!(found == wanted, "{found} of {wanted} arrived");
    Ok(Measured::of(found, start.elapsed(), Vec::new()))
}

/// Keeps `in_flight` calls under way for so many milliseconds.
async fn unary<C: Client>(
    client: &Arc<C>,
    payload: Payload,
    in_flight: usize,
    ms: u64,
) -> Result<Measured> {
    let json = payload.json();
    let start = Instant::now();
    let until = start + Duration::from_millis(ms);
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        let (client, json) = (client.clone(), json.clone());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let asked = Instant::now();
                if asked >= until {
                    return Ok(latencies);
                }
                let reply = client.echo(payload, json.clone()).await?;
                latencies.push(u32::try_from(asked.elapsed().as_nanos()).unwrap_or(u32::MAX));
                ensure!(reply == json, "something else came back");
            }
        });
    }
    let mut latencies: Vec<u32> = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        latencies.extend(ended??);
    }
    let count = latencies.len() as u64;
    Ok(Measured::of(count, start.elapsed(), latencies))
}

impl Measured {
    /// Of `count` things done in `took`.
    pub(crate) fn of(count: u64, took: Duration, mut latencies: Vec<u32>) -> Self {
        latencies.sort_unstable();
        Self {
            count,
            seconds: took.as_secs_f64(),
            p50_ns: quantile(&latencies, 0.5),
            p99_ns: quantile(&latencies, 0.99),
        }
    }
}
