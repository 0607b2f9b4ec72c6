//! Units of systemd, judged by its own programs, and started as it would.

use super::harness::{error_code, eventually, exec_config};
use crate::program::{PATIENCE, Place, Said, alknet, finish, signal, wait};
use rustix::process::Signal;
use std::{
    fs,
    os::unix::{fs::chown, net::UnixDatagram},
    path::Path,
    process::{Command, Stdio},
};

/// An account with no rights, `nobody`.
const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What a program of systemd says of a unit; nothing if it is not there.
fn judge(words: &[&str], unit: &Path) -> Option<Said> {
    let known = Command::new("systemd-analyze").arg("--version").output();
    if !known.is_ok_and(|said| said.status.success()) {
        alknet_lab::skip(
            "units_are_what_systemd_reads",
            "there is no systemd-analyze",
        );
        return None;
    }
    let mut command = Command::new("systemd-analyze");
    command
        .args(words)
        .arg(unit)
        // Where a user's manager would keep its sockets.
        .env("XDG_RUNTIME_DIR", unit.parent().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Some(finish(command, b""))
}

fn printed(place: &Place, words: &[&str]) -> String {
    let words = [&["service", "install", "--print"], words].concat();
    place.run(&words).exits(0).stdout
}

#[test]
fn units_are_what_systemd_reads() {
    let place = Place::new();
    let phrase = place.path().join("a phrase");
    fs::write(&phrase, "kept apart").unwrap();
    let phrase = phrase.to_str().unwrap();
    for (name, words, user) in [
        ("user", &[][..], true),
        ("sealed", &["--passphrase-file", phrase][..], true),
        ("system", &["--system"][..], false),
        (
            "other",
            &["--system", "--user-name", "home-node", "--low-ports"][..],
            false,
        ),
    ] {
        let dir = place.path().join(name);
        fs::create_dir(&dir).unwrap();
        let unit = dir.join("alknet.service");
        fs::write(&unit, printed(&place, words)).unwrap();
        let verify = match user {
            true => &["verify", "--user"][..],
            false => &["verify"],
        };
        let Some(said) = judge(verify, &unit) else {
            return;
        };
        // Directives that it does not know are said, and forgiven.
        let told = said
            .stderr
            .lines()
            .find(|line| line.contains("alknet.service"));
        assert_eq!(told, None, "{name}");
        let said = said.exits(0);
        assert!(!said.stderr.contains("Unknown"), "{said:?}");
        if !user {
            // 10 is a service without any restriction; tenths are counted.
            let exposure = ["security", "--offline=true", "--threshold=22"];
            let said = judge(&exposure, &unit).unwrap();
            assert!(said.status.success(), "{}", said.stdout);
        }
    }
    // It does judge.
    let bad = place.path().join("bad.service");
    fs::write(&bad, "[Service]\nType=notify\nExecStart=/nowhere/at/all\n").unwrap();
    let said = judge(&["verify"], &bad).unwrap();
    assert!(!said.status.success(), "{said:?}");
    fs::write(&bad, "[Service]\nExecStart=/bin/true\n").unwrap();
    let said = judge(&["security", "--offline=true", "--threshold=22"], &bad).unwrap();
    assert!(!said.status.success(), "{said:?}");
}

/// The words of a command line of a unit; the paths of tests need no quotes.
fn words_of<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    let mut lines = unit.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.unwrap().split(' ').collect()
}

/// A command as an account without rights, if that can be had.
fn as_nobody(words: &[&str]) -> Option<Command> {
    if !is_root() {
        return None;
    }
    let id = NOBODY.to_string();
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        &id,
        "--regid",
        &id,
        "--clear-groups",
        "--no-new-privs",
        "--",
    ]);
    command.args(words);
    let mut probe = Command::new("setpriv");
    let probe = probe.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]);
    let probe = probe.args([words[0], "version"]).output();
    probe
        .is_ok_and(|said| said.status.success())
        .then_some(command)
}

/// What comes at a socket as systemd's, one state after the other.
fn told(socket: &UnixDatagram) -> String {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = [0; 4096];
    let len = socket.recv(&mut text).unwrap();
    String::from_utf8(text[..len].into()).unwrap()
}

