//! What is said and asked only where a person sits: on a terminal.

use crate::program::{PATIENCE, Place, Up, alknet, signal, wait};
use rustix::{
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use std::{
    fs::File,
    io::{Read, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
    process::{Child, Command},
    sync::mpsc,
    thread,
};

/// A program whose three streams are one terminal.
pub(crate) struct OnTerminal {
    child: Child,
    keyboard: File,
    screen: mpsc::Receiver<Vec<u8>>,
    pub(crate) seen: String,
}

impl OnTerminal {
    fn start(command: Command) -> Self {
        Self::of_width(command, 0)
    }

    /// With so many columns; 0 if the terminal does not tell.
    pub(crate) fn of_width(mut command: Command, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let size = Winsize {
            ws_row: 24,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let open = || File::options().read(true).write(true).open(path).unwrap();
        let child = command
            .stdin(open())
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap();
        // Its copies of the terminal are closed with it: reading ends then.
        drop(command);
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
            screen,
            seen: String::new(),
        }
    }

    /// Reads on until the screen has shown this.
    #[track_caller]
    fn until(&mut self, text: &str) {
        while !self.seen.contains(text) {
            match self.screen.recv_timeout(PATIENCE) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("{text:?} was not shown, but:\n{}", self.seen),
            }
        }
    }

    fn answer(&mut self, line: &str) {
        self.keyboard.write_all(line.as_bytes()).unwrap();
        self.keyboard.write_all(b"\n").unwrap();
    }

    pub(crate) fn ended(&mut self) -> Option<i32> {
        let status = wait(&mut self.child);
        while let Ok(bytes) = self
            .screen
            .recv_timeout(std::time::Duration::from_millis(200))
        {
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        status.code()
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn up(place: &Place) -> OnTerminal {
    let mut command = alknet(place.path());
    command.args(["up", "--bind", "127.0.0.1:0"]);
    OnTerminal::start(command)
}

#[test]
fn the_first_start_shows_the_words_and_asks_about_relays_once() {
    let place = Place::new();
    let mut first = up(&place);
    first.until("Which? [3] ");
    assert!(first.seen.contains("shown once"), "{}", first.seen);
    let words = |line: &str| line.split_whitespace().count() == 24;
    assert!(first.seen.lines().any(words), "{}", first.seen);
    first.answer("4");
    first.until("1, 2 or 3? ");
    first.answer("2");
    first.until("its address: ");
    first.answer("ftp://relay.example.org");
    first.until("use https");
    first.answer("http://127.0.0.1:9");
    first.until("Next, in a second terminal:");
    signal(&first.child, Signal::INT);
    assert_eq!(first.ended(), Some(0), "{}", first.seen);
    let config = std::fs::read_to_string(place.data().join("alknet.toml")).unwrap();
    assert_eq!(config, "[network]\nrelays = [\"http://127.0.0.1:9\"]\n");

    let mut second = up(&place);
    second.until("Next, in a second terminal:");
    assert!(
        !second.seen.contains("Which?") && !second.seen.contains("words"),
        "{}",
        second.seen
    );
}

#[test]
fn ctrl_c_at_a_question_ends_it() {
    let place = Place::new();
    let mut asking = up(&place);
    asking.until("Which? [3] ");
    signal(&asking.child, Signal::INT);
    assert_eq!(asking.ended(), Some(130), "{}", asking.seen);
    assert!(!place.data().join("alknet.toml").exists());
}

#[test]
fn removal_asks_first() {
    let up = Up::start();
    let other = Place::new();
    let id = other.run(&["init", "--json"]).exits(0).json()["node_id"]
        .as_str()
        .unwrap()
        .to_owned();
    up.run(&["peers", "add", "bob", "--node-id", &id]).exits(0);
    let remove = |yes: &[&str]| {
        let mut command = alknet(up.place.path());
        command.args(["peers", "remove", "bob"]).args(yes);
        OnTerminal::start(command)
    };
    let mut no = remove(&[]);
    no.until("remove peer `bob` with its grants? [y/N] ");
    no.answer("");
    assert_eq!(no.ended(), Some(1), "{}", no.seen);
    up.run(&["peers", "show", "bob"]).exits(0);
    let mut yes = remove(&[]);
    yes.until("[y/N] ");
    yes.answer("y");
    assert_eq!(yes.ended(), Some(0), "{}", yes.seen);
    up.run(&["peers", "show", "bob"]).exits(1);
    up.run(&["peers", "add", "bob", "--node-id", &id]).exits(0);
    assert_eq!(remove(&["--yes"]).ended(), Some(0));
}

#[test]
fn removal_of_all_that_is_in_a_directory_asks_first() {
    let up = Up::start();
    let dir = up.place.data().join("inbox/dir");
    std::fs::create_dir_all(dir.join("inner")).unwrap();
    let remove = |words: &[&str]| {
        let mut command = alknet(up.place.path());
        command.args(["rm", "-r", ":inbox/dir"]).args(words);
        OnTerminal::start(command)
    };
    let mut no = remove(&[":inbox/d*"]);
    no.until("remove `:inbox/dir`, `:inbox/d*` with all that is in them? [y/N] ");
    no.answer("n");
    assert_eq!(no.ended(), Some(1), "{}", no.seen);
    assert!(dir.join("inner").exists());
    let mut yes = remove(&[]);
    yes.until("[y/N] ");
    yes.answer("yes");
    assert_eq!(yes.ended(), Some(0), "{}", yes.seen);
    assert!(!dir.exists());
    for unasked in ["--yes", "-f"] {
        std::fs::create_dir_all(dir.join("inner")).unwrap();
        assert_eq!(remove(&[unasked]).ended(), Some(0));
        assert!(!dir.exists());
    }
}

#[test]
fn names_stand_in_columns_on_a_terminal_only() {
    let up = Up::start();
    let inbox = up.place.data().join("inbox");
    for name in ["a", "b", "c\u{1b}[2J"] {
        std::fs::write(inbox.join(name), "").unwrap();
    }
    let list = |words: &[&str]| {
        let mut command = alknet(up.place.path());
        command.args(["ls", ":inbox"]).args(words);
        let mut listing = OnTerminal::of_width(command, 80);
        assert_eq!(listing.ended(), Some(0));
        listing.seen.replace('\r', "")
    };
    assert_eq!(list(&[]), "a  b  c%1B%5B2J\n");
    assert_eq!(list(&["-1"]), "a\nb\nc%1B%5B2J\n");
    let piped = up.run(&["ls", ":inbox"]).exits(0).stdout;
    assert_eq!(piped, "a\nb\nc%1B%5B2J\n");
}

#[test]
fn colour_and_indentation_are_for_terminals() {
    let place = Place::new();
    let status = |no_colour: bool| {
        let mut command = alknet(place.path());
        command.arg("status").env("TERM", "xterm");
        if no_colour {
            command.env("NO_COLOR", "1");
        }
        let mut on = OnTerminal::start(command);
        assert_eq!(on.ended(), Some(3));
        on.seen.clone()
    };
    assert!(status(false).contains("\u{1b}[1;31merror:\u{1b}[0m"));
    assert!(status(true).contains("error: ") && !status(true).contains('\u{1b}'));
    let up = Up::start();
    let mut command = alknet(up.place.path());
    command.args(["call", "node/metrics"]);
    let mut on = OnTerminal::start(command);
    on.until("{\r\n  \"");
    assert_eq!(on.ended(), Some(0));
}

#[test]
fn a_secret_is_typed_unseen_and_ctrl_c_gives_the_terminal_back() {
    let up = Up::start();
    let put = || {
        let mut command = alknet(up.place.path());
        command.args(["credentials", "put", "github", "ada"]);
        let mut asking = OnTerminal::start(command);
        asking.until("(not shown): ");
        asking
    };
    let echoes = |terminal: &OnTerminal| {
        let modes = rustix::termios::tcgetattr(&terminal.keyboard).unwrap();
        let shown = rustix::termios::LocalModes::ECHO;
        modes.local_modes.contains(shown)
    };
    let mut asking = put();
    assert!(!echoes(&asking));
    asking.answer("canary-token");
    asking.until("is stored");
    assert_eq!(asking.ended(), Some(0), "{}", asking.seen);
    assert!(!asking.seen.contains("canary"), "{}", asking.seen);
    assert!(echoes(&asking));

    let mut cut = put();
    signal(&cut.child, Signal::INT);
    assert_eq!(cut.ended(), Some(130), "{}", cut.seen);
    assert!(echoes(&cut));
}

#[test]
fn a_new_passphrase_is_typed_twice_and_the_start_asks_for_it() {
    let place = Place::new();
    let init = || {
        let mut command = alknet(place.path());
        command.args(["init", "--passphrase"]);
        OnTerminal::start(command)
    };
    let mut differing = init();
    differing.until("new passphrase: ");
    differing.answer("one");
    differing.until("once more: ");
    differing.answer("two");
    assert_eq!(differing.ended(), Some(1), "{}", differing.seen);
    assert!(!place.data().join("vault.json").exists());
    let mut made = init();
    made.until("new passphrase: ");
    made.answer("correct horse");
    made.until("once more: ");
    made.answer("correct horse");
    assert_eq!(made.ended(), Some(0), "{}", made.seen);

    let mut command = alknet(place.path());
    command.args(["up", "--bind", "127.0.0.1:0", "--relay", "none"]);
    let mut started = OnTerminal::start(command);
    started.until("passphrase: ");
    started.answer("correct horse");
    started.until("Next, in a second terminal:");
    assert!(!started.seen.contains("horse"), "{}", started.seen);
}
