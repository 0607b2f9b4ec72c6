//! API keys: whoever has one may do what it says, on record, until it ends.

use super::harness::{ANSWERS, COUNTS, Node, Pair, error_code, eventually, exec_config};
use crate::program::{Place, Said, finish};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How soon what was made with a key ends with it: documented, and a hundred
/// times what it takes.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(1);

fn config() -> String {
    [exec_config(), ANSWERS, COUNTS].concat()
}

/// A key in a file, and its id.
struct Key {
    file: PathBuf,
    id: String,
    secret: String,
}

impl Key {
    /// Makes one with these further words of `keys create`.
    #[track_caller]
    fn of(node: &Node, name: &str, words: &[&str]) -> Self {
        let words = [&["keys", "create", "--name", name], words].concat();
        let secret = node.cli(&words).exits(0).stdout;
        // The key alone, so that it can be sent to a file.
        assert_eq!(secret.trim_end().len(), 64, "{secret}");
        assert!(secret.starts_with("alk_") && secret.ends_with('\n'));
        let file = node.path(&format!("{name}.key"));
        fs::write(&file, &secret).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let secret = secret.trim_end();
        Self {
            file,
            id: secret[4..12].to_owned(),
            secret: secret[12..].to_owned(),
        }
    }
}

/// The command line with a key.
#[track_caller]
fn with(node: &Node, key: &Path, words: &[&str]) -> Said {
    let key = ["--key-file", key.to_str().unwrap()];
    node.cli(&[&key, words].concat())
}

fn listed(node: &Node, name: &str) -> Value {
    let list = node.cli(&["keys", "list", "--json"]).exits(0).json();
    let keys = list["keys"].as_array().unwrap();
    let mut keys = keys.iter().filter(|key| key["name"] == name);
    keys.next().cloned().unwrap_or_default()
}

#[test]
fn an_agent_does_what_its_key_may_and_is_on_record_as_that() {
    let mut home = Node::start("home", &config());
    let key = Key::of(&home, "agent", &["--grant", "test/query"]);

    let said = with(&home, &key.file, &["call", "test/query"]).exits(0);
    assert!(said.stdout.contains("answer"), "{said:?}");
    let said = with(&home, &key.file, &["call", "test/count"]).exits(4);
    assert!(
        said.stderr
            .contains("`agent` may not call `test/count` on `home`: missing scope `test:count`"),
        "{said:?}"
    );
    for words in [
        &["peers", "list"][..],
        &["keys", "list"],
        &["keys", "create", "--name", "more", "--role", "admin"],
        &["grant", "agent", "admin"],
        &["down"],
    ] {
        with(&home, &key.file, words).exits(4);
    }
    // Named by the environment, as an agent's program would be given it.
    let mut command = home.command(&["call", "test/query"]);
    command.env("ALKNET_KEY_FILE", &key.file);
    finish(command, b"").exits(0);
    // Without it the command line is the owner's.
    home.cli(&["peers", "list"]).exits(0);

    // Rows are written in batches, soon after their calls.
    let rows = eventually("every call has its row", || {
        let rows = home.audit(&["--caller", "agent"]);
        (rows.len() >= 7).then_some(rows)
    });
    for row in &rows {
        assert_eq!(row["key"], key.id.as_str(), "{row}");
        assert_eq!(row["transport"], "owner", "{row}");
    }
    let made = home.audit(&["--operation", "keys/create"]);
    assert!(
        made.iter().any(
            |row| row["resource"] == format!("{} of agent", key.id) && row["caller"] == "owner"
        ),
        "{made:?}"
    );

    let shown = listed(&home, "agent");
    assert_eq!(shown["id"], key.id.as_str());
    assert_eq!(shown["state"], "active");
    eventually("the last use is kept", || {
        listed(&home, "agent")["last_used_at"]
            .is_string()
            .then_some(())
    });
    assert!(!shown.to_string().contains(&key.secret));

    // It is there after a crash, as its reply was.
    home.kill();
    home.restart();
    with(&home, &key.file, &["call", "test/query"]).exits(0);
    let peer = home.peer("agent");
    assert_eq!(peer["grants"], serde_json::json!(["test/query"]));
    assert_eq!(peer["api_keys"], 1);
}

