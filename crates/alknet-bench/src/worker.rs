//! Processes of contenders: how they are started, told what to do and asked
//! what it cost. Orders and answers are lines of JSON.

use crate::machine;
use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    fmt::Debug,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

/// Time for one order; far more than any needs.
const ORDER_MAX: Duration = Duration::from_secs(120);

/// What a process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Say what was used so far.
    Usage,
    /// Measure: what, its area knows.
    Measure(Value),
}

/// What a process answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Usage(Usage),
    Measured(Value),
    Failed(String),
}

/// What a process has used since it started.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// CPU time of all its threads.
    pub(crate) cpu_ns: u64,
    /// Most memory it held.
    pub(crate) peak_kib: u64,
}

impl Usage {
    /// What two processes used together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns + other.cpu_ns,
            peak_kib: self.peak_kib + other.peak_kib,
        }
    }
}

/// A process that takes orders. Dropped, it is ended.
pub(crate) struct Worker {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    name: String,
    /// What it said when it was ready.
    pub(crate) ready: String,
}

impl Worker {
    /// Starts one and waits until it is ready. Errors call it `name`.
    pub(crate) fn start(command: &mut Command, name: String) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start `{name}`"))?;
        let to = child.stdin.take();
        let from = child.stdout.take().context("its output is piped")?;
        let mut worker = Self {
            child,
            to,
            from: BufReader::new(from),
            name,
            ready: String::new(),
        };
        worker.ready = worker.hear()?;
        Ok(worker)
    }

    /// What it has used so far.
    pub(crate) fn usage(&mut self) -> Result<Usage> {
        match self.ask(&Order::Usage)? {
            Answer::Usage(usage) => Ok(usage),
            other => bail!("`{}` answered {other:?}", self.name),
        }
    }

    /// Lets it measure.
    pub(crate) fn measure<M: DeserializeOwned>(
        &mut self,
        work: &(impl Serialize + Debug),
    ) -> Result<M> {
        match self.ask(&Order::Measure(serde_json::to_value(work)?))? {
            Answer::Measured(measured) => Ok(serde_json::from_value(measured)?),
            Answer::Failed(why) => Err(anyhow!(why).context(format!("`{}`: {work:?}", self.name))),
            Answer::Usage(_) => bail!("`{}` answered with its usage", self.name),
        }
    }

    fn ask(&mut self, order: &Order) -> Result<Answer> {
        let to = self.to.as_mut().context("its input is piped")?;
        writeln!(to, "{}", serde_json::to_string(order)?)
            .with_context(|| format!("`{}` has ended", self.name))?;
        self.hear()
    }

    fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        let read = self.from.read_line(&mut line)?;
        if read == 0 {
            bail!("`{}` has ended; what it said is above", self.name);
        }
        serde_json::from_str(&line)
            .with_context(|| format!("`{}` said `{}`", self.name, line.trim()))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Without orders it ends in order; whoever does not is ended.
        drop(self.to.take());
        for _ in 0..100 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Is such a process until no more orders can come.
pub(crate) fn run(serving: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(serving);
    // A read of standard input may still wait: nobody waits for it.
    runtime.shutdown_background();
    ended
}

/// Says `ready`, and follows orders until there are no more.
pub(crate) async fn follow<W, M, R>(ready: &str, measure: impl FnMut(W) -> R) -> Result<()>
where
    W: DeserializeOwned,
    M: Serialize,
    R: Future<Output = Result<M>>,
{
    follow_with(ready, &[], measure).await
}

/// Says `ready`, and says what was used until there are no more orders.
pub(crate) async fn stay(ready: &str) -> Result<()> {
    stay_with(ready, &[]).await
}

/// The same; what is used includes what these other processes use.
pub(crate) async fn stay_with(ready: &str, helpers: &[u32]) -> Result<()> {
    let nothing = |_: Value| async { bail!("a server measures nothing") };
    follow_with::<_, Value, _>(ready, helpers, nothing).await
}

async fn follow_with<W, M, R>(
    ready: &str,
    helpers: &[u32],
    mut measure: impl FnMut(W) -> R,
) -> Result<()>
where
    W: DeserializeOwned,
    M: Serialize,
    R: Future<Output = Result<M>>,
{
    say(&ready).await?;
    let mut orders = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = orders.next_line().await? {
        let answer = match serde_json::from_str(&line)? {
            Order::Usage => {
                let own = Usage {
                    cpu_ns: machine::cpu_ns(),
                    peak_kib: machine::memory_peak_kib("self"),
                };
                let others = helpers.iter().map(|process| Usage {
                    cpu_ns: machine::cpu_ns_of(*process),
                    peak_kib: machine::memory_peak_kib(&process.to_string()),
                });
                Answer::Usage(others.fold(own, Usage::and))
            }
            Order::Measure(work) => {
                let work = serde_json::from_value(work)?;
                let measured = tokio::time::timeout(ORDER_MAX, measure(work)).await;
                match measured.unwrap_or_else(|_| Err(anyhow!("took longer than {ORDER_MAX:?}"))) {
                    Ok(measured) => Answer::Measured(serde_json::to_value(measured)?),
                    Err(error) => Answer::Failed(format!("{error:#}")),
                }
            }
        };
        say(&answer).await?;
    }
    Ok(())
}

async fn say(what: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(what)?;
    line.push('\n');
    let mut out = tokio::io::stdout();
    out.write_all(line.as_bytes()).await?;
    out.flush().await?;
    Ok(())
}