#[test]
fn a_unit_starts_a_node_that_tells_when_it_is_ready_and_when_it_stops() {
    let place = Place::new();
    place.configure("[network]\nbind = \"127.0.0.1:0\"\nrelays = []\n");
    let unit = printed(&place, &[]);
    let start = words_of(&unit, "ExecStart");
    assert_eq!(start.last(), Some(&place.data().to_str().unwrap()));
    let mut command = match as_nobody(&start) {
        Some(command) => {
            for path in [
                place.path(),
                &place.data(),
                &place.data().join("alknet.toml"),
            ] {
                chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
            command
        }
        None => {
            let config = "[network]\nbind = \"127.0.0.1:0\"\nrelays = []\n";
            place.configure(&format!("{config}{}", exec_config()));
            let mut command = Command::new(start[0]);
            command.args(&start[1..]);
            command
        }
    };
    let path = place.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let log = fs::File::create(place.path().join("log")).unwrap();
    command
        .env_clear()
        .env("HOME", place.path())
        .env("NOTIFY_SOCKET", &path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let mut child = command.spawn().unwrap();
    let ready = told(&socket);
    assert!(ready.starts_with("READY=1\nSTATUS=serving as "), "{ready}");
    // Ready means that it answers, and that it is who it says.
    let status = place.run(&["status", "--json"]).exits(0).json();
    assert!(
        ready.ends_with(status["node_id"].as_str().unwrap()),
        "{ready}"
    );
    assert_eq!(status["pid"], child.id());
    let reload = words_of(&unit, "ExecReload");
    assert_eq!(reload, ["/bin/kill", "-HUP", "$MAINPID"]);
    signal(&child, Signal::HUP);
    signal(&child, Signal::TERM);
    assert!(told(&socket).starts_with("STOPPING=1\n"));
    assert!(wait(&mut child).success());
}

#[test]
fn a_socket_that_nobody_reads_delays_nothing() {
    let place = Place::new();
    place.configure(exec_config());
    let mut command = alknet(place.path());
    command.args(["up", "--json", "--relay", "none", "--bind", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", place.path().join("nowhere"));
    let mut child = command.spawn().unwrap();
    eventually("the node answers", || {
        place.run(&["status"]).status.success().then_some(())
    });
    signal(&child, Signal::TERM);
    assert!(wait(&mut child).success());
}

#[test]
fn what_cannot_be_a_service_is_refused() {
    let place = Place::new();
    if !Path::new("/run/systemd/system").exists() {
        for words in [["install"], ["uninstall"]] {
            let said = place.run(&[&["service", "--json"], &words[..]].concat());
            assert_eq!(error_code(&said.exits(1).stderr), "NO_SYSTEMD");
        }
    }
    for words in [
        &["--user-name", "alknet"][..],
        &["--system", "--user-name", "root\nUser=root"],
        &["--system", "--user-name", "-r"],
    ] {
        place
            .run(&[&["service", "install", "--print"], words].concat())
            .exits(2);
    }
    let status = place.run(&["service", "status", "--json"]).exits(1).json();
    assert_eq!(status["installed"], false, "{status}");
    assert!(!place.path().join(".config").exists());
}

/// A `systemctl` that notes how it was called, and a machine that booted with
/// systemd, for one command in mounts of its own.
fn with_systemd(place: &Place, words: &[&str]) -> Command {
    let bin = place.path().join("bin");
    let calls = place.path().join("calls");
    if !bin.exists() {
        fs::create_dir(&bin).unwrap();
        let script = format!(
            "#!/bin/sh\necho \"$@\" >>'{}'\ncase \"$*\" in *show*) printf 'ActiveState=active\\nUnitFileState=enabled\\nMainPID=7\\n';; esac\n",
            calls.display()
        );
        let program = bin.join("systemctl");
        fs::write(&program, script).unwrap();
        fs::set_permissions(
            &program,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
    }
    let plain = alknet(place.path());
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/system && exec \"$@\"";
    command
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(plain.get_program());
    command.args(words).env_clear();
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env(
        "PATH",
        format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()),
    );
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
fn a_users_service_is_installed_once_looked_at_and_taken_away() {
    let place = Place::new();
    let mounts = Command::new("unshare")
        .args(["-m", "mount", "-t", "tmpfs", "none", "/run"])
        .output();
    if !mounts.is_ok_and(|said| said.status.success()) {
        let test = "a_users_service_is_installed_once_looked_at_and_taken_away";
        return alknet_lab::skip(test, "no mounts can be made");
    }
    let run = |words: &[&str]| finish(with_systemd(&place, words), b"");
    let code = |said: Said| error_code(&said.exits(1).stderr);
    let unit = place.path().join(".config/systemd/user/alknet.service");
    assert_eq!(
        code(run(&["service", "uninstall", "--json"])),
        "NOT_INSTALLED"
    );
    run(&["service", "install"]).exits(0);
    assert_eq!(fs::read_to_string(&unit).unwrap(), printed(&place, &[]));
    assert_eq!(code(run(&["service", "install", "--json"])), "EXISTS");
    run(&["service", "install", "--force"]).exits(0);
    let status = run(&["service", "status", "--json"]).exits(0).json();
    assert_eq!(
        (
            &status["installed"],
            &status["active"],
            &status["enabled"],
            &status["pid"]
        ),
        (&true.into(), &"active".into(), &"enabled".into(), &7.into())
    );
    run(&["service", "uninstall"]).exits(0);
    assert!(!unit.exists());
    let calls = fs::read_to_string(place.path().join("calls")).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    let installing = ["--user daemon-reload", "--user enable --now alknet.service"];
    assert_eq!(calls[..2], installing);
    assert_eq!(
        calls[calls.len() - 2],
        "--user disable --now alknet.service"
    );

    // What somebody else made stays.
    fs::write(&unit, "[Service]\nExecStart=/bin/true\n").unwrap();
    assert_eq!(code(run(&["service", "uninstall", "--json"])), "FOREIGN");
    assert!(unit.exists());
}