#[test]
fn a_key_of_a_peer_is_no_wider_than_itself_and_than_the_peer() {
    let pair = Pair::start(&config());
    let home = &pair.home;
    home.cli(&["grant", "laptop", "test/query", "test/count"])
        .exits(0);
    let narrow = Key::of(home, "ci", &["--peer", "laptop", "--grant", "test/query"]);
    let all = Key::of(home, "all", &["--peer", "laptop"]);

    with(home, &narrow.file, &["call", "test/query"]).exits(0);
    let said = with(home, &narrow.file, &["call", "test/count"]).exits(4);
    let want = format!("key `{}` of `laptop` may not call `test/count`", narrow.id);
    assert!(said.stderr.contains(&want), "{said:?}");
    assert!(
        said.stderr
            .contains("may not, whatever `laptop` is granted"),
        "{said:?}"
    );
    with(home, &all.file, &["call", "test/query"]).exits(0);

    // What the peer loses, its keys lose.
    home.cli(&["revoke", "laptop", "test/query"]).exits(0);
    for key in [&narrow, &all] {
        let said = with(home, &key.file, &["call", "test/query"]).exits(4);
        assert!(said.stderr.contains("`laptop` may not call"), "{said:?}");
    }
    home.cli(&["grant", "laptop", "test/query"]).exits(0);
    with(home, &narrow.file, &["call", "test/query"]).exits(0);

    // Calls of the peer itself are not those of a key.
    pair.laptop
        .cli(&["call", "test/query", "--on", "home"])
        .exits(0);
    // Rows are written in batches, soon after their calls.
    let rows = eventually("every call has its row", || {
        let rows = home.audit(&["--caller", "laptop", "--operation", "test/query"]);
        (rows.len() >= 6).then_some(rows)
    });
    let of_key = |row: &&Value| row["key"] == narrow.id.as_str() && row["transport"] == "owner";
    assert_eq!(rows.iter().filter(of_key).count(), 3, "{rows:?}");
    let of_peer = |row: &&Value| row.get("key").is_none() && row.get("transport").is_none();
    assert_eq!(rows.iter().filter(of_peer).count(), 1, "{rows:?}");

    // One that is made to give nothing gives nothing.
    let none = Key::of(home, "none", &["--peer", "laptop", "--role", "none"]);
    with(home, &none.file, &["call", "test/count"]).exits(4);
    let said = home
        .cli(&["keys", "create", "--name", "x", "--peer", "owner", "--json"])
        .exits(1);
    assert_eq!(error_code(&said.stderr), "CONFLICT");
    let said = home
        .cli(&[
            "keys", "create", "--name", "ci", "--peer", "laptop", "--json",
        ])
        .exits(1);
    assert_eq!(error_code(&said.stderr), "CONFLICT");
}

#[test]
fn what_is_no_key_that_is_known_is_nobody_s() {
    let home = Node::start("home", &config());
    let key = Key::of(&home, "agent", &["--role", "admin"]);
    let file = home.path("wrong.key");
    let write = |text: &str| {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    };
    // Well-formed: of an unknown id, and of a known one with another secret.
    let unknown = format!("alk_{}{}", "a".repeat(8), key.secret);
    let guessed = format!("alk_{}{}", key.id, "a".repeat(52));
    for text in [unknown, guessed] {
        write(&text);
        let said = with(&home, &file, &["call", "node/info", "--json"]).exits(4);
        assert_eq!(error_code(&said.stderr), "UNAUTHENTICATED", "{said:?}");
        assert_eq!(said.stdout, "");
    }
    // What cannot be a key is not even sent.
    let odd = format!("alk_a{}b", "é".repeat(29));
    for text in [&odd, "", "s3cr3t", &"€".repeat(40)] {
        write(text);
        let said = with(&home, &file, &["call", "node/info", "--json"]).exits(1);
        assert_eq!(error_code(&said.stderr), "LOCAL", "{said:?}");
        assert!(text.is_empty() || !said.stderr.contains(text), "{said:?}");
    }
    fs::set_permissions(&key.file, fs::Permissions::from_mode(0o640)).unwrap();
    let said = with(&home, &key.file, &["call", "node/info"]).exits(1);
    assert!(said.stderr.contains("can be read by others"), "{said:?}");
    assert!(said.stderr.contains("hint: chmod go= "), "{said:?}");
    // It is not the owner instead, nowhere in the records: those of a later
    // call are written.
    home.cli(&["roles"]).exits(0);
    eventually("a later call is on record", || {
        let rows = home.audit(&["--operation", "roles/list"]);
        (!rows.is_empty()).then_some(())
    });
    let rows = home.audit(&["--operation", "node/info"]);
    assert!(rows.is_empty(), "{rows:?}");
}

