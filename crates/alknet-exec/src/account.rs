//! As whom processes run: accounts of this machine, and the rule for root.

use std::{io, path::Path, sync::Arc};

/// An account, from `/etc/passwd` and `/etc/group` (`passwd(5)`, `group(5)`).
/// Directories behind NSS (LDAP, systemd-homed) are not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// Login name.
    pub(crate) name: String,
    /// User id.
    pub(crate) uid: u32,
    /// Primary group.
    pub(crate) gid: u32,
    /// All groups, the primary one first.
    pub(crate) groups: Vec<u32>,
    /// Home directory.
    pub(crate) home: String,
    /// Login shell.
    pub(crate) shell: String,
}

/// Why nobody can be run as.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// `/etc/passwd` has no such line.
    #[error("no account `{name}` in /etc/passwd")]
    Unknown {
        /// The name.
        name: String,
    },
    /// An account of uid 0 that is not called root.
    #[error("account `{name}` has uid 0: to run processes as root, write `root`")]
    RootByAnotherName {
        /// The name.
        name: String,
    },
    /// Only root may become somebody else.
    #[error(
        "the node runs as uid {euid} and cannot run processes as `{name}` (uid {uid}): only a node that runs as root can"
    )]
    NotRoot {
        /// The name.
        name: String,
        /// Its uid.
        uid: u32,
        /// The node's.
        euid: u32,
    },
    /// The account files cannot be read.
    #[error("failed to read `{path}`")]
    Io {
        /// Which one.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// As whom processes run.
#[derive(Clone, Debug)]
pub(crate) enum RunAs {
    /// The node is root, and nobody has said as whom.
    Refused,
    /// As the node itself.
    Node,
    /// As this account; `switch` if that is another one than the node's.
    Account { account: Arc<Account>, switch: bool },
}

impl RunAs {
    /// Decides for a node that runs as `euid`.
    pub(crate) fn resolve(user: Option<&str>, euid: u32) -> Result<Self, AccountError> {
        match user {
            None if euid == 0 => Ok(Self::Refused),
            None => Ok(Self::Node),
            Some(name) => {
                let passwd = read("/etc/passwd")?;
                let group = read("/etc/group")?;
                Self::with(name, euid, &passwd, &group)
            }
        }
    }

    fn with(name: &str, euid: u32, passwd: &str, group: &str) -> Result<Self, AccountError> {
        let account = Account::find(name, passwd, group)
            .ok_or_else(|| AccountError::Unknown { name: name.into() })?;
        if account.uid == 0 && name != "root" {
            return Err(AccountError::RootByAnotherName { name: name.into() });
        }
        if euid != 0 && account.uid != euid {
            return Err(AccountError::NotRoot {
                name: name.into(),
                uid: account.uid,
                euid,
            });
        }
        Ok(Self::Account {
            switch: euid == 0,
            account: Arc::new(account),
        })
    }
}

impl Account {
    /// The account with this id, the first one if it has several names.
    pub(crate) fn of_uid(uid: u32) -> Option<Self> {
        let (passwd, group) = (read("/etc/passwd").ok()?, read("/etc/group").ok()?);
        let uid = uid.to_string();
        let mut lines = passwd.lines().map(|line| line.split(':'));
        let name = lines.find_map(|mut fields| {
            let name = fields.next()?;
            (fields.nth(1)? == uid).then_some(name)
        })?;
        Self::find(name, &passwd, &group)
    }

    fn find(name: &str, passwd: &str, group: &str) -> Option<Self> {
        let fields = passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.len() >= 7 && fields[0] == name);
        let mut account = match fields {
            Some(fields) => Self {
                name: name.into(),
                uid: fields[2].parse().ok()?,
                gid: fields[3].parse().ok()?,
                groups: Vec::new(),
                home: fields[5].into(),
                shell: Some(fields[6])
                    .filter(|s| !s.is_empty())
                    .unwrap_or("/bin/sh")
                    .into(),
            },
            // A container may have no account file at all; root it has.
            None if name == "root" => Self {
                name: name.into(),
                uid: 0,
                gid: 0,
                groups: Vec::new(),
                home: "/root".into(),
                shell: "/bin/sh".into(),
            },
            None => return None,
        };
        account.groups.push(account.gid);
        for line in group.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, gid, members] = fields[..] else {
                continue;
            };
            let is_member = members.split(',').any(|member| member.trim() == name);
            if let Ok(gid) = gid.parse()
                && is_member
                && !account.groups.contains(&gid)
            {
                account.groups.push(gid);
            }
        }
        Some(account)
    }
}

fn read(path: &str) -> Result<String, AccountError> {
    match std::fs::read(Path::new(path)) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(AccountError::Io {
            path: path.into(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        toor:x:0:0::/root:/bin/sh\n\
        deploy:x:1001:1002:Deploy,,,:/srv/deploy:\n\
        broken:x:many:1:::\n\
        short:x:5\n";
    const GROUP: &str = "root:x:0:\n\
        deploy:x:1002:deploy\n\
        docker:x:990:alice,deploy\n\
        adm:x:4:alice\n\
        broken\n";

    #[track_caller]
    fn check(name: &str, euid: u32, want: &str) {
        let got = match RunAs::with(name, euid, PASSWD, GROUP) {
            Ok(RunAs::Account { account, switch }) => {
                format!(
                    "{}:{} {:?} switch={switch}",
                    account.uid, account.gid, account.groups
                )
            }
            Ok(other) => format!("{other:?}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, want);
    }

    #[test]
    fn an_account_has_its_groups() {
        check("deploy", 0, "1001:1002 [1002, 990] switch=true");
        check("deploy", 1001, "1001:1002 [1002, 990] switch=false");
        check("root", 0, "0:0 [0] switch=true");
    }

    #[test]
    fn what_cannot_be_run_as_is_refused() {
        check("nobody-here", 0, "no account `nobody-here` in /etc/passwd");
        check("broken", 0, "no account `broken` in /etc/passwd");
        check("short", 0, "no account `short` in /etc/passwd");
        check(
            "toor",
            0,
            "account `toor` has uid 0: to run processes as root, write `root`",
        );
        check(
            "deploy",
            1000,
            "the node runs as uid 1000 and cannot run processes as `deploy` (uid 1001): only a node that runs as root can",
        );
    }

    #[test]
    fn root_must_be_written_out() {
        assert!(matches!(RunAs::resolve(None, 0), Ok(RunAs::Refused)));
        assert!(matches!(RunAs::resolve(None, 1000), Ok(RunAs::Node)));
    }

    #[test]
    fn an_empty_shell_is_the_default_one() {
        let account = Account::find("deploy", PASSWD, GROUP);
        assert_eq!(account.map(|a| a.shell).as_deref(), Some("/bin/sh"));
        assert!(Account::find("root", "", "").is_some());
    }
}
