//! Secrets that the test knows go everywhere that secrets go, and are looked
//! for everywhere else.

mod embedded;
mod mistakes;
mod watch;

use self::{
    embedded::{Embedded, be_the_node},
    mistakes::refused,
    watch::{Home, Watch, memory, shown_by},
};
use super::harness::eventually;
use crate::program::{Lines, Said, alknet};
use alknet::node::ticket::Ticket;
use alknet_testkit::canary::{
    Scanner,
    vault::{
        self, About, Mnemonic, Vault,
        slip10::{ExtendedKey, Index},
    },
};
use std::{
    fs,
    io::Read,
    process::{Child, Stdio},
};

const NAME: &str = "slow_secrets_are_found_where_they_belong_and_nowhere_else";
const TEST: &str = "e2e::canary::slow_secrets_are_found_where_they_belong_and_nowhere_else";

/// Where a secret may be, and is: whatever else is found is a leak.
const ALLOWED: &[(&str, &str)] = &[
    // Written by the test itself, as a person would.
    ("passphrase of the vault", "home/pass"),
    ("passphrase of the backup", "home/backup.pass"),
    ("API key", "home/agent.key"),
    ("credential from a file", "home/token"),
    ("credential from a file", "home/other.key"),
    ("issued secret", "home/issued"),
    // What opens the vault without a passphrase, and what the command line acts
    // with: readable by their owner alone.
    ("wrapping key of laptop", "laptop/data/vault.key"),
    ("owner key of laptop", "laptop/data/owner.key"),
    ("owner key of home", "home/data/owner.key"),
    // Shown this once, to whom it is for.
    ("words of home", "home: init --json*"),
    ("words of laptop", "laptop: init --json: stdout"),
    ("ticket", "home: invite -q: stdout"),
    (
        "API key",
        "home: keys create --name agent --grant canary/use: stdout",
    ),
    (
        "issued secret",
        "home: call canary/issue --idempotency-key once: stdout",
    ),
    (
        "issued secret",
        "laptop: call canary/issue --on home --idempotency-key once: stdout",
    ),
];

/// What nobody but those who should know it ever had.
struct Secrets {
    passphrase: String,
    backup: String,
    credential: String,
    filed: String,
    issued: String,
}

impl Secrets {
    fn new() -> Self {
        Self {
            // What is written otherwise in JSON, and in what programmers print.
            passphrase: format!("pass \"{}\\", random()),
            backup: format!("back \"{}\\", random()),
            credential: format!("tok\\{}\"end", random()),
            filed: format!("ghp_{}", random()),
            issued: format!("iss_{}", random()),
        }
    }

    fn tell(&self, scanner: &mut Scanner) {
        for (name, secret) in [
            ("passphrase of the vault", &self.passphrase),
            ("passphrase of the backup", &self.backup),
            ("credential", &self.credential),
            ("credential from a file", &self.filed),
            ("issued secret", &self.issued),
        ] {
            scanner.add(name, secret.as_bytes());
        }
    }
}

/// 32 hexadecimal digits that were never there before.
fn random() -> String {
    let mut bytes = [0; 16];
    let mut source = fs::File::open("/dev/urandom").unwrap();
    source.read_exact(&mut bytes).unwrap();
    data_encoding::HEXLOWER.encode(&bytes)
}

/// Looks for everything that is made of these words.
fn tell_keys(scanner: &mut Scanner, of: &str, words: &str) {
    scanner.add_words(&format!("words of {of}"), words);
    let seed = Mnemonic::parse(words).unwrap().to_seed("");
    scanner.add(&format!("seed of {of}"), seed.expose());
    let dir = tempfile::tempdir().unwrap();
    let words = Mnemonic::parse(words).unwrap();
    let vault = Vault::create(dir.path(), &words, "", vault::Wrap::KeyFile).unwrap();
    for (name, key) in [
        ("node", vault.node_key()),
        ("owner", vault.owner_key()),
        ("SSH host", vault.ssh_host_key()),
    ] {
        scanner.add(&format!("{name} key of {of}"), key.unwrap().expose());
    }
    for version in 1..=3 {
        let key = vault.sealing_key(version).unwrap();
        scanner.add(&format!("sealing key of {of}"), key.expose());
    }
    // From which those are made.
    let path = [74, 2, 0].map(|number| Index::new(number).unwrap());
    let root = ExtendedKey::master(seed.expose()).unwrap().descend(&path);
    scanner.add(&format!("sealing key of {of}"), root.chain_code());
    scanner.add(&format!("sealing key of {of}"), root.into_key().expose());
}

/// `alknet up` with everything in its log, killed when dropped.
struct Up(Child);

