//! The text of a unit file, as systemd.service(5) and systemd.exec(5) read it.

use std::path::{Path, PathBuf};

/// The first line, by which our units are told from others'.
pub(super) const MARK: &str = "# Made by `alknet service install`.";

/// Whose service it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Of the user who installs it.
    User,
    /// Of the machine, as an account of its own.
    System {
        /// The account.
        user: String,
    },
}

/// What a unit is made of.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) scope: Scope,
    pub(super) program: PathBuf,
    pub(super) data_dir: PathBuf,
    /// The file with the vault's passphrase, which systemd hands over.
    pub(super) passphrase: Option<PathBuf>,
    /// Ports below 1024.
    pub(super) low_ports: bool,
    /// Directories of buckets, and whether nothing is written to them.
    pub(super) buckets: Vec<(PathBuf, bool)>,
}

/// Where a system service keeps its data: `StateDirectory=alknet`.
pub(super) const STATE_DIR: &str = "/var/lib/alknet";

/// What holds for every node: what it starts gets no more rights than it has,
/// and no memory of it lands on a disk. The mask is the usual one: whoever puts
/// a page into `/var/www` wants it to be read, and what the node keeps for
/// itself has its own modes, in a directory for its account alone.
const ALWAYS: &str = "\
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
UMask=0022
LimitCORE=0
LimitNOFILE=65536
";

/// What only the system's manager can do, and an account of its own stands.
/// The programs that peers may run live in it, too; so not in here:
/// MemoryDenyWriteExecute (interpreters that compile), PrivateNetwork,
/// PrivateUsers, ProtectHome (buckets may lie there).
const CONFINED: &str = "\
ProtectSystem=strict
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
";

impl Unit {
    /// The whole file.
    pub(super) fn render(&self) -> String {
        let is_system = self.scope != Scope::User;
        let mut text = format!("{MARK}\n[Unit]\nDescription=alknet node\n");
        if is_system {
            text.push_str("Wants=network-online.target\nAfter=network-online.target\n");
        }
        text.push_str("\n[Service]\nType=notify\nNotifyAccess=main\n");
        text.push_str(&format!("ExecStart={}\n", self.command()));
        text.push_str("ExecReload=/bin/kill -HUP $MAINPID\n");
        // The node ends the programs of its callers itself, in order.
        text.push_str("KillMode=mixed\nTimeoutStopSec=30\nRestart=on-failure\nRestartSec=2\n");
        if let Some(file) = &self.passphrase {
            // Colons separate: a path may hold them, the name not.
            let file = escaped(&file.display().to_string());
            text.push_str(&format!("LoadCredential=passphrase:{file}\n"));
        }
        text.push_str(ALWAYS);
        if let Scope::System { user } = &self.scope {
            text.push_str(&format!(
                "User={user}\nStateDirectory=alknet\nStateDirectoryMode=0700\n"
            ));
            let capabilities = if self.low_ports {
                "CAP_NET_BIND_SERVICE"
            } else {
                ""
            };
            text.push_str(&format!("AmbientCapabilities={capabilities}\n"));
            text.push_str(&format!("CapabilityBoundingSet={capabilities}\n"));
            text.push_str(CONFINED);
            if !self.data_dir.starts_with(STATE_DIR) {
                text.push_str(&format!("ReadWritePaths={}\n", quoted(&self.data_dir)));
            }
            for (path, is_read_only) in &self.buckets {
                let setting = match is_read_only {
                    true => "ReadOnlyPaths",
                    false => "ReadWritePaths",
                };
                // `-`: one that is not there keeps no node from its start.
                let path = PathBuf::from(format!("-{}", path.display()));
                text.push_str(&format!("{setting}={}\n", quoted(&path)));
            }
        }
        let target = if is_system {
            "multi-user.target"
        } else {
            "default.target"
        };
        text.push_str(&format!("\n[Install]\nWantedBy={target}\n"));
        text
    }

    fn command(&self) -> String {
        let mut command = format!(
            "{} up --data-dir {}",
            quoted(&self.program),
            quoted(&self.data_dir)
        );
        if self.passphrase.is_some() {
            // `%d` is where the credentials lie, readable by the service alone.
            command.push_str(" --passphrase-file %d/passphrase");
        }
        command
    }
}

/// `%` begins a specifier, in every setting.
fn escaped(text: &str) -> String {
    text.replace('%', "%%")
}

/// One word of a command line (systemd.service(5), "COMMAND LINES").
fn quoted(path: &Path) -> String {
    let text = escaped(&path.display().to_string());
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text;
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '$' => quoted.push_str("$$"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(scope: Scope) -> Unit {
        Unit {
            scope,
            program: "/usr/local/bin/alknet".into(),
            data_dir: "/srv/ada/alknet".into(),
            passphrase: None,
            low_ports: false,
            buckets: Vec::new(),
        }
    }

    #[test]
    fn buckets_are_open_as_far_as_the_configuration_says() {
        let mut unit = unit(Scope::System {
            user: "alknet".into(),
        });
        unit.buckets = vec![
            ("/var/www".into(), false),
            ("/srv/a b%".into(), false),
            ("/srv/films".into(), true),
        ];
        let text = unit.render();
        for line in [
            "ReadWritePaths=-/var/www",
            "ReadWritePaths=\"-/srv/a b%%\"",
            "ReadOnlyPaths=-/srv/films",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        // A user's service sees what the user sees.
        unit.scope = Scope::User;
        assert!(!unit.render().contains("/var/www"));
    }

    #[test]
    fn a_users_unit_starts_the_node_of_its_data_directory() {
        let text = unit(Scope::User).render();
        assert!(text.starts_with(MARK));
        assert!(text.contains("\nExecStart=/usr/local/bin/alknet up --data-dir /srv/ada/alknet\n"));
        // What a user's manager cannot do would fail the start.
        assert!(!text.contains("ProtectSystem") && !text.contains("User="));
        assert!(text.contains("WantedBy=default.target"));
    }

    #[test]
    fn a_systems_unit_runs_as_an_account_without_capabilities() {
        let system = Scope::System {
            user: "alknet".into(),
        };
        let mut unit = unit(system);
        unit.data_dir = STATE_DIR.into();
        let text = unit.render();
        assert!(text.contains("\nUser=alknet\n") && text.contains("\nCapabilityBoundingSet=\n"));
        assert!(!text.contains("ReadWritePaths"));
        unit.low_ports = true;
        unit.data_dir = "/srv/a b".into();
        let text = unit.render();
        assert!(text.contains("\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n"));
        assert!(text.contains("\nReadWritePaths=\"/srv/a b\"\n"));
    }

    #[test]
    fn a_passphrase_comes_as_a_credential_and_never_in_the_unit() {
        let mut unit = unit(Scope::User);
        unit.passphrase = Some("/etc/alknet/phrase".into());
        let text = unit.render();
        assert!(text.contains("\nLoadCredential=passphrase:/etc/alknet/phrase\n"));
        assert!(text.contains(" --passphrase-file %d/passphrase\n"));
    }

    #[test]
    fn words_are_quoted_as_systemd_reads_them() {
        for (path, want) in [
            ("/a/b-c_d.e", "/a/b-c_d.e"),
            ("/a b", "\"/a b\""),
            ("/a\"b\\c", "\"/a\\\"b\\\\c\""),
            ("/a$b", "\"/a$$b\""),
            ("/100%", "/100%%"),
        ] {
            assert_eq!(quoted(Path::new(path)), want);
        }
    }
}