#[test]
fn a_revoked_key_ends_what_runs_within_a_second() {
    let home = Node::start("home", &config());
    let key = Key::of(&home, "agent", &["--grant", "test/count"]);
    let other = Key::of(&home, "other", &["--grant", "test/count"]);
    let counting = |key: &Key| {
        let key = key.file.to_str().unwrap();
        let running = home.spawn(&["--key-file", key, "call", "test/count"]);
        running.lines.next();
        running
    };
    let (mut mine, theirs) = (counting(&key), counting(&other));
    home.cli(&["keys", "revoke", "agent"]).exits(0);
    let revoked = Instant::now();
    let ended = mine.code();
    assert!(
        revoked.elapsed() < FOLLOWS_WITHIN,
        "{:?}",
        revoked.elapsed()
    );
    assert_ne!(ended.code, Some(0), "{ended:?}");
    let said = with(&home, &key.file, &["call", "test/count"]).exits(4);
    assert!(
        said.stderr.contains("does not accept the API key"),
        "{said:?}"
    );
    // Somebody else's goes on.
    for _ in 0..20 {
        theirs.lines.next();
    }
    home.cli(&["keys", "revoke", "agent"]).exits(1);
    // By its id, as it stands in the audit log.
    home.cli(&["keys", "revoke", &other.id]).exits(0);
    with(&home, &other.file, &["call", "test/count"]).exits(4);
}

#[test]
fn a_key_ends_when_its_time_is_over_and_while_its_peer_is_kept_out() {
    let home = Node::start("home", &config());
    let lasting = Key::of(&home, "lasting", &["--grant", "test/query"]);
    let made = Instant::now();
    let brief = Key::of(
        &home,
        "brief",
        &["--grant", "test/count", "--expires", "3s"],
    );
    let file = brief.file.to_str().unwrap();
    let mut running = home.spawn(&["--key-file", file, "call", "test/count"]);
    running.lines.next();
    let ended = running.code();
    let lasted = made.elapsed();
    assert!(lasted >= Duration::from_secs(3), "{lasted:?}");
    assert!(
        lasted < Duration::from_secs(5) + FOLLOWS_WITHIN,
        "{lasted:?}"
    );
    assert_ne!(ended.code, Some(0), "{ended:?}");
    with(&home, &brief.file, &["call", "test/count"]).exits(4);
    assert_eq!(listed(&home, "brief")["state"], "expired");

    home.cli(&["peers", "update", "lasting", "--disable"])
        .exits(0);
    with(&home, &lasting.file, &["call", "test/query"]).exits(4);
    assert_eq!(listed(&home, "lasting")["state"], "disabled");
    home.cli(&["peers", "update", "lasting", "--enable"])
        .exits(0);
    with(&home, &lasting.file, &["call", "test/query"]).exits(0);
    home.cli(&["peers", "remove", "lasting", "--yes"]).exits(0);
    with(&home, &lasting.file, &["call", "test/query"]).exits(4);
    assert_eq!(listed(&home, "lasting"), Value::Null);
}

#[test]
fn what_a_group_is_given_its_members_have_at_once_and_no_longer() {
    let pair = Pair::start(&config());
    let (home, laptop) = (&pair.home, &pair.laptop);
    home.cli(&["peers", "update", "laptop", "--group", "family"])
        .exits(0);
    laptop.cli(&["call", "test/query", "--on", "home"]).exits(4);
    let said = home
        .cli(&["grant", "group:family", "test/query", "test/count"])
        .exits(0);
    assert_eq!(said.stdout, "group:family may: test/query, test/count\n");
    laptop.cli(&["call", "test/query", "--on", "home"]).exits(0);
    let grants = home.cli(&["grants", "group:family"]).exits(0);
    assert_eq!(grants.stdout, "test/query\ntest/count\n");
    let grants = home
        .cli(&["grants", "group:family", "--json"])
        .exits(0)
        .json();
    assert_eq!(grants["members"], serde_json::json!(["laptop"]));

    let mut running = laptop.spawn(&["call", "test/count", "--on", "home"]);
    running.lines.next();
    home.cli(&["revoke", "group:family", "test/count"]).exits(0);
    let revoked = Instant::now();
    let ended = running.code();
    assert!(
        revoked.elapsed() < FOLLOWS_WITHIN,
        "{:?}",
        revoked.elapsed()
    );
    assert_eq!(ended.code, Some(4), "{ended:?}");
    laptop.cli(&["call", "test/query", "--on", "home"]).exits(0);
    home.cli(&["call", "groups/remove", "group=family"])
        .exits(0);
    laptop.cli(&["call", "test/query", "--on", "home"]).exits(4);
    home.cli(&["grants", "group:family"]).exits(1);
    home.cli(&["revoke", "group:family", "test/query"]).exits(1);
}

const ED25519: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDcsEJaut3dDTUAS6ZAk6B3ZS8wn5MYaYcLY0miUew8j ada@laptop\n";
const FINGERPRINT: &str = "SHA256:0EVOfjcrWjiYAx/EHOVh4+cXGo3/W6xkEP8t9sBRd/o";

