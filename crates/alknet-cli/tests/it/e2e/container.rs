//! The layout of the container, run as its file says: as an ordinary user on a
//! file system that cannot be written to, with one volume.

use super::harness::eventually;
use crate::program::{PATIENCE, Place, signal, wait};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

const NAME: &str = "the_container_runs_as_an_ordinary_user_on_a_read_only_file_system";

/// What the last stage of the file says.
struct Recipe(String);

impl Recipe {
    fn read() -> Self {
        let path = super::document::repository().join("docs/deploy/Containerfile");
        let text = fs::read_to_string(path).unwrap().replace("\\\n", " ");
        let last = text.rsplit("\nFROM ").next().unwrap();
        Self(last.to_owned())
    }

    /// What stands behind an instruction.
    fn line(&self, name: &str) -> &str {
        let mut lines = self.0.lines();
        let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {name}"))
    }

    /// The words of an instruction in its JSON form.
    fn words(&self, name: &str) -> Vec<String> {
        let line = self.line(name);
        let list = &line[line.find('[').unwrap()..];
        serde_json::from_str(list).unwrap()
    }
}

/// The program with the libraries that it is linked to.
fn lay_out(root: &Path) {
    let program = env!("CARGO_BIN_EXE_alknet");
    let copy = |from: &Path, to: PathBuf| {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    copy(Path::new(program), root.join("usr/local/bin/alknet"));
    let linked = Command::new("ldd").arg(program).output().unwrap();
    for word in String::from_utf8(linked.stdout).unwrap().split_whitespace() {
        if let Some(inside) = word.strip_prefix('/') {
            copy(Path::new(word), root.join(inside));
        }
    }
    for dir in ["data", "dev", "proc", "tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
}

/// A process in the container, killed when dropped.
struct Container(Child);

impl Drop for Container {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_container_runs_as_an_ordinary_user_on_a_read_only_file_system() {
    let probe = Command::new("unshare")
        .args(["-m", "-n", "mount", "-t", "tmpfs", "none", "/mnt"])
        .output();
    if !probe.is_ok_and(|said| said.status.success()) {
        return alknet_lab::skip(NAME, "no namespaces can be made");
    }
    let recipe = Recipe::read();
    let (user, group) = recipe.line("USER").split_once(':').unwrap();
    let id: u32 = user.parse().unwrap();
    assert!(id > 0 && group == user);
    let (name, volume) = recipe.line("ENV").split_once('=').unwrap();
    assert_eq!((name, volume), ("ALKNET_DATA_DIR", recipe.line("VOLUME")));

    let place = Place::new();
    let (root, data) = (place.path().join("root"), place.path().join("volume"));
    lay_out(&root);
    fs::create_dir(&data).unwrap();
    chown(&data, Some(id), Some(id)).unwrap();
    // The namespaces end with it, and the mounts with them.
    let script = format!(
        "set -e; cd '{0}'; ip link set lo up; mount --bind root root; mount --rbind /dev root/dev; \
         mount -t proc none root/proc; mount --bind volume root{volume}; \
         mount -o remount,bind,ro root; exec chroot --userspec={user}:{group} root \"$@\"",
        place.path().display()
    );
    let entry = recipe.words("ENTRYPOINT");
    let mut command = Command::new("unshare");
    command.args(["-m", "-n", "sh", "-c", &script, "sh"]);
    command.args(&entry).args(recipe.words("CMD"));
    let log = fs::File::create(place.path().join("log")).unwrap();
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env(name, volume)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let mut container = Container(command.spawn().unwrap());
    let pid = container.0.id().to_string();

    let inside = |words: &[String]| {
        let mut plain = Command::new("nsenter");
        plain.args(["-t", &pid, "-m", "-n", "chroot"]);
        plain.arg(format!("--userspec={user}:{group}")).arg(&root);
        plain.args(words).env_clear();
        plain
            .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env(name, volume);
        plain.output().unwrap()
    };
    let started = Instant::now();
    let health = recipe.words("HEALTHCHECK");
    assert_eq!(health[..2], [entry[0].as_str(), "status"]);
    while !inside(&health).status.success() {
        let told = fs::read_to_string(place.path().join("log")).unwrap();
        let ended = container.0.try_wait().unwrap();
        assert!(
            ended.is_none() && started.elapsed() < PATIENCE,
            "{ended:?}: {told}"
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let words = ["alknet", "status", "--json"].map(String::from);
    let said = inside(&words);
    let status: Value = serde_json::from_slice(&said.stdout).unwrap();
    let port = recipe.line("EXPOSE").strip_suffix("/udp").unwrap();
    let listens = status["addresses"].to_string();
    assert!(listens.contains(&format!(":{port}")), "{status}");

    // An ordinary user, and nothing that it could write to but the volume.
    let proc = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid = proc
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .unwrap();
    assert!(uid.split_whitespace().all(|uid| uid == user), "{uid}");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
    let of_root = mounts
        .lines()
        .find(|line| line.split(' ').nth(1) == Some("/"))
        .unwrap();
    assert!(
        of_root.split(' ').nth(3).unwrap().starts_with("ro"),
        "{of_root}"
    );
    assert!(data.join("vault.json").exists());

    signal(&container.0, Signal::TERM);
    assert!(wait(&mut container.0).success());
    eventually("the data is as a node leaves it", || {
        (!data.join("runtime.json").exists()).then_some(())
    });
}
