//! What is done, and by whom.

use super::{
    cost::{self, Cost},
    ground::Ground,
    library::Library,
};
use anyhow::{Context, Result, bail};
use std::{fs, path::PathBuf, process::Command};

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Contender {
    /// `alknet get` and its like, through the node of this side.
    CommandLine,
    /// A program with a node of its own in it.
    Library,
    /// `scp`, or `ssh` where that is simpler.
    Ssh,
    /// `ssh` over a connection that is kept.
    KeptSsh,
    /// `sftp`.
    Sftp,
    /// `rsync -a` over `ssh`.
    Rsync,
    /// `cp`, `cat`, `ls`: no network, nobody to ask.
    Local,
}

impl Contender {
    pub(super) const ALL: [Self; 7] = [
        Self::CommandLine,
        Self::Library,
        Self::Ssh,
        Self::KeptSsh,
        Self::Sftp,
        Self::Rsync,
        Self::Local,
    ];
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Line {
    /// One large file from there to here, to there, and only its bytes.
    BulkGet,
    BulkPut,
    BulkCat,
    /// Names of one large directory, and all that is known of them.
    List,
    ListLong,
    /// So many small files.
    SmallPut(usize),
    SmallGet(usize),
    /// The same again, with nothing to do.
    SmallPutAgain(usize),
    SmallGetAgain(usize),
    /// One small thing, by a program that is started for it.
    OneStat,
    OneCat,
}

impl Line {
    /// Whether it makes files: then it counts when they are on the disk.
    pub(super) fn writes(self) -> bool {
        matches!(
            self,
            Self::BulkGet | Self::BulkPut | Self::SmallPut(_) | Self::SmallGet(_)
        )
    }

    /// Whether it takes the place of what was written before.
    fn begins_anew(self) -> bool {
        self.writes()
    }

