//! NATS: requests and replies through Debian's `nats-server`, over TLS.

use super::{
    measure::Client,
    payload::{self, Payload},
    tls::{HOST, SelfSigned},
};
use crate::worker;
use anyhow::{Context, Result, bail};
use async_nats::{ConnectOptions, Subject};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};

/// The server's program.
pub(crate) const PROGRAM: &str = "nats-server";
/// Time for the server to start.
const START_MAX: Duration = Duration::from_secs(20);

/// Starts a server and answers requests at it.
pub(crate) async fn serve(directory: &str) -> Result<()> {
    let mut broker = Broker::start(Path::new(directory)).await?;
    let place = format!("{}\n{}", broker.url, broker.certificate.display());
    let client = connect(&place).await?;
    let mut requests = client.subscribe("bench.>").await?;
    let answering = tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let Some(to) = request.reply else { continue };
            let method = request.subject.strip_prefix("bench.").unwrap_or_default();
            // One that does not fit is answered with nothing, which no client
            // takes for its document.
            let answer = payload::answer(method, request.payload).unwrap_or_default();
            if client.publish(to, answer).await.is_err() {
                return;
            }
        }
    });
    let helpers = [broker.child.id().context("it runs")?];
    let ended = worker::stay_with(&place, &helpers).await;
    answering.abort();
    broker.child.kill().await?;
    ended
}

/// A server of NATS.
struct Broker {
    child: Child,
    url: String,
    certificate: PathBuf,
}

/// What the server writes about where it listens.
#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

impl Broker {
    async fn start(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let at = |name: &str| directory.join(name);
        let made = SelfSigned::new()?;
        fs::write(at("certificate.pem"), made.certificate)?;
        fs::write(at("key.pem"), made.key)?;
        let log = fs::File::create(at("log"))?;
        let mut child = Command::new(PROGRAM)
            .args(["--addr", HOST, "--port", "-1", "--tls"])
            .arg("--tlscert")
            .arg(at("certificate.pem"))
            .arg("--tlskey")
            .arg(at("key.pem"))
            .arg("--ports_file_dir")
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to start `{PROGRAM}`"))?;
        let process = child.id().context("it runs")?;
        let ports = at(&format!("{PROGRAM}_{process}.ports"));
        let start = Instant::now();
        let url = loop {
            // The file may be there before all of it is written.
            if let Ok(text) = fs::read(&ports)
                && let Ok(Ports { nats }) = serde_json::from_slice(&text)
            {
                break nats.into_iter().next().context("it listens")?;
            }
            if child.try_wait()?.is_some() || start.elapsed() > START_MAX {
                let said = fs::read_to_string(at("log")).unwrap_or_default();
                bail!("`{PROGRAM}` does not start:\n{said}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        Ok(Self {
            child,
            url,
            certificate: at("certificate.pem"),
        })
    }
}

async fn connect(place: &str) -> Result<async_nats::Client> {
    let (url, certificate) = place
        .split_once('\n')
        .context("a place is URL and certificate")?;
    let options = ConnectOptions::new()
        .require_tls(true)
        .add_root_certificates(certificate.into());
    Ok(options.connect(url).await?)
}

/// The client.
pub(crate) struct Nats {
    client: async_nats::Client,
    reads_json: bool,
}

impl Nats {
    /// Connects to [`serve`]; `reads_json` asks at the subjects where the
    /// document is read and written again.
    pub(crate) async fn connect(place: &str, reads_json: bool) -> Result<Self> {
        let client = connect(place).await?;
        Ok(Self { client, reads_json })
    }
}

impl Client for Nats {
    async fn echo(&self, payload: Payload, json: Bytes) -> Result<Bytes> {
        let subject = match (self.reads_json, payload) {
            (false, _) => "bench.echo",
            (true, Payload::Small) => "bench.text",
            (true, Payload::Listing) => "bench.listing",
            (true, Payload::Large) => "bench.document",
        };
        let reply = self.client.request(Subject::from_static(subject), json);
        Ok(reply.await?.payload)
    }

    async fn close(&self) {
        // Whoever leaves a server of NATS has nothing to say to it.
        let _ = self.client.drain().await;
    }
}
