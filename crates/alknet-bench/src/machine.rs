//! Where and with what it was measured.

use std::{fs, process::Command};

/// The lock file with which this program was built.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// One line about processors, memory and kernel.
pub(crate) fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into());
    let kernel = read("/proc/sys/kernel/osrelease");
    let memory = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
        .map_or("unknown".into(), |kib| {
            format!("{} GiB", (kib + 524_288) >> 20)
        });
    format!("{cores} cores ({model}), {memory} of memory, Linux {kernel}")
}

/// Programs that were running or ready to run, on average of the last minute.
pub(crate) fn load() -> String {
    let text = read("/proc/loadavg");
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// How readily this process gives way to others: from 19, always, to -20, never.
pub(crate) fn niceness() -> String {
    // Counted from the end of the program's name, which may hold spaces.
    let text = read("/proc/self/stat");
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let nice = fields.split_ascii_whitespace().nth(16);
    nice.unwrap_or("unknown").to_owned()
}

/// The version of a crate that this program was built with.
pub(crate) fn version_of(name: &str) -> &'static str {
    let wanted = format!("name = \"{name}\"\nversion = \"");
    let found = LOCK.split_once(&wanted).map(|(_, rest)| rest);
    found
        .and_then(|rest| rest.split('"').next())
        .unwrap_or("unknown")
}

/// What a program says to these arguments, in one line.
pub(crate) fn says(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".into(),
    }
}

/// Most memory that a process ever held, in KiB; `self` is this one.
pub(crate) fn memory_peak_kib(process: &str) -> u64 {
    field(&format!("/proc/{process}/status"), "VmHWM")
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or(0)
}

/// CPU time of this process so far, in nanoseconds.
pub(crate) fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let (seconds, rest) = (time.tv_sec, time.tv_nsec);
    u64::try_from(seconds).unwrap_or(0) * 1_000_000_000 + u64::try_from(rest).unwrap_or(0)
}

/// CPU time of another process, of all the threads it has now, in nanoseconds.
pub(crate) fn cpu_ns_of(process: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        return 0;
    };
    // The first number is time on a processor, in nanoseconds; `stat` counts
    // in hundredths of a second.
    let on_cpu = threads.flatten().filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    on_cpu.sum()
}

/// Whether a program is on the path.
pub(crate) fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = read(path);
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_lock_file() {
        assert!(version_of("iroh").starts_with("1."));
        assert_eq!(version_of("no-such-crate"), "unknown");
    }

    #[test]
    fn the_machine_is_known() {
        assert!(cpu_ns() > 0 && memory_peak_kib("self") > 0);
        assert!(describe().contains("Linux") && !load().is_empty());
        assert!(cpu_ns_of(std::process::id()) > 0);
        assert!(has_program("sh") && !has_program("no-such-program"));
        assert!((-20..20).contains(&niceness().parse::<i32>().unwrap_or(99)));
    }
}