    fn is_to_there(self) -> bool {
        matches!(
            self,
            Self::BulkPut | Self::SmallPut(_) | Self::SmallPutAgain(_)
        )
    }
}

/// Where a contender writes to: each to a place of its own.
struct Places {
    /// Below `www`, and below `local`.
    name: String,
    there: PathBuf,
    here: PathBuf,
}

impl Places {
    fn of(ground: &Ground, line: Line, contender: Contender) -> Self {
        let what = match line {
            Line::SmallPut(count) | Line::SmallPutAgain(count) => format!("put-{count}"),
            Line::SmallGet(count) | Line::SmallGetAgain(count) => format!("get-{count}"),
            _ => "one".into(),
        };
        let name = format!("out-{contender:?}-{what}").to_lowercase();
        Self {
            there: ground.www(&name),
            here: ground.local(&name),
            name,
        }
    }
}

/// Does it once; `None` if that contender does nothing of the kind.
pub(super) fn turn(
    ground: &Ground,
    library: &Library,
    line: Line,
    contender: Contender,
) -> Result<Option<Cost>> {
    let places = Places::of(ground, line, contender);
    if line.begins_anew() {
        for place in [&places.there, &places.here] {
            let _ = fs::remove_dir_all(place);
            let _ = fs::remove_file(place);
        }
        // What was removed, and written before, is not paid for in this turn.
        let synced = Command::new("sync").arg("-f").arg(ground.folder()).status();
        synced.context("failed to start `sync`")?;
    }
    let written = line.writes().then(|| ground.folder());
    let cost = match contender {
        Contender::Library => {
            let servers = [ground.home.process()];
            match library.does(line) {
                true => cost::measure(&servers, written, || library.run(line, &places.name))?,
                false => return Ok(None),
            }
        }
        _ => {
            let Some((mut command, servers)) = command(ground, &places, line, contender)? else {
                return Ok(None);
            };
            cost::run(&mut command, &servers, written)?
        }
    };
    check(ground, &places, line)?;
    Ok(Some(cost))
}

/// What was to be written is there.
fn check(ground: &Ground, places: &Places, line: Line) -> Result<()> {
    let there = match line.is_to_there() {
        true => &places.there,
        false => &places.here,
    };
    let found = match line {
        Line::BulkGet | Line::BulkPut => {
            let bytes = fs::metadata(ground.www("big"))?.len();
            fs::metadata(there)?.len() == bytes
        }
        Line::SmallPut(count) | Line::SmallGet(count) => {
            let mut files = 0;
            for directory in fs::read_dir(there)? {
                files += fs::read_dir(directory?.path())?.count();
            }
            files == count
        }
        _ => true,
    };
    match found {
        true => Ok(()),
        false => bail!("{line:?}: `{}` is not what was copied", there.display()),
    }
}

/// The command, and the servers that work for it.
fn command(
    ground: &Ground,
    places: &Places,
    line: Line,
    contender: Contender,
) -> Result<Option<(Command, Vec<u32>)>> {
    let made = match contender {
        Contender::CommandLine => {
            let servers = vec![ground.home.process(), ground.laptop.process()];
            Some((alknet(ground, places, line)?, servers))
        }
        Contender::Local => local(ground, places, line).map(|command| (command, Vec::new())),
        Contender::Library => None,
        Contender::Ssh | Contender::KeptSsh | Contender::Sftp | Contender::Rsync => {
            let Some(ssh) = &ground.ssh else {
                return Ok(None);
            };
            let command = match contender {
                Contender::Ssh => by_ssh(ground, places, line),
                Contender::KeptSsh => by_kept_ssh(ground, line),
                Contender::Sftp => by_sftp(ground, line)?,
                _ => by_rsync(ground, places, line),
            };
            command.map(|command| (command, vec![ssh.process()]))
        }
    };
    Ok(made)
}

fn alknet(ground: &Ground, places: &Places, line: Line) -> Result<Command> {
    let mut command = ground.laptop.command()?;
    let out = format!("home:www/{}", places.name);
    match line {
        Line::BulkGet => command
            .args(["get", "-q", "-T", "home:www/big"])
            .arg(&places.here),
        Line::BulkPut => command
            .args(["put", "-q", "-T"])
            .arg(ground.local("big"))
            .arg(out),
        Line::BulkCat => command.args(["cat", "home:www/big"]),
        Line::List => command.args(["ls", "-U", "home:www/many"]),
        Line::ListLong => command.args(["ls", "-lU", "home:www/many"]),
        Line::SmallPut(count) | Line::SmallPutAgain(count) => command
            .args(["put", "-q", "-r", "-T"])
            .arg(ground.local(&small(count)))
            .arg(out),
        Line::SmallGet(count) | Line::SmallGetAgain(count) => command
            .args(["get", "-q", "-r", "-T"])
            .arg(format!("home:www/{}", small(count)))
            .arg(&places.here),
        Line::OneStat => command.args(["stat", "home:www/page"]),
        Line::OneCat => command.args(["cat", "home:www/page"]),
    };
    Ok(command)
}

fn local(ground: &Ground, places: &Places, line: Line) -> Option<Command> {
    let new = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        command.args(words);
        command
    };
    // Copies are copies: no file system shares their blocks.
    let copy = ["--reflink=never", "-a", "-T"];
    let mut command = match line {
        Line::BulkCat | Line::OneCat => new("cat", &[]),
        Line::OneStat => new("stat", &[]),
        Line::List => new("ls", &["-f"]),
        Line::ListLong => new("ls", &["-lU"]),
        // The only one of these that leaves alone what is there already.
        Line::SmallPutAgain(_) | Line::SmallGetAgain(_) if !ground.has_rsync => return None,
        Line::SmallPutAgain(_) | Line::SmallGetAgain(_) => new("rsync", &["-a"]),
        _ => new("cp", &copy),
    };
    match line {
        Line::BulkGet => command.arg(ground.www("big")).arg(&places.here),
        Line::BulkPut => command.arg(ground.local("big")).arg(&places.there),
        Line::BulkCat => command.arg(ground.www("big")),
        Line::List | Line::ListLong => command.arg(ground.www("many")),
        Line::SmallPut(count) => command.arg(ground.local(&small(count))).arg(&places.there),
        Line::SmallGet(count) => command.arg(ground.www(&small(count))).arg(&places.here),
        Line::SmallPutAgain(count) => command
            .arg(ground.local(&small(count)).join(""))
            .arg(&places.there),
        Line::SmallGetAgain(count) => command
            .arg(ground.www(&small(count)).join(""))
            .arg(&places.here),
        Line::OneStat | Line::OneCat => command.arg(ground.www("page")),
    };
    Some(command)
}

