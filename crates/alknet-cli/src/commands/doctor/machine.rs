//! What the machine gives a node: files, room, limits, a service manager.

use super::Check;
use crate::{commands::service, hint::quote};
use rustix::process::{Resource, geteuid, getrlimit};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Files in a data directory that are looked at; there are a dozen.
const FILES_MAX: usize = 1_000;
/// Less room than this, and a node soon records nothing more.
const ROOM_LEAST: u64 = 50_000_000;
/// Less than this is worth a word.
const ROOM_SCARCE: u64 = 1_000_000_000;
/// Open files that a node with many peers comes to; each connection is one.
const OPEN_FILES_LEAST: u64 = 4_096;
/// What Linux gives a socket if nobody says otherwise (socket(7)).
const UDP_BUFFER_USUAL: u64 = 212_992;

/// Files that are nobody else's business; the rest tells less than the
/// directory lets anybody see.
const PRIVATE: [&str; 9] = [
    "vault.json",
    "vault.key",
    "owner.key",
    "relay-key.pem",
    "alknet.db",
    "alknet.db-wal",
    "alknet.db-shm",
    "runtime.json",
    "up.log",
];

/// Owner and mode of every file.
pub(super) fn files(dir: &Path) -> Check {
    const NAME: &str = "files";
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return Check::fail(NAME, format!("the directory is not read: {error}")),
    };
    let mine = fs::metadata(dir).map_or(geteuid().as_raw(), |meta| meta.uid());
    let mut foreign: Vec<PathBuf> = Vec::new();
    let mut exposed: Vec<PathBuf> = Vec::new();
    let mut count = 0;
    for entry in entries.flatten().take(FILES_MAX) {
        count += 1;
        let path = entry.path();
        // Not what a link leads to: the link is what lies here.
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.uid() != mine {
            foreign.push(path.clone());
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_private = PRIVATE.contains(&name.as_str()) && !meta.is_symlink();
        if is_private && meta.mode() & 0o077 != 0 {
            exposed.push(path);
        }
    }
    let first = |paths: &[PathBuf]| {
        let shown = paths.first().map(|path| path.display().to_string());
        shown.unwrap_or_default()
    };
    let more = |paths: &[PathBuf]| match paths.len() {
        0 | 1 => String::new(),
        many => format!(" and {} more", many - 1),
    };
    if !exposed.is_empty() {
        let file = first(&exposed);
        let message = format!("`{file}`{} can be read by others", more(&exposed));
        return Check::fail(NAME, message).hint(format!("chmod go= {}", quote(&file)));
    }
    if !foreign.is_empty() {
        let file = first(&foreign);
        let message = format!("`{file}`{} belongs to somebody else", more(&foreign));
        let dir = dir.display().to_string();
        return Check::fail(NAME, message).hint(format!("chown -R {mine} {}", quote(&dir)));
    }
    if mine != geteuid().as_raw() {
        let message = format!(
            "the directory is of user {mine}, and this is {}",
            geteuid().as_raw()
        );
        return Check::warn(NAME, message).hint("run alknet as that user");
    }
    Check::ok(NAME, format!("{count}, of this user alone"))
}

/// Room on the disk of the data directory.
pub(super) fn disk(dir: &Path) -> Check {
    const NAME: &str = "disk";
    let Ok(found) = rustix::fs::statvfs(dir) else {
        return Check::warn(NAME, "it is not known how much room there is");
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let hint = "make room: what cannot be recorded is not done";
    if free < ROOM_LEAST {
        Check::fail(NAME, format!("{} are free", megabytes(free))).hint(hint)
    } else if free < ROOM_SCARCE {
        Check::warn(NAME, format!("only {} are free", megabytes(free))).hint(hint)
    } else {
        Check::ok(NAME, format!("{} are free", megabytes(free)))
    }
}

fn megabytes(bytes: u64) -> String {
    match bytes / 1_000_000 {
        megabytes @ 0..10_000 => format!("{megabytes} MB"),
        megabytes => format!("{} GB", megabytes / 1_000),
    }
}

/// How many connections there may be.
pub(super) fn open_files() -> Check {
    open_files_of(getrlimit(Resource::Nofile).maximum)
}

fn open_files_of(most: Option<u64>) -> Check {
    const NAME: &str = "open files";
    match most {
        Some(most) if most < OPEN_FILES_LEAST => {
            Check::warn(NAME, format!("at most {most}, and each connection is one")).hint(format!(
                "ulimit -Hn {OPEN_FILES_LEAST}, or LimitNOFILE= in a unit"
            ))
        }
        Some(most) => Check::ok(NAME, format!("at most {most}")),
        None => Check::ok(NAME, "as many as wanted"),
    }
}

/// How much a UDP socket may hold that is not read or sent yet; no check where
/// the system does not tell.
pub(super) fn udp_buffers() -> Option<Check> {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    Some(udp_buffers_of(read("rmem_max")?, read("wmem_max")?))
}

fn udp_buffers_of(receive: u64, send: u64) -> Check {
    const NAME: &str = "UDP buffers";
    let message = format!("{receive} bytes to receive, {send} to send");
    match receive.min(send) < UDP_BUFFER_USUAL {
        true => Check::warn(NAME, format!("{message}: packets are lost early")).hint(format!(
            "sysctl -w net.core.rmem_max={UDP_BUFFER_USUAL} net.core.wmem_max={UDP_BUFFER_USUAL}"
        )),
        false => Check::ok(NAME, message),
    }
}

/// The service that is installed.
pub(super) fn service() -> Check {
    const NAME: &str = "service";
    let installed = [true, false].into_iter().find_map(|system| {
        let found = service::look(system);
        found.installed.then_some((system, found))
    });
    let Some((system, found)) = installed else {
        return Check::ok(NAME, "none is installed");
    };
    let (whose, user) = match system {
        true => ("of the system", ""),
        false => ("of this user", " --user"),
    };
    match found.active.as_deref() {
        Some("failed") => Check::fail(NAME, format!("the one {whose} has failed"))
            .hint(format!("journalctl{user} -u alknet")),
        Some("inactive") => Check::warn(NAME, format!("the one {whose} does not run"))
            .hint(format!("systemctl{user} start alknet")),
        Some(state) => Check::ok(NAME, format!("the one {whose} is {state}")),
        None => Check::warn(
            NAME,
            format!("the one {whose} is installed, and no systemd answers"),
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::Status, *};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn an_exposed_key_fails_and_a_link_to_nowhere_does_not_panic() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("owner.key");
        fs::write(&key, "x").unwrap();
        let status = |mode: u32| {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
            files(dir.path()).status
        };
        assert_eq!([status(0o600), status(0o640)], [Status::Ok, Status::Fail]);
        fs::remove_file(&key).unwrap();
        symlink("/nowhere/at/all", &key).unwrap();
        assert_eq!(files(dir.path()).status, Status::Ok);
        assert_eq!(files(&dir.path().join("none")).status, Status::Fail);
    }

    #[test]
    fn limits_are_judged_at_the_limit() {
        let files = |most| open_files_of(most).status;
        assert_eq!(
            [files(Some(4_095)), files(Some(4_096)), files(None)],
            [Status::Warn, Status::Ok, Status::Ok]
        );
        let buffers = |receive, send| udp_buffers_of(receive, send).status;
        assert_eq!(
            [
                buffers(212_992, 212_992),
                buffers(212_991, 9_000_000),
                buffers(0, 0)
            ],
            [Status::Ok, Status::Warn, Status::Warn]
        );
        assert_eq!(megabytes(49_999_999), "49 MB");
        assert_eq!(megabytes(12_000_000_000), "12 GB");
    }
}
