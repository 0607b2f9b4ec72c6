//! One network namespace: made, entered, configured, removed.

use crate::LabError;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::{self, File},
    io::{self, Write},
    net::{Ipv4Addr, TcpStream},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Where `ip netns` keeps the names of namespaces.
const NAMES: &str = "/run/netns";
/// Where `ip netns exec` finds a namespace's own files of `/etc`.
const FILES: &str = "/etc/netns";

/// How long one question to a router may take.
const ANSWER: Duration = Duration::from_millis(200);
/// How long an interface may take to come up.
const READY: Duration = Duration::from_secs(20);

/// An administrator's program, which is not on everybody's search path.
pub(crate) fn program(name: &str) -> Command {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .map(|place| Path::new(place).join(name))
        .find(|path| path.exists());
    Command::new(found.unwrap_or_else(|| name.into()))
}

/// Runs a program with this input to its end.
fn run(mut command: Command, input: &str) -> Result<(), LabError> {
    let line = || {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        let input = input.trim_end().replace('\n', "; ");
        if input.is_empty() {
            words.join(" ")
        } else {
            format!("{} < {input}", words.join(" "))
        }
    };
    let named = line();
    let failed = |said: String| LabError::Command {
        command: named.clone(),
        said,
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that read none of it says why on standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let said = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if said.status.success() {
        return Ok(());
    }
    Err(failed(
        String::from_utf8_lossy(&said.stderr)
            .trim()
            .replace('\n', " "),
    ))
}

/// Runs lines of `ip`, in a namespace if one is named; the first that fails
/// ends it.
pub(crate) fn ip(namespace: Option<&str>, lines: &str) -> Result<(), LabError> {
    let mut command = program("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    command.args(["-batch", "-"]);
    run(command, lines)
}

/// What a namespace does with packets for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It drops them.
    Host,
    /// It forwards them.
    Router,
}

/// A named network namespace that this process made.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with its loopback interface up, and names resolved by
    /// `resolver` alone. Interfaces of a router have IPv6 from the start.
    pub(crate) fn create(name: String, resolver: &str, role: Role) -> Result<Self, LabError> {
        let files = Path::new(FILES).join(&name);
        let io = |act: &str, source| LabError::Io {
            act: act.to_owned(),
            namespace: name.clone(),
            source,
        };
        fs::create_dir_all(&files).map_err(|source| io("make the directory of files", source))?;
        let own = [
            ("resolv.conf", format!("nameserver {resolver}\n")),
            ("hosts", "127.0.0.1 localhost\n::1 localhost\n".to_owned()),
            // Without it some resolvers ask services of the host before.
            ("nsswitch.conf", "hosts: files dns\n".to_owned()),
        ];
        for (file, text) in own {
            fs::write(files.join(file), text).map_err(|source| io("write its files", source))?;
        }
        ip(None, &format!("netns add {name}\n"))?;
        let made = Self { name };
        made.ip("link set lo up\n")?;
        let (forwards, has_no_v6) = match role {
            Role::Host => ("0", "1"),
            Role::Router => ("1", "0"),
        };
        // Namespaces may inherit what the host has set.
        made.sysctls(&[
            ("net/ipv4/ip_forward", forwards),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            // Asked on one interface for the address of another, the kernel
            // would answer, and packets would find ways around a slow wire.
            ("net/ipv4/conf/all/arp_ignore", "1"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/default/send_redirects", "0"),
            ("net/ipv6/conf/all/forwarding", forwards),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/router_solicitations", "0"),
            ("net/ipv6/conf/default/disable_ipv6", has_no_v6),
        ])?;
        if role == Role::Router {
            made.do_not_filter_bridges()?;
        }
        Ok(made)
    }

    /// Kernels may send what they bridge through the rules for what they
    /// route: two machines on one LAN would not hear each other.
    fn do_not_filter_bridges(&self) -> Result<(), LabError> {
        let settings = ["call-iptables", "call-ip6tables", "call-arptables"];
        let settings = settings.map(|name| format!("net/bridge/bridge-nf-{name}"));
        let exist = |name: &String| Path::new("/proc/sys").join(name).exists();
        let found = self.enter(|| {
            settings
                .iter()
                .filter(|name| exist(name))
                .collect::<Vec<_>>()
        })?;
        let off: Vec<(&str, &str)> = found.iter().map(|name| (name.as_str(), "0")).collect();
        self.sysctls(&off)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs lines of `ip` in it.
    pub(crate) fn ip(&self, lines: &str) -> Result<(), LabError> {
        ip(Some(&self.name), lines)
    }

    /// Runs a program in it with this input.
    pub(crate) fn feed(&self, words: &[&str], input: &str) -> Result<(), LabError> {
        let mut command = program("ip");
        command.args(["netns", "exec", &self.name]);
        // `nft` and `tc` stand beside `ip`.
        command.arg(program(words[0]).get_program());
        command.args(&words[1..]);
        run(command, input)
    }

    /// Applies a script of nftables, whole or not at all.
    pub(crate) fn nft(&self, script: &str) -> Result<(), LabError> {
        self.feed(&["nft", "-f", "-"], script)
    }

    /// Writes settings below `/proc/sys`.
    pub(crate) fn sysctls(&self, settings: &[(&str, &str)]) -> Result<(), LabError> {
        self.enter(|| {
            settings.iter().try_for_each(|(name, value)| {
                fs::write(Path::new("/proc/sys").join(name), value)
                    .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))
            })
        })?
        .map_err(|source| self.io("write a setting", source))
    }

    /// Runs `act` in a thread of this process that has stepped into it.
    pub(crate) fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        let path = Path::new(NAMES).join(&self.name);
        let door = File::open(&path).map_err(|source| self.io("open it", source))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                // Threads have a namespace each: the others stay where they are.
                move_into_link_name_space(door.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(|error| self.io("step into it", error.into()))?;
                Ok(act())
            });
            match inside.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Waits until the router answers: the kernel brings interfaces up behind
    /// the back of who asked for it, and drops what is sent before.
    pub(crate) fn reaches(&self, router: Ipv4Addr) -> Result<(), LabError> {
        // Nobody listens there, which is an answer.
        let at = (router, 9).into();
        let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        let started = Instant::now();
        loop {
            let tried = self.enter(|| TcpStream::connect_timeout(&at, ANSWER))?;
            match tried {
                Err(error) if refused(&error) => return Ok(()),
                _ if started.elapsed() < READY => thread::sleep(Duration::from_millis(1)),
                Err(source) => return Err(self.io("reach its router", source)),
                Ok(_) => return Ok(()),
            }
        }
    }

    pub(crate) fn io(&self, act: &str, source: io::Error) -> LabError {
        LabError::Io {
            act: act.to_owned(),
            namespace: self.name.clone(),
            source,
        }
    }
}

