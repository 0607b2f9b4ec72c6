//! A program that is a node, with operations that handle secrets and a log of
//! everything.

use super::watch::{Home, shown_by};
use crate::program::{PATIENCE, wait};
use alknet::{CallError, LogBuffer, Node, Operation, Registration, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    env, fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

/// Names the directory of the node that this process shall be.
const CHILD: &str = "ALKNET_TEST_CANARY_NODE";
/// How long calls may take when it is stopped.
const DRAIN: Duration = Duration::from_secs(5);

/// The node, in a process of its own, killed when dropped.
pub(super) struct Embedded(Option<Child>);

impl Embedded {
    /// Starts it in a directory that has been initialised with a passphrase.
    #[track_caller]
    pub(super) fn start(home: &Home, test: &str) -> Self {
        let told = fs::File::options()
            .create(true)
            .append(true)
            .open(home.path("home.stderr"))
            .unwrap();
        let ready = home.path("ready");
        let _ = fs::remove_file(&ready);
        let child = Command::new(env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env_clear()
            .env("HOME", home.place.path())
            .env("RUST_BACKTRACE", "full")
            .env(CHILD, home.place.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(told)
            .spawn()
            .unwrap();
        let mut node = Self(Some(child));
        let started = Instant::now();
        while !ready.exists() {
            let child = node.0.as_mut().unwrap();
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none() && started.elapsed() < PATIENCE, "{ended:?}");
            thread::sleep(Duration::from_millis(10));
        }
        node
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    pub(super) fn shows(&self) -> Vec<Vec<u8>> {
        shown_by(self.0.as_ref().unwrap())
    }

    /// Waits until it has ended, in order.
    #[track_caller]
    pub(super) fn ended(mut self) {
        assert!(wait(&mut self.0.take().unwrap()).success());
    }

    /// Kills it as a crash would.
    pub(super) fn kill(self) {
        drop(self);
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Is the node, if this process was started to be it.
pub(super) fn be_the_node() -> bool {
    let Some(dir) = env::var_os(CHILD) else {
        return false;
    };
    // As a program that handles secrets does: the words of a panic may be
    // made of one.
    std::panic::set_hook(Box::new(|info| {
        // Only the log of this process.
        #[allow(clippy::print_stderr)]
        {
            eprintln!("panicked at {:?}", info.location());
        }
    }));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(serve(Path::new(&dir)));
    true
}

async fn serve(dir: &Path) {
    let logs = LogBuffer::default();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL);
    tracing_subscriber::registry()
        .with(lines)
        .with(logs.clone())
        .init();
    let mut passphrase = fs::read(dir.join("pass")).unwrap();
    assert_eq!(passphrase.pop(), Some(b'\n'));
    let issued = fs::read_to_string(dir.join("issued")).unwrap();
    let node = Node::builder()
        .data_dir(dir.join("data"))
        .config_file(dir.join("data/alknet.toml"))
        .bind("127.0.0.1:0".parse().unwrap())
        .relays(["none"])
        .passphrase(Secret::new(passphrase))
        .logs(logs)
        .operations(operations(&issued))
        .spawn()
        .await
        .unwrap();
    fs::write(dir.join("ready"), "").unwrap();
    let drain = node.stopping().await.min(DRAIN);
    node.shutdown(drain).await;
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Used {
    blake3: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Issued {
    secret: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Taken {
    secret: Secret,
    /// A number, to be given as something else.
    #[serde(default)]
    times: u8,
}

fn operations(issued: &str) -> Vec<Registration> {
    let issued = issued.to_owned();
    vec![
        Operation::query("canary/use", "Uses a credential.")
            .credential("github", "ada")
            .handler(|cx, _: Nothing| async move {
                let secret = cx.credential("github", "ada")?;
                let blake3 = blake3::hash(secret.expose()).to_hex().to_string();
                Ok(Used { blake3 })
            }),
        Operation::mutation("canary/panic", "Panics with a credential in its hand.")
            .credential("github", "ada")
            .handler(|cx, _: Nothing| async move {
                let secret = cx.credential("github", "ada")?;
                let text = serde_json::json!(secret.expose_text());
                // As it happens: the error of a parser tells what it read.
                let number: u8 = serde_json::from_value(text).unwrap();
                Ok(Used {
                    blake3: number.to_string(),
                })
            }),
        Operation::mutation("canary/issue", "Answers with a secret.")
            .secret_output()
            .handler(move |_cx, _: Nothing| {
                let secret = issued.clone();
                async move { Ok(Issued { secret }) }
            }),
        Operation::mutation("canary/take", "Takes a secret, and fails.")
            .secret_input()
            .handler(|_cx, taken: Taken| async move {
                assert!(taken.times < 3, "{:?} {}", taken.secret, taken.times);
                Err::<Used, _>(CallError::invalid_field("/secret", "is refused"))
            }),
    ]
}