#[test]
fn a_peer_is_known_by_its_ssh_keys_and_by_an_authority() {
    let home = Node::start("home", "");
    let write = |name: &str, text: &str| {
        let path = home.path(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let public = write("id.pub", ED25519);
    home.cli(&["peers", "add", "ada", "--ssh-key", &public])
        .exits(0);
    let peer = home.peer("ada");
    assert_eq!(peer["ssh_keys"][0]["fingerprint"], FINGERPRINT);
    assert_eq!(peer["ssh_keys"][0]["comment"], "ada@laptop");
    assert_eq!(
        format!(
            "{} ada@laptop\n",
            peer["ssh_keys"][0]["public_key"].as_str().unwrap()
        ),
        ED25519
    );
    assert!(peer.get("node_id").is_none());
    let shown = home.cli(&["peers", "show", "ada"]).exits(0).stdout;
    assert!(shown.contains(FINGERPRINT), "{shown}");

    // A key is one peer's.
    let said = home
        .cli(&["peers", "add", "bob", "--ssh-key", &public, "--json"])
        .exits(1);
    assert_eq!(error_code(&said.stderr), "CONFLICT");
    assert!(said.stderr.contains("belongs to peer `ada`"), "{said:?}");

    // So are an authority and a principal; the peer's name if none is given.
    let as_authority = ["--ssh-ca", &public];
    home.cli(&[&["peers", "update", "ada"], &as_authority[..]].concat())
        .exits(0);
    assert_eq!(home.peer("ada")["ssh_cas"][0]["principal"], "ada");
    let bob = [
        &["peers", "add", "bob"],
        &as_authority[..],
        &["--principal"],
    ]
    .concat();
    home.cli(&[&bob[..], &["ada"]].concat()).exits(1);
    home.cli(&[&bob[..], &["bob"]].concat()).exits(0);
    // One fingerprint takes both away.
    home.cli(&["peers", "update", "ada", "--remove-ssh", FINGERPRINT])
        .exits(0);
    let ada = home.peer("ada");
    assert!(
        ada.get("ssh_keys").is_none() && ada.get("ssh_cas").is_none(),
        "{ada}"
    );

    // A private key stays where it is.
    let private =
        "-----BEGIN OPENSSH PRIVATE KEY-----\nczNjcjN0\n-----END OPENSSH PRIVATE KEY-----\n";
    let private = write("id", private);
    let two = write("two.pub", &format!("{ED25519}{ED25519}"));
    let weak = write("weak.pub", "ssh-dss AAAAB3NzaC1kc3M=\n");
    let unknown = write("new.pub", "ssh-new AAAA\n");
    for (path, why) in [
        (&private, "private key"),
        (&two, "2 keys"),
        (&weak, "too weak"),
        (&unknown, "`ssh-new` is no type of key"),
    ] {
        let said = home
            .cli(&["peers", "update", "ada", "--ssh-key", path])
            .exits(2);
        assert!(said.stderr.contains(why), "{said:?}");
        assert!(!said.stderr.contains("czNjcjN0"), "{said:?}");
    }
    let told = fs::read(home.data().join("alknet.db")).unwrap_or_default();
    assert!(!told.windows(8).any(|bytes| bytes == b"czNjcjN0"));
}

#[test]
fn what_works_on_the_data_directory_refuses_to_act_with_a_key() {
    let place = Place::new();
    place.run(&["init"]).exits(0);
    let before = files(&place.data());
    // It need not hold a key: nothing may depend on what no node looks at.
    for words in [
        &["init"][..],
        &["up"],
        &["relay"],
        &["restore", "x.backup"],
        &["service", "install"],
        &["vault", "passwd", "--new-passphrase-file", "x"],
        &["vault", "replace", "--yes"],
        &["backup", "x.backup"],
        &["backup", "--passphrase-file", "x", "x.backup"],
    ] {
        let words = [&["--key-file", "x", "--json"], words].concat();
        let said = place.run(&words).exits(4);
        assert_eq!(error_code(&said.stderr), "FORBIDDEN", "{words:?}: {said:?}");
        assert!(said.stderr.contains("ALKNET_KEY_FILE"), "{said:?}");
    }
    assert_eq!(files(&place.data()), before);
}

/// What lies in a directory, by name.
fn files(dir: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let listed = fs::read_dir(dir).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let bytes = fs::read(entry.path()).unwrap_or_default();
        (entry.file_name(), bytes)
    });
    let mut listed: Vec<_> = listed.collect();
    listed.sort();
    listed
}