/// The names of the namespaces of this machine.
pub(crate) fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(NAMES) else {
        // No namespace was ever made here.
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

/// Kills what runs in these namespaces, this process excepted, and removes
/// them; what is gone already is no error.
pub(crate) fn remove(names: &[String]) {
    if names.is_empty() {
        return;
    }
    let inodes: Vec<u64> = names
        .iter()
        .filter_map(|name| Some(fs::metadata(Path::new(NAMES).join(name)).ok()?.ino()))
        .collect();
    for pid in processes_in(names, &inodes) {
        // It may have ended.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    for name in names {
        // Interfaces and what is left of their peers go with it.
        let _ = ip(None, &format!("netns del {name}\n"));
        let _ = fs::remove_dir_all(Path::new(FILES).join(name));
    }
    // Only if nobody keeps anything there.
    let _ = fs::remove_dir(FILES);
}

/// The processes in these namespaces, or on their way in.
fn processes_in(names: &[String], inodes: &[u64]) -> Vec<rustix::process::Pid> {
    let own = rustix::process::getpid();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(rustix::process::Pid::from_raw)
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
            // In this order: who has become the program that it was to start is
            // inside by then.
            let line = command_line(&proc);
            enters(&line).is_some_and(|name| names.iter().any(|ours| ours.as_bytes() == name))
                || fs::metadata(proc.join("ns/net"))
                    .is_ok_and(|found| inodes.contains(&found.ino()))
        })
        .collect()
}

/// The words of a process.
///
/// A child of this process has none for a moment: whoever starts it goes on as
/// soon as the kernel has begun to replace it.
fn command_line(proc: &Path) -> Vec<u8> {
    let read = || fs::read(proc.join("cmdline")).unwrap_or_default();
    let is_child = || {
        let stat = fs::read_to_string(proc.join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        // What has ended has no words either, and no program.
        parent == Some(std::process::id()) && fs::read_link(proc.join("exe")).is_ok()
    };
    for _ in 0..1_000 {
        let line = read();
        if !line.is_empty() || !is_child() {
            return line;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Vec::new()
}

/// The namespace that a process with this command line is about to enter.
fn enters(line: &[u8]) -> Option<&[u8]> {
    let mut words = line.split(|byte| *byte == 0).skip(1);
    let is_exec = words.next()? == b"netns" && words.next()? == b"exec";
    is_exec.then(|| words.next()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_about_to_enter_is_known_by_its_words() {
        let line = b"/usr/sbin/ip\0netns\0exec\0alklab.1.2.0.home\0sleep\0";
        assert_eq!(enters(line), Some(&b"alklab.1.2.0.home"[..]));
        assert_eq!(enters(b"ip\0netns\0add\0alklab.1.2.0.home\0"), None);
        assert_eq!(enters(b"sleep\x001000\0"), None);
        assert_eq!(enters(b""), None);
    }
}
