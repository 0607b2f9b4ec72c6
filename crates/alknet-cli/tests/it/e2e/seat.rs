//! Where a person sits: a terminal, and one inside tmux.

use super::harness::{Node, eventually};
use crate::program::{PATIENCE, wait};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};
use std::{
    fs::File,
    io::{Read, Write},
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

/// A program whose three streams are one terminal, killed when dropped.
pub(crate) struct Seat {
    pub(crate) child: Child,
    keyboard: File,
    terminal: File,
    screen: mpsc::Receiver<Vec<u8>>,
    pub(crate) seen: Vec<u8>,
}

impl Seat {
    pub(crate) fn start(mut command: Command) -> Self {
        // Programs of other tests must not inherit it.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize {
            ws_row: 30,
            ws_col: 90,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let open = || {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            File::from(rustix::fs::open(path, flags, Mode::empty()).unwrap())
        };
        let child = command
            .stdin(open())
            .stdout(open())
            .stderr(open())
            .process_group(0)
            .spawn()
            .unwrap();
        drop(command);
        // Kept open: it is looked at when the program has ended.
        let terminal = open();
        let keyboard = File::from(master);
        let mut reader = keyboard.try_clone().unwrap();
        let (tx, screen) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = reader.read(&mut buffer) {
                if tx.send(buffer[..len].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            keyboard,
            terminal,
            screen,
            seen: Vec::new(),
        }
    }

    /// `alknet` with these words, as a person with a language calls it.
    pub(crate) fn of(node: &Node, words: &[&str]) -> Self {
        let mut command = node.command(words);
        command
            .env("TERM", "xterm")
            .env("LC_ALL", "C.UTF-8")
            .env("NO_COLOR", "1");
        Self::start(command)
    }

    /// Reads on until the screen has shown this; all up to there is forgotten.
    #[track_caller]
    pub(crate) fn until(&mut self, text: &str) -> String {
        loop {
            let found = self
                .seen
                .windows(text.len())
                .position(|part| part == text.as_bytes());
            if let Some(at) = found {
                let rest = self.seen.split_off(at + text.len());
                let shown = std::mem::replace(&mut self.seen, rest);
                return String::from_utf8_lossy(&shown).into_owned();
            }
            match self.screen.recv_timeout(PATIENCE) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(_) => panic!(
                    "{text:?} was not shown, but:\n{}",
                    String::from_utf8_lossy(&self.seen)
                ),
            }
        }
    }

    pub(crate) fn keys(&mut self, keys: impl AsRef<[u8]>) {
        self.keyboard.write_all(keys.as_ref()).unwrap();
    }

    pub(crate) fn modes(&self) -> Termios {
        tcgetattr(&self.terminal).unwrap()
    }

    /// Waits for the end of the program: its exit code, and what it had shown
    /// by then.
    #[track_caller]
    pub(crate) fn ended(mut self) -> (Option<i32>, String) {
        let status = wait(&mut self.child);
        // What it wrote last is followed by what we write: an end to read to.
        const END: &str = "\u{1}end\u{1}";
        (&self.terminal).write_all(END.as_bytes()).unwrap();
        let shown = self.until(END);
        (status.code(), shown.trim_end_matches(END).to_owned())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A terminal that understands what is drawn, with one window.
pub(crate) struct Tmux {
    dir: tempfile::TempDir,
}

impl Tmux {
    /// Runs `alknet` with these words; says how it ended, and stays.
    pub(crate) fn of(node: &Node, words: &[&str]) -> Self {
        let tmux = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let command = node.command(words);
        let script = "\"$@\"; echo \"status: $?\"; exec cat";
        let mut start = tmux.command();
        // `env -i`: nothing of whoever runs the tests.
        start.args(["new-session", "-d", "-x", "80", "-y", "24", "env", "-i"]);
        for (name, value) in command.get_envs() {
            let value = value.unwrap_or_default().to_str().unwrap();
            start.arg(format!("{}={value}", name.to_str().unwrap()));
        }
        start
            .args(["PATH=/usr/bin:/bin", "TERM=screen-256color", "LANG=C.UTF-8"])
            .args(["sh", "-c", script, "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        tmux.run(start);
        tmux
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        let configuration = self.dir.path().join("conf");
        std::fs::write(
            &configuration,
            "set -g status off\n\
             set -g default-terminal screen-256color\nset -s escape-time 0\n",
        )
        .unwrap();
        command
            .arg("-S")
            .arg(self.dir.path().join("socket"))
            .arg("-f")
            .arg(configuration)
            .env_remove("TMUX")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn run(&self, mut command: Command) -> String {
        let said = command.output().unwrap();
        assert!(said.status.success(), "{said:?}");
        String::from_utf8(said.stdout).unwrap()
    }

    /// What the screen shows.
    #[track_caller]
    pub(crate) fn screen(&self) -> String {
        let mut command = self.command();
        command.args(["capture-pane", "-p"]);
        self.run(command)
    }

    /// Presses keys by name: `Enter`, `Escape`, `C-c`.
    #[track_caller]
    pub(crate) fn press(&self, keys: &[&str]) {
        let mut command = self.command();
        command.arg("send-keys").args(keys);
        self.run(command);
    }

    /// Types a text.
    #[track_caller]
    pub(crate) fn type_in(&self, text: &str) {
        self.press(&["-l", text]);
    }

    /// Types a line, and waits until it shows.
    #[track_caller]
    pub(crate) fn enter(&self, line: &str) {
        self.type_in(line);
        self.press(&["Enter"]);
    }

    #[track_caller]
    pub(crate) fn resize(&self, cols: u16, rows: u16) {
        let mut command = self.command();
        let (cols, rows) = (cols.to_string(), rows.to_string());
        command.args(["resize-window", "-x", &cols, "-y", &rows]);
        self.run(command);
    }

    /// Waits until a line of the screen is this, but for spaces at its end.
    #[track_caller]
    pub(crate) fn until_line(&self, line: &str) {
        self.until(&format!("a line {line:?}"), |screen| {
            screen.lines().any(|shown| shown.trim_end() == line)
        });
    }

    /// Waits until the last line with something is this.
    #[track_caller]
    pub(crate) fn until_last(&self, line: &str) {
        self.until(&format!("{line:?} at the end"), |screen| {
            screen.trim_end().lines().last() == Some(line.trim_end())
        });
    }

    #[track_caller]
    pub(crate) fn until(&self, what: &str, holds: impl Fn(&str) -> bool) {
        let mut screen = String::new();
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(what, || {
                screen = self.screen();
                holds(&screen).then_some(())
            });
        }));
        assert!(looked.is_ok(), "{what}, but:\n{screen}");
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let mut command = self.command();
        // It may have ended.
        let _ = command.arg("kill-server").output();
    }
}
