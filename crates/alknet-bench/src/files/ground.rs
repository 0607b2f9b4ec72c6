//! Two nodes of the command line, Debian's OpenSSH server, and files for both.

use crate::machine;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Time for a node, or the SSH server, to be ready.
const READY_MAX: Duration = Duration::from_secs(30);
/// Files of one directory among many small ones.
const FILES_OF_A_DIRECTORY: usize = 100;
/// What the other node may do.
const GRANTS: [&str; 4] = [
    "fs:list",
    "fs:read",
    "fs:write",
    "bucket:www/**=list,read,write",
];
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";

/// Everything that is measured with; gone when dropped.
pub(super) struct Ground {
    pub(super) home: Node,
    pub(super) laptop: Node,
    /// `None` where OpenSSH's server is not installed.
    pub(super) ssh: Option<Ssh>,
    pub(super) has_rsync: bool,
    // Last: what runs in it ends first.
    folder: TempDir,
}

impl Ground {
    pub(super) fn make(beside: &Path) -> Result<Self> {
        let folder = tempfile::tempdir_in(beside).context("failed to make a folder")?;
        let at = folder.path();
        for name in ["www", "local"] {
            fs::create_dir(at.join(name))?;
        }
        let www = serde_json::to_string(&at.join("www"))?;
        let bucket = format!("[[bucket]]\nname = \"www\"\npath = {www}\n");
        let home = Node::start("home", &at.join("home"), &bucket)?;
        let laptop = Node::start("laptop", &at.join("laptop"), "")?;
        let ground = Self {
            ssh: Ssh::start(&at.join("ssh"))?,
            has_rsync: machine::has_program("rsync"),
            home,
            laptop,
            folder,
        };
        let ticket = ground.ticket()?;
        ground.laptop.say(&["join", "-"], &ticket)?;
        ground.grant("laptop")?;
        ground.laptop.until_ready(&["ls", "home:www"])?;
        Ok(ground)
    }

    /// Lets somebody else join.
    pub(super) fn ticket(&self) -> Result<String> {
        self.home.say(&["invite", "-q"], "")
    }