impl Up {
    #[track_caller]
    fn start(home: &Home, words: &[&str]) -> Self {
        let told = fs::File::options()
            .create(true)
            .append(true)
            .open(home.path("up.stderr"))
            .unwrap();
        // As many core dumps as there may be, in the directory of the test.
        let mut command = std::process::Command::new("sh");
        let plain = alknet(home.place.path());
        command
            .args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh"])
            .arg(plain.get_program())
            .args(["up", "--json", "-vvvv", "--bind", "127.0.0.1:0"])
            .args(["--relay", "none"])
            .args(words)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("RUST_BACKTRACE", "full")
            .current_dir(home.place.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(told);
        for (name, value) in plain.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let mut child = command.spawn().unwrap();
        let lines = Lines::of(child.stdout.take().unwrap());
        let up = Self(child);
        assert!(lines.next().contains("node_id"));
        up
    }

    /// Ends it with a signal, as a fault in it would; whether a core was dumped.
    fn crash(mut self, signal: rustix::process::Signal) -> bool {
        use std::os::unix::process::ExitStatusExt;
        let status = eventually("it is ended by a signal", || {
            // The first one is taken for an overflow of the stack, and looked
            // into.
            crate::program::signal(&self.0, signal);
            self.0.try_wait().unwrap()
        });
        assert!(status.signal().is_some(), "{status:?}");
        status.core_dumped()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn slow_secrets_are_found_where_they_belong_and_nowhere_else() {
    if be_the_node() {
        return;
    }
    let secrets = Secrets::new();
    let mut watch = Watch::new();
    secrets.tell(&mut watch.scanner);
    let (home, laptop) = (Home::new("home", ""), Home::new("laptop", ""));

    let words = made(&mut watch, &home, &laptop, &secrets);
    let at_home = Embedded::start(&home, TEST);
    let at_laptop = Up::start(&laptop, &[]);
    let held = used(&mut watch, &home, &laptop, &secrets, words);
    refused(&mut watch, &home, &laptop, &secrets, &held);
    shown(&mut watch, &home, &laptop, &secrets);
    for text in at_home.shows().into_iter().chain(shown_by(&at_laptop.0)) {
        watch.keep("a node: process", text);
    }
    // With what SQLite has not moved into its file yet, and as a crash leaves
    // it.
    watch.files("home", home.place.path());
    watch.files("laptop", laptop.place.path());
    at_home.kill();

    let at_home = Embedded::start(&home, TEST);
    locked(&mut watch, &home, &at_home, &secrets);
    watch.run(&home, &["down"], b"").exits(0);
    at_home.ended();
    cores(&laptop, at_laptop);
    watch.files("home", home.place.path());
    watch.files("laptop", laptop.place.path());

    let (leaks, missing) = watch.judge(ALLOWED);
    let leaks: Vec<String> = leaks.into_iter().collect();
    assert!(
        leaks.is_empty(),
        "{} leaks:\n{}",
        leaks.len(),
        leaks.join("\n")
    );
    // What was not where it belongs was not looked for.
    assert!(missing.is_empty(), "not there: {missing:#?}");
}

/// Both nodes get their keys. Returns the words of the first.
fn made(watch: &mut Watch, home: &Home, laptop: &Home, secrets: &Secrets) -> String {
    let pass = home.private("pass", format!("{}\n", secrets.passphrase).as_bytes());
    home.private("issued", secrets.issued.as_bytes());
    let init = ["init", "--json", "--passphrase-file", &pass];
    let words = |said: Said| said.exits(0).json()["words"].as_str().unwrap().to_owned();
    let at_home = words(watch.run(home, &init, b""));
    let at_laptop = words(watch.run(laptop, &["init", "--json"], b""));
    tell_keys(&mut watch.scanner, "home", &at_home);
    tell_keys(&mut watch.scanner, "laptop", &at_laptop);
    let key = fs::read_to_string(laptop.path("data/vault.key")).unwrap();
    let key = data_encoding::HEXLOWER
        .decode(key.trim().as_bytes())
        .unwrap();
    watch.scanner.add("wrapping key of laptop", &key);
    // Words that are nearly right, and such as are none.
    let wrong = at_home.replacen(at_home.split(' ').next().unwrap(), "alknet", 1);
    let swapped = at_home.split(' ').rev().collect::<Vec<_>>().join(" ");
    let elsewhere = Home::new("elsewhere", "");
    for words in [&wrong, &swapped, &format!("{at_home} zoo")] {
        for more in [&[][..], &["--json"]] {
            let init = [&["init", "--restore", "-"], more].concat();
            let said = watch.run(&elsewhere, &init, words.as_bytes());
            assert!(!said.status.success(), "{said:?}");
        }
    }
    at_home
}

/// What the failures that follow are given.
struct Held {
    ticket: String,
    key: String,
    words: String,
}

/// Everything does what it is for.
fn used(watch: &mut Watch, home: &Home, laptop: &Home, secrets: &Secrets, words: String) -> Held {
    let ticket = watch.run(home, &["invite", "-q"], b"").exits(0).stdout;
    watch
        .scanner
        .add("ticket", &Ticket::parse(&ticket).unwrap().secret);
    watch
        .run(laptop, &["join", "-"], ticket.as_bytes())
        .exits(0);
    let connected = |watch: &mut Watch| {
        let said = watch.run(laptop, &["peers", "show", "home", "--json"], b"");
        (said.json()["connected"] == true).then_some(())
    };
    eventually("they are connected", || connected(watch));
    watch
        .run(
            home,
            &["grant", "laptop", "canary/issue", "canary/use", "admin"],
            b"",
        )
        .exits(0);
    for home in [home, laptop] {
        network(watch, home, &secrets.passphrase);
    }

    let create = ["keys", "create", "--name", "agent", "--grant", "canary/use"];
    let key = watch.run(home, &create, b"").exits(0).stdout;
    let key = key.trim().to_owned();
    watch.scanner.add("API key", &key.as_bytes()[12..]);
    let secret = data_encoding::BASE32_NOPAD.decode(key[12..].to_uppercase().as_bytes());
    watch.scanner.add("API key", &secret.unwrap());
    let file = home.private("agent.key", key.as_bytes());

    let put = ["credentials", "put", "github", "ada", "-"];
    watch
        .run(home, &put, secrets.credential.as_bytes())
        .exits(0);
    let token = home.private("token", secrets.filed.as_bytes());
    let token = format!("@{token}");
    watch
        .run(home, &["credentials", "put", "smtp", "robot", &token], b"")
        .exits(0);
    // Whoever may, uses it: with the key, and from elsewhere.
    let want = blake3::hash(secrets.credential.as_bytes()).to_hex();
    for (at, words) in [
        (
            home,
            &["--key-file", &file, "call", "canary/use", "--json"][..],
        ),
        (
            laptop,
            &["call", "canary/use", "--on", "home", "--json"][..],
        ),
    ] {
        let said = watch.run(at, words, b"").exits(0);
        assert!(said.stdout.contains(want.as_str()), "{said:?}");
    }
    // A reply that is a secret is given once.
    for (at, on) in [(home, &[][..]), (laptop, &["--on", "home"])] {
        let once = [
            &["call", "canary/issue"],
            on,
            &["--idempotency-key", "once"],
        ]
        .concat();
        let said = watch.run(at, &once, b"").exits(0);
        assert!(said.stdout.contains(&secrets.issued), "{said:?}");
        let again = [&once[..], &["--json"]].concat();
        let said = watch.run(at, &again, b"");
        assert!(said.stderr.contains("was not kept"), "{said:?}");
    }
    Held { ticket, key, words }
}

/// Looks for the secrets of the networks that a node is in, which lie in its
/// store sealed.
fn network(watch: &mut Watch, home: &Home, passphrase: &str) {
    let mut vault = Vault::open(&home.path("data")).unwrap();
    if !vault.is_unlocked() {
        vault.unlock(passphrase).unwrap();
    }
    let sealer = vault.sealer().unwrap();
    let readable = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let store = rusqlite::Connection::open_with_flags(home.path("data/alknet.db"), readable);
    let store = store.unwrap();
    let mut rows = store
        .prepare("SELECT id, key_version, sealed FROM networks")
        .unwrap();
    let rows = rows.query_map((), |row| {
        Ok((
            row.get::<_, Vec<u8>>(0)?,
            row.get(1)?,
            row.get::<_, Vec<u8>>(2)?,
        ))
    });
    let mut count = 0;
    for row in rows.unwrap() {
        let (id, version, sealed) = row.unwrap();
        let about = About {
            kind: "network",
            provider: "alknet",
            account: &data_encoding::HEXLOWER.encode(&id),
        };
        let secret = sealer.open(version, &about, &sealed).unwrap();
        watch.scanner.add("secret of a network", &secret);
        count += 1;
    }
    assert!(count > 0, "`{}` is in no network", home.name);
}

/// Everything that a node shows.
fn shown(watch: &mut Watch, home: &Home, laptop: &Home, secrets: &Secrets) {
    let backup_pass = home.private("backup.pass", format!("{}\n", secrets.backup).as_bytes());
    let pass = home.path("pass");
    let pass = pass.to_str().unwrap();
    watch.run(home, &["vault", "rotate"], b"").exits(0);
    watch.run(home, &["vault", "lock"], b"").exits(0);
    let said = watch.run(home, &["call", "canary/use", "--json"], b"");
    assert!(said.stderr.contains("is locked"), "{said:?}");
    watch
        .run(home, &["vault", "unlock", "--passphrase-file", pass], b"")
        .exits(0);
    for at in [home, laptop] {
        for words in [
            &["status", "--json"][..],
            &["doctor", "--json"],
            &["doctor"],
            &["call", "node/metrics", "--json"],
            &["call", "invites/list", "--json"],
            &["call", "bans/list", "--json"],
            &["peers", "list", "--json"],
            &["keys", "list", "--json"],
            &["credentials", "list", "--json"],
            &["vault", "status", "--json"],
            &["ops", "list", "--json"],
            &["ops", "describe", "credentials/put", "--json"],
            &["peers", "explain", "owner", "credentials/put", "--json"],
            &["audit", "--export"],
            &["audit", "-n", "1000"],
            &["events", "--json"],
            &["events"],
            &["completions", "bash"],
        ] {
            let said = watch.run(at, words, b"");
            assert!(
                !said.stdout.is_empty() && said.status.code() != Some(2),
                "{said:?}"
            );
        }
        // All that is kept, at the finest level.
        let input = br#"{"follow":false,"lines":2000,"level":"trace"}"#;
        let said = watch
            .run(at, &["call", "node/logs", "-", "--json"], input)
            .exits(0);
        assert!(!said.stdout.is_empty(), "{said:?}");
    }
    // The row of the secret is there, sealed.
    let listed = watch
        .run(home, &["credentials", "list", "--json"], b"")
        .json();
    assert_eq!(
        listed["credentials"].as_array().unwrap().len(),
        2,
        "{listed}"
    );
    let file = |name: &str| home.path(name).to_str().unwrap().to_owned();
    watch
        .run(home, &["backup", &file("plain.backup")], b"")
        .exits(0);
    let laptops = file("laptop.backup");
    let backup = ["backup", &laptops, "--passphrase-file", &backup_pass];
    watch.run(laptop, &backup, b"").exits(0);
    let wrong = home.private("wrong.pass", b"wrong\n");
    let elsewhere = Home::new("elsewhere", "");
    let restore = ["restore", &laptops, "--passphrase-file", &wrong, "--json"];
    assert!(!watch.run(&elsewhere, &restore, b"").status.success());
}

/// What is locked away is not even in memory any more.
fn locked(watch: &mut Watch, home: &Home, node: &Embedded, secrets: &Secrets) {
    let mut scanner = Scanner::new();
    scanner.add("credential", secrets.credential.as_bytes());
    scanner.add("passphrase of the vault", secrets.passphrase.as_bytes());
    let mut vault = Vault::open(&home.path("data")).unwrap();
    vault.unlock(&secrets.passphrase).unwrap();
    for version in 1..=2 {
        let key = vault.sealing_key(version).unwrap();
        scanner.add("sealing key", key.expose());
    }
    watch
        .run(home, &["call", "canary/use", "--json"], b"")
        .exits(0);
    let Some(before) = memory(node.pid()) else {
        return alknet_lab::skip(NAME, "the memory of other processes cannot be read here");
    };
    // While it is in use, it is there: so it can be found.
    let found = scanner.find(&before);
    assert!(
        found.iter().any(|found| found.secret == "credential"),
        "{found:?}"
    );
    watch.run(home, &["vault", "lock"], b"").exits(0);
    let found = eventually_clean(&scanner, node);
    assert!(found.is_empty(), "still in memory: {found:?}");
}

/// What is still found after a moment in which calls that are over are put
/// away.
fn eventually_clean(scanner: &Scanner, node: &Embedded) -> Vec<String> {
    let mut found = Vec::new();
    for _ in 0..5 {
        let memory = memory(node.pid()).unwrap();
        let of = |found: &alknet_testkit::canary::Found| {
            let start = found.at.saturating_sub(64);
            let end = memory.len().min(found.at + 96);
            let around = String::from_utf8_lossy(&memory[start..end]).into_owned();
            format!("{found} {around:?}")
        };
        found = scanner.find(&memory).iter().map(of).collect();
        if found.is_empty() {
            break;
        }
    }
    found
}

/// A node that crashes leaves no core, unless it was told to.
fn cores(laptop: &Home, running: Up) {
    use rustix::process::Signal;
    assert!(!running.crash(Signal::ABORT), "a core was dumped");
    let again = Up::start(laptop, &[]);
    assert!(!again.crash(Signal::SEGV), "a core was dumped");
    let other = Up::start(laptop, &["--debuggable"]);
    if !other.crash(Signal::ABORT) {
        alknet_lab::skip(NAME, "this system writes no core dumps of any process");
    }
    // Its core holds every key, as it says.
    for entry in fs::read_dir(laptop.place.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("core") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}