fn by_ssh(ground: &Ground, places: &Places, line: Line) -> Option<Command> {
    let ssh = ground.ssh.as_ref()?;
    let there = |path: PathBuf| format!("127.0.0.1:{}", path.display());
    let run = |words: &[&str], path: PathBuf| {
        let mut command = ssh.command("ssh");
        command.arg("127.0.0.1").args(words).arg(path);
        command
    };
    let copy = |words: &[&str]| {
        let mut command = ssh.command("scp");
        command.arg("-q").args(words);
        command
    };
    let command = match line {
        Line::BulkGet => {
            let mut command = copy(&["-p"]);
            command.arg(there(ground.www("big"))).arg(&places.here);
            command
        }
        Line::BulkPut => {
            let mut command = copy(&["-p"]);
            command
                .arg(ground.local("big"))
                .arg(there(places.there.clone()));
            command
        }
        Line::BulkCat => run(&["cat"], ground.www("big")),
        Line::List => run(&["ls", "-f"], ground.www("many")),
        Line::ListLong => run(&["ls", "-lU"], ground.www("many")),
        Line::SmallPut(count) => {
            let mut command = copy(&["-r", "-p"]);
            command
                .arg(ground.local(&small(count)))
                .arg(there(places.there.clone()));
            command
        }
        Line::SmallGet(count) => {
            let mut command = copy(&["-r", "-p"]);
            command
                .arg(there(ground.www(&small(count))))
                .arg(&places.here);
            command
        }
        // It copies all of it again.
        Line::SmallPutAgain(_) | Line::SmallGetAgain(_) => return None,
        Line::OneStat => run(&["stat"], ground.www("page")),
        Line::OneCat => run(&["cat"], ground.www("page")),
    };
    Some(command)
}

fn by_kept_ssh(ground: &Ground, line: Line) -> Option<Command> {
    let word = match line {
        Line::OneStat => "stat",
        Line::OneCat => "cat",
        _ => return None,
    };
    let mut command = ground.ssh.as_ref()?.kept_command();
    command.arg("127.0.0.1").arg(word).arg(ground.www("page"));
    Some(command)
}

fn by_sftp(ground: &Ground, line: Line) -> Result<Option<Command>> {
    let Some(ssh) = ground.ssh.as_ref() else {
        return Ok(None);
    };
    let words = match line {
        Line::List => "ls -1f",
        Line::ListLong => "ls -lf",
        _ => return Ok(None),
    };
    let batch = ground.folder().join("batch");
    fs::write(
        &batch,
        format!("{words} {}\n", ground.www("many").display()),
    )?;
    let mut command = ssh.command("sftp");
    command.arg("-q").arg("-b").arg(batch).arg("127.0.0.1");
    Ok(Some(command))
}

fn by_rsync(ground: &Ground, places: &Places, line: Line) -> Option<Command> {
    let ssh = ground.ssh.as_ref().filter(|_| ground.has_rsync)?;
    let there = |path: PathBuf| format!("127.0.0.1:{}", path.display());
    let mut command = Command::new("rsync");
    command.arg("-a").arg("-e").arg(ssh.shell());
    match line {
        // As a whole: its comparison of blocks is for other ends.
        Line::BulkGet => command
            .arg("-W")
            .arg(there(ground.www("big")))
            .arg(&places.here),
        Line::BulkPut => command
            .arg("-W")
            .arg(ground.local("big"))
            .arg(there(places.there.clone())),
        Line::SmallPut(count) | Line::SmallPutAgain(count) => command
            .arg(ground.local(&small(count)).join(""))
            .arg(there(places.there.clone())),
        Line::SmallGet(count) | Line::SmallGetAgain(count) => command
            .arg(there(ground.www(&small(count)).join("")))
            .arg(&places.here),
        _ => return None,
    };
    Some(command)
}

pub(super) fn small(count: usize) -> String {
    format!("small-{count}")
}