    pub(super) fn grant(&self, peer: &str) -> Result<()> {
        let words = [&["grant", peer][..], &GRANTS].concat();
        self.home.say(&words, "").map(drop)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// On this side.
    pub(super) fn local(&self, name: &str) -> PathBuf {
        self.folder().join("local").join(name)
    }

    /// On the other side, which is the same file system.
    pub(super) fn www(&self, name: &str) -> PathBuf {
        self.folder().join("www").join(name)
    }
}

/// A node in a process of its own.
pub(super) struct Node {
    data: PathBuf,
    child: Child,
}

impl Node {
    fn start(name: &str, data: &Path, config: &str) -> Result<Self> {
        fs::create_dir(data)?;
        let is_root = rustix::process::geteuid().is_root();
        let exec = if is_root {
            "[exec]\nuser = \"root\"\n"
        } else {
            ""
        };
        let config = format!("name = \"{name}\"\n{exec}{config}");
        fs::write(data.join("alknet.toml"), config)?;
        let mut command = command(data)?;
        command.args(["up", "--json", "--relay", "none", "--bind", "127.0.0.1:0"]);
        let told = fs::File::create(data.join("told"))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(told);
        let mut child = command.spawn().context("failed to start a node")?;
        let stdout = child.stdout.take().context("its output is piped")?;
        let node = Self {
            data: data.to_owned(),
            child,
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if serde_json::from_str::<Value>(&line).is_err() {
            let told = fs::read_to_string(data.join("told"))?;
            bail!("node `{name}` does not start: {told}");
        }
        Ok(node)
    }

    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// `alknet` with this node.
    pub(super) fn command(&self) -> Result<Command> {
        command(&self.data)
    }

    /// What a command prints.
    fn say(&self, words: &[&str], input: &str) -> Result<String> {
        let mut command = self.command()?;
        command.args(words).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().context("its input is piped")?;
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`alknet {}`: {told}",
            words.join(" ")
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    fn until_ready(&self, words: &[&str]) -> Result<()> {
        let started = Instant::now();
        loop {
            match self.say(words, "") {
                Ok(_) => return Ok(()),
                Err(error) if started.elapsed() > READY_MAX => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// `alknet`, built beside this program.
fn command(data: &Path) -> Result<Command> {
    let own = std::env::current_exe().context("this program is not found")?;
    let beside = own.with_file_name("alknet");
    // A test's program lies one folder further down.
    let above = own.parent().and_then(Path::parent);
    let above = above.map(|above| above.join("alknet"));
    let found = [Some(beside), above].into_iter().flatten();
    let program = found.into_iter().find(|path| path.is_file());
    let mut command = Command::new(program.context("`alknet` is not built")?);
    command
        .env_clear()
        .env("HOME", data)
        .env("ALKNET_DATA_DIR", data);
    Ok(command)
}

/// An SSH server on loopback, with keys of its own.
pub(super) struct Ssh {
    folder: PathBuf,
    port: u16,
    child: Child,
    /// A client that keeps its connection for others.
    keeper: Option<Child>,
}

impl Ssh {
    fn start(folder: &Path) -> Result<Option<Self>> {
        let server = ["/usr/sbin/sshd", "/usr/bin/sshd"].map(PathBuf::from);
        let Some(server) = server.into_iter().find(|path| path.is_file()) else {
            return Ok(None);
        };
        fs::create_dir(folder)?;
        for key in ["host", "key"] {
            let key = folder.join(key);
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(key)
                .status()?;
            ensure!(made.success(), "`ssh-keygen` fails");
        }
        if rustix::process::geteuid().is_root() {
            // Debian makes it when the service starts.
            fs::create_dir_all("/run/sshd")?;
        }
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let at = folder.display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host\n\
             AuthorizedKeysFile {at}/key.pub\nPidFile none\nUsePAM no\nStrictModes no\n\
             PermitRootLogin prohibit-password\nSubsystem sftp {SFTP_SERVER}\n"
        );
        fs::write(folder.join("config"), config)?;
        let child = Command::new(server)
            .args(["-D", "-e", "-f"])
            .arg(folder.join("config"))
            .stdin(Stdio::null())
            .stderr(fs::File::create(folder.join("told"))?)
            .spawn()?;
        let mut ssh = Self {
            folder: folder.to_owned(),
            port,
            child,
            keeper: None,
        };
        let started = Instant::now();
        loop {
            let mut command = ssh.command("ssh");
            let output = command.args(["127.0.0.1", "true"]).output()?;
            if output.status.success() {
                ssh.keep()?;
                return Ok(Some(ssh));
            }
            if started.elapsed() > READY_MAX {
                let told = fs::read_to_string(folder.join("told"))?;
                let said = String::from_utf8_lossy(&output.stderr);
                bail!("no session with sshd: {said}\n{told}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// `ssh`, `scp` or `sftp` with this server.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(self.options());
        command
    }

    fn keep(&mut self) -> Result<()> {
        let mut command = self.kept_command();
        command.args(["-o", "ControlMaster=yes", "-N", "127.0.0.1"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.keeper = Some(command.spawn()?);
        let started = Instant::now();
        while !self.folder.join("kept").exists() {
            ensure!(started.elapsed() < READY_MAX, "`ssh` keeps no connection");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// `ssh` over the connection that is kept.
    pub(super) fn kept_command(&self) -> Command {
        let mut command = self.command("ssh");
        let path = self.folder.join("kept");
        command
            .arg("-o")
            .arg(format!("ControlPath={}", path.display()));
        command
    }

    /// What `rsync` reaches it with.
    pub(super) fn shell(&self) -> String {
        format!("ssh {}", self.options().join(" "))
    }

    fn options(&self) -> Vec<String> {
        let at = self.folder.display();
        let settings = [
            format!("Port={}", self.port),
            format!("IdentityFile={at}/key"),
            "IdentitiesOnly=yes".into(),
            "StrictHostKeyChecking=no".into(),
            "UserKnownHostsFile=/dev/null".into(),
            "LogLevel=ERROR".into(),
            "BatchMode=yes".into(),
        ];
        let settings = settings
            .into_iter()
            .flat_map(|setting| ["-o".into(), setting]);
        ["-F".into(), "/dev/null".into()]
            .into_iter()
            .chain(settings)
            .collect()
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            end(keeper);
        }
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    let process = rustix::process::Pid::from_child(child);
    let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
    for _ in 0..100 {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Writes a file that no compression makes smaller.
pub(super) fn write_bulk(path: &Path, bytes: u64) -> Result<()> {
    let mut file = std::io::BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
    let mut block = vec![0; 1 << 20];
    let mut left = bytes;
    let mut dice = Dice(1);
    while left > 0 {
        dice.fill(&mut block);
        let len = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
        file.write_all(&block[..len])?;
        left -= len as u64;
    }
    file.into_inner()?.sync_all()?;
    Ok(())
}

/// Writes small files of 1 to 4 KiB, a hundred to a directory.
pub(super) fn write_small(path: &Path, count: usize) -> Result<()> {
    let mut dice = Dice(2);
    let mut content = vec![0; 4_096];
    for n in 0..count {
        let directory = path.join(format!("d{:05}", n / FILES_OF_A_DIRECTORY));
        if n % FILES_OF_A_DIRECTORY == 0 {
            fs::create_dir_all(&directory)?;
        }
        dice.fill(&mut content);
        let len = 1_024 + usize::try_from(dice.next() % 3_073)?;
        fs::write(directory.join(format!("file-{n:06}.bin")), &content[..len])?;
    }
    Ok(())
}

/// Makes empty files in one directory.
pub(super) fn write_many(path: &Path, count: usize) -> Result<()> {
    fs::create_dir(path)?;
    for n in 0..count {
        fs::File::create(path.join(format!("entry-{n:07}.txt")))?;
    }
    Ok(())
}

/// Numbers that look like chance, and are the same each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, block: &mut [u8]) {
        for part in block.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            part.copy_from_slice(&bytes[..part.len()]);
        }
    }
}
