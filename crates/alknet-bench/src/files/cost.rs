//! What a command costs: time, CPU time and memory of all that takes part.

use anyhow::{Context, Result, ensure};
use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How often memory is looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);
/// A server may notice a moment later that a session is over.
const SETTLE: Duration = Duration::from_millis(100);

/// What one run cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) seconds: f64,
    /// The same until all of it was on the disk.
    pub(super) durable_seconds: f64,
    /// CPU time of both sides.
    pub(super) cpu_seconds: f64,
    /// Most memory that all its processes held together.
    pub(super) peak_kib: u64,
}

/// Runs a command, and `sync -f` of what it wrote to.
pub(super) fn run(command: &mut Command, servers: &[u32], written: Option<&Path>) -> Result<Cost> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let name = format!("{:?}", command);
    measure(servers, written, || {
        let output = command
            .output()
            .with_context(|| format!("failed to start {name}"))?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{name}: {told}");
        Ok(())
    })
}

/// The same of what this process does with servers.
pub(super) fn measure(
    servers: &[u32],
    written: Option<&Path>,
    act: impl FnOnce() -> Result<()>,
) -> Result<Cost> {
    let own = std::process::id();
    let cpu = || -> f64 {
        let servers: f64 = servers.iter().map(|process| cpu_seconds(*process)).sum();
        servers + cpu_seconds(own)
    };
    let stopped = Arc::new(AtomicBool::new(false));
    let watching = thread::spawn({
        let (stopped, servers) = (stopped.clone(), servers.to_vec());
        move || watch_memory(own, &servers, &stopped)
    });
    let before = cpu();
    let started = Instant::now();
    let done = act();
    let seconds = started.elapsed().as_secs_f64();
    if let Some(written) = written {
        let synced = Command::new("sync").arg("-f").arg(written).status()?;
        ensure!(synced.success(), "`sync` fails");
    }
    let durable_seconds = started.elapsed().as_secs_f64();
    thread::sleep(SETTLE);
    let cpu_seconds = cpu() - before;
    stopped.store(true, Ordering::Relaxed);
    let peak_kib = watching.join().unwrap_or(0);
    done?;
    Ok(Cost {
        seconds,
        durable_seconds,
        cpu_seconds,
        peak_kib,
    })
}

/// CPU time of a process and of those below it that have ended, in hundredths.
fn cpu_seconds(process: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_ascii_whitespace().skip(11).take(4);
    let ticks: u64 = ticks.filter_map(|tick| tick.parse::<u64>().ok()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// The most that the servers, and what is below them and below `own`, held
/// together; `own` itself holds what is measured.
fn watch_memory(own: u32, servers: &[u32], stopped: &AtomicBool) -> u64 {
    let mut peak = 0;
    while !stopped.load(Ordering::Relaxed) {
        peak = peak.max(memory_kib(own, servers));
        thread::sleep(SAMPLE_EVERY);
    }
    peak
}

fn memory_kib(own: u32, servers: &[u32]) -> u64 {
    let mut below: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let process = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok());
        if let Some((process, above)) =
            process.and_then(|process| Some((process, parent(process)?)))
        {
            below.entry(above).or_default().push(process);
        }
    }
    let mut all = Vec::new();
    // Nodes are below this process too, those of other contenders among them.
    let idle = below.get(&own).into_iter().flatten().copied();
    let mut ahead: Vec<u32> = idle.filter(|process| !is_server(*process)).collect();
    ahead.extend(servers);
    while let Some(process) = ahead.pop() {
        all.push(process);
        ahead.extend(below.get(&process).into_iter().flatten());
    }
    all.sort_unstable();
    all.dedup();
    all.into_iter().map(resident_kib).sum()
}

/// Whether it is one of those that go on all the time.
fn is_server(process: u32) -> bool {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    let (first, second) = (words.next().unwrap_or_default(), words.next());
    (first.ends_with(b"alknet") && second == Some(b"up"))
        || first.windows(4).any(|part| part == b"sshd")
}

fn parent(process: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields = text.rsplit_once(')')?.1;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn resident_kib(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/statm")).unwrap_or_default();
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * (rustix::param::page_size() as u64 / 1_024)
}
