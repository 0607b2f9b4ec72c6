//! Network namespaces: machines that cannot reach each other, on this one.

use std::{fs, io::Write, process::Command};

/// The program `ip`, which is not on everybody's search path.
pub(crate) fn ip() -> Command {
    let places = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"];
    let found = places
        .iter()
        .find(|place| std::path::Path::new(place).exists());
    Command::new(found.unwrap_or(&"ip"))
}

/// Runs `ip` with these words; what it said if it failed.
fn run(words: &str) -> Result<(), String> {
    let said = ip()
        .args(words.split(' '))
        .output()
        .map_err(|error| format!("`ip`: {error}"))?;
    if said.status.success() {
        return Ok(());
    }
    Err(format!(
        "`ip {words}`: {}",
        String::from_utf8_lossy(&said.stderr).trim()
    ))
}

/// Namespaces of one test, removed when dropped.
pub(crate) struct Lab {
    prefix: String,
    names: Vec<String>,
}

impl Lab {
    /// A lab, unless this machine cannot have one: then the test is counted as
    /// skipped.
    pub(crate) fn open(test: &str) -> Option<Self> {
        let prefix = format!("alk{}", std::process::id());
        let mut lab = Self {
            prefix,
            names: Vec::new(),
        };
        match lab.try_add("probe") {
            Ok(_) => Some(lab),
            Err(reason) => {
                skip(test, &reason);
                None
            }
        }
    }

    fn try_add(&mut self, name: &str) -> Result<String, String> {
        let name = format!("{}-{name}", self.prefix);
        run(&format!("netns add {name}"))?;
        self.names.push(name.clone());
        run(&format!("-n {name} link set lo up"))?;
        Ok(name)
    }

    /// A machine with nothing but loopback.
    #[track_caller]
    pub(crate) fn machine(&mut self, name: &str) -> String {
        self.try_add(name).unwrap()
    }

    /// A cable between two machines: each end's name and address with its
    /// prefix length.
    #[track_caller]
    pub(crate) fn cable(&self, one: (&str, &str, &str), other: (&str, &str, &str)) {
        let (one_ns, one_end, one_address) = one;
        let (other_ns, other_end, other_address) = other;
        run(&format!(
            "link add {one_end} netns {one_ns} type veth peer name {other_end} netns {other_ns}"
        ))
        .unwrap();
        for (ns, end, address) in [
            (one_ns, one_end, one_address),
            (other_ns, other_end, other_address),
        ] {
            run(&format!("-n {ns} addr add {address} dev {end}")).unwrap();
            run(&format!("-n {ns} link set {end} up")).unwrap();
        }
    }

    /// Runs `ip` in a machine.
    #[track_caller]
    pub(crate) fn ip(&self, machine: &str, words: &str) {
        run(&format!("-n {machine} {words}")).unwrap();
    }

    /// Runs a program in a machine; whether it succeeded.
    #[track_caller]
    pub(crate) fn succeeds(&self, machine: &str, words: &[&str]) -> bool {
        let said = ip()
            .args(["netns", "exec", machine])
            .args(words)
            .output()
            .unwrap();
        said.status.success()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            // Interfaces and what is left of their peers go with them.
            let _ = run(&format!("netns del {name}"));
        }
    }
}

/// Counts a test as skipped: `./test` lists it by name.
pub(crate) fn skip(test: &str, reason: &str) {
    let Some(log) = std::env::var_os("ALKNET_SKIP_LOG") else {
        return;
    };
    let mut log = fs::File::options()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    writeln!(log, "SKIP: {test}: {}", reason.replace('\n', " ")).unwrap();
}
