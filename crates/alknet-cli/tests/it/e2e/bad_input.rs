//! What people and scripts get wrong: one clear sentence, a hint where there is
//! one, and the documented exit code.

use super::harness::{Node, Pair, exec_config};
use crate::program::{Place, Said};
use std::{fs, net::UdpSocket, os::unix::fs::PermissionsExt};

/// One sentence, and at most one hint.
#[track_caller]
fn is_clear(said: &Said) -> (&str, Option<&str>) {
    assert_eq!(said.stdout, "");
    let mut lines = said
        .stderr
        .lines()
        .filter(|line| !line.starts_with("warning: "));
    let sentence = lines
        .next()
        .and_then(|line| line.strip_prefix("error: "))
        .unwrap_or_else(|| panic!("{said:?}"));
    let hint = lines.next().map(|line| {
        line.strip_prefix("hint: ")
            .unwrap_or_else(|| panic!("{said:?}"))
    });
    assert_eq!(lines.next(), None, "{said:?}");
    assert!(!sentence.ends_with('.') && !sentence.is_empty(), "{said:?}");
    (sentence, hint)
}

fn config() -> String {
    format!(
        r#"{}
[[operation]]
name = "deploy/restart"
summary = "Restarts one service."
command = ["echo", "{{service}}"]
input = {{ service = {{ enum = ["web", "worker"] }}, note = {{ type = "string", optional = true }} }}

[[operation]]
name = "test/any"
summary = "Takes anything."
command = ["cat"]
input = {{ type = "object", properties = {{ value = {{}} }}, additionalProperties = false }}

[[operation]]
name = "test/lines"
summary = "Counts."
output = "lines"
command = ["seq", "3"]
"#,
        exec_config()
    )
}

#[test]
fn calls_that_make_no_sense_are_refused_with_a_sentence() {
    let pair = Pair::start(&config());
    pair.home
        .cli(&[
            "grant",
            "laptop",
            "deploy/restart",
            "test/any",
            "test/lines",
        ])
        .exits(0);
    let call = |words: &[&str], input: &[u8]| {
        pair.laptop
            .feed(&[&["call"], words, &["--on", "home"]].concat(), input)
    };
    #[track_caller]
    fn check(said: Said, code: i32, sentence: &str, hint: Option<&str>) {
        let said = said.exits(code);
        assert_eq!(is_clear(&said), (sentence, hint));
    }
    let describe = Some("alknet ops describe deploy/restart --on home");
    check(
        call(&["deploy/restrat", "service=web"], b""),
        1,
        "peer `home` does not offer `deploy/restrat`",
        Some("did you mean `deploy/restart`?"),
    );
    check(
        call(&["deploy/restart"], b""),
        1,
        "invalid input: \"service\" is a required property",
        describe,
    );
    let extra = "invalid input: Additional properties are not allowed ('servcie' was unexpected)";
    check(
        call(&["deploy/restart", "service=web", "servcie=web"], b""),
        1,
        extra,
        describe,
    );
    let wrong = "invalid input: `/note`: the value is not of type \"string\"";
    check(
        call(&["deploy/restart", "service=web", "note:=5"], b""),
        1,
        wrong,
        describe,
    );
    check(
        call(&["deploy/restart", "service"], b""),
        2,
        "`service` is neither `key=value` nor the one JSON value",
        None,
    );
    check(
        call(&["deploy/restart", "-"], b"{\"service\":"),
        2,
        "standard input is not JSON: EOF while parsing a value at line 1 column 11",
        None,
    );
    let said = call(&["deploy/restart", "-"], b"{\"service\":\"\xff\xfe\"}");
    let code = said.status.code();
    assert!(code == Some(1) || code == Some(2), "{said:?}");
    assert!(
        is_clear(&said).0.contains("utf-8") || is_clear(&said).0.contains("UTF-8"),
        "{said:?}"
    );
    // 64 levels are the most: the object is the first.
    let nested = |levels: usize| {
        format!(
            "{{\"value\":{}{}}}",
            "[".repeat(levels - 1),
            "]".repeat(levels - 1)
        )
    };
    call(&["test/any", "-"], nested(64).as_bytes()).exits(0);
    let said = call(&["test/any", "-"], nested(65).as_bytes()).exits(1);
    assert_eq!(
        is_clear(&said).0,
        "invalid input: nests deeper than 64 levels"
    );
    // 1 MiB is the most, and the most is fine.
    let sized = |bytes: usize| {
        format!(
            "{{\"value\":\"{}\"}}",
            "x".repeat(bytes - r#"{"value":""}"#.len())
        )
    };
    let said = call(&["test/any", "-"], sized(1024 * 1024).as_bytes()).exits(0);
    assert_eq!(said.stdout.trim_end().len(), 1024 * 1024);
    let said = call(&["test/any", "-"], sized(1024 * 1024 + 1).as_bytes()).exits(1);
    assert_eq!(
        is_clear(&said).0,
        "the input has 1048577 bytes, at most 1048576 are allowed"
    );
    call(&["test/any", "-"], sized(2 * 1024 * 1024).as_bytes()).exits(1);
    call(&["test/any", "-"], sized(20 * 1024 * 1024).as_bytes()).exits(1);
    // The right one still works.
    assert_eq!(
        call(&["deploy/restart", "service=web"], b"")
            .exits(0)
            .stdout,
        "web\n"
    );
}

#[test]
fn the_wrong_peer_and_the_wrong_kind_are_named() {
    let pair = Pair::start(&config());
    let (home, laptop) = (&pair.home, &pair.laptop);
    home.cli(&["grant", "laptop", "test/lines", "deploy/restart"])
        .exits(0);
    let said = laptop
        .cli(&["call", "deploy/restart", "service=web", "--on", "hoem"])
        .exits(1);
    assert_eq!(
        is_clear(&said),
        ("no peer `hoem`", Some("did you mean `home`?"))
    );
    for words in [
        &["peers", "show", "hoem"][..],
        &["grant", "hoem", "fs:read"],
    ] {
        let said = laptop.cli(words).exits(1);
        assert_eq!(
            is_clear(&said),
            ("no peer `hoem`", Some("did you mean `home`?"))
        );
    }

    let said = laptop.cli(&["exec", "hoem", "--", "true"]).exits(255);
    assert!(
        is_clear(&said).0.starts_with("NOT_FOUND: no peer `hoem`"),
        "{said:?}"
    );
    // In a batch there are one answer and no more: no place for items.
    let batch = br#"{"operation":"test/lines","on":"home"}"#;
    let said = laptop.feed(&["batch", "-"], batch).exits(1);
    let line: serde_json::Value = serde_json::from_str(said.stdout.trim_end()).unwrap();
    assert_eq!(line["error"]["code"], "INVALID_OPERATION_TYPE");
    assert!(
        line["error"]["message"]
            .as_str()
            .unwrap()
            .contains("subscription"),
        "{line}"
    );
    // Names that cannot be.
    for name in ["Not/A-Name", "one", "a/b/c/d/e", "../etc/passwd", ""] {
        let said = laptop.cli(&["call", name, "--on", "home"]);
        assert!([1, 2].contains(&said.status.code().unwrap()), "{said:?}");
        is_clear(&said);
    }
}

#[track_caller]
fn does_not_start(config: &str, wants: &[&str], hint: Option<&str>) -> Place {
    let place = Place::new();
    place.configure(config);
    let said = place
        .run(&["up", "--relay", "none", "--bind", "127.0.0.1:0"])
        .exits(1);
    let (sentence, found) = is_clear(&said);
    for want in wants {
        assert!(sentence.contains(want), "no `{want}` in: {sentence}");
    }
    assert_eq!(found, hint, "{sentence}");
    place
}

/// The same, of a file that cannot be read as a configuration: nothing is made.
#[track_caller]
fn makes_nothing(config: &str, wants: &[&str], hint: Option<&str>) {
    let place = does_not_start(config, wants, hint);
    let made = fs::read_dir(place.data()).unwrap().count();
    assert_eq!(made, 1, "something beside the configuration was made");
}

#[test]
fn a_misspelt_configuration_names_line_field_and_what_was_meant() {
    makes_nothing(
        "name = \"home\"\n\n[netwrok]\nbind = \"127.0.0.1:0\"\n",
        &["line 3", "`netwrok`"],
        Some("did you mean `network`?"),
    );
    makes_nothing(
        "[network]\nrelyas = []\n",
        &["line 2", "`relyas`"],
        Some("did you mean `relays`?"),
    );
    makes_nothing(
        "[network]\nport_mapping = \"yes\"\n",
        &["line 2", "boolean"],
        None,
    );
    makes_nothing("name = \"Not A Name\"\n", &["`name`"], None);
    makes_nothing("name = \"home\n", &["line 1"], None);
    makes_nothing(
        "[limits]\nstream_window_bytes = 16777216\n",
        &["`limits.stream_window_bytes`", "2 MiB"],
        None,
    );
    makes_nothing(
        "[[operation]]\nname = \"x/y\"\nsumary = \"?\"\ncommand = [\"true\"]\n",
        &["line 3", "`sumary`"],
        Some("did you mean `summary`?"),
    );
    let operation = |fields: &str| {
        format!(
            "{}[[operation]]\nname = \"x/y\"\nsummary = \"?\"\n{fields}",
            exec_config()
        )
    };
    does_not_start(&operation("command = []\n"), &["`x/y`", "command"], None);
    does_not_start(
        &operation("command = [\"echo\", \"{no}\"]\n"),
        &["`x/y`", "`{no}`"],
        None,
    );
    does_not_start(
        &operation("command = [\"true\"]\ntimeout = \"soon\"\n"),
        &["line", "soon"],
        None,
    );
    does_not_start(
        "[[role]]\nname = \"support\"\nscopes = [\"Not A Scope\"]\n",
        &["support", "Not A Scope"],
        None,
    );
}

#[test]
fn a_configuration_that_cannot_be_read_is_named() {
    let place = Place::new();
    place.configure("");
    let path = place.data().join("alknet.toml");
    fs::write(&path, b"name = \"home\"\n# \xff\xfe\n").unwrap();
    let said = place
        .run(&["up", "--relay", "none", "--bind", "127.0.0.1:0"])
        .exits(1);
    assert!(
        is_clear(&said)
            .0
            .contains("line 2: the file is not UTF-8 text"),
        "{said:?}"
    );
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let said = place
        .run(&["up", "--relay", "none", "--bind", "127.0.0.1:0"])
        .exits(1);
    let sentence = is_clear(&said).0;
    assert!(
        sentence.contains("failed to read configuration") && sentence.contains("alknet.toml"),
        "{said:?}"
    );
}

#[test]
fn a_bad_configuration_changes_nothing_of_a_node_that_runs() {
    let pair = Pair::start(&config());
    pair.home
        .cli(&["grant", "laptop", "deploy/restart"])
        .exits(0);
    fs::write(pair.home.data().join("alknet.toml"), "[netwrok]\n").unwrap();
    let said = pair.home.cli(&["call", "node/reload"]).exits(1);
    assert!(is_clear(&said).0.contains("`netwrok`"), "{said:?}");
    pair.laptop
        .cli(&["call", "deploy/restart", "service=web", "--on", "home"])
        .exits(0);
    // A role that is in use stays, and its holders are named.
    let role = "[[role]]\nname = \"support\"\nscopes = [\"deploy:restart\"]\n";
    pair.home.reconfigure(&format!("{}{role}", config()));
    pair.home.cli(&["grant", "laptop", "support"]).exits(0);
    fs::write(
        pair.home.data().join("alknet.toml"),
        format!("name = \"home\"\n{}", config()),
    )
    .unwrap();
    let said = pair.home.cli(&["call", "node/reload"]).exits(1);
    let sentence = is_clear(&said).0;
    assert!(
        sentence.contains("`support`") && sentence.contains("laptop"),
        "{said:?}"
    );
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named_with_what_helps() {
    let mut node = Node::start("home", "");
    let up = ["up", "--relay", "none", "--bind", "127.0.0.1:0"];
    let said = node.cli(&up).exits(1);
    let (sentence, hint) = is_clear(&said);
    assert!(
        sentence.contains("is in use by process") && sentence.contains(&node.pid().to_string()),
        "{said:?}"
    );
    assert!(hint.is_some(), "{said:?}");
    node.cli(&["status"]).exits(0);
    node.stop();
    for file in ["vault.key", "owner.key", "alknet.db"] {
        let path = node.data().join(file);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let said = node.cli(&up).exits(1);
        let (sentence, hint) = is_clear(&said);
        assert!(sentence.contains("can be read by others"), "{said:?}");
        // The hint is a command, and it helps.
        let hint = hint.unwrap().strip_prefix("chmod go= ").unwrap();
        assert_eq!(hint, path.to_str().unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    node.restart();
    node.stop();
    // `user_version` of an SQLite file is big-endian at offset 60.
    let database = node.data().join("alknet.db");
    let good = fs::read(&database).unwrap();
    let mut newer = good.clone();
    newer[60..64].copy_from_slice(&9999_u32.to_be_bytes());
    fs::write(&database, &newer).unwrap();
    let said = node.cli(&up).exits(1);
    let (sentence, hint) = is_clear(&said);
    assert!(
        sentence.contains("has format 9999") && hint.is_some(),
        "{said:?}"
    );
    assert_eq!(fs::read(&database).unwrap(), newer, "it was changed");
    fs::write(&database, good).unwrap();
    node.restart();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let said = Place::new()
        .run(&[
            "-q",
            "up",
            "--relay",
            "none",
            "--bind",
            &address.to_string(),
        ])
        .exits(1);
    let (sentence, hint) = is_clear(&said);
    assert_eq!(
        sentence,
        format!("UDP port {} is taken on 127.0.0.1", address.port())
    );
    assert!(hint.unwrap().contains("--bind"), "{said:?}");
    // As is an address that is not this machine's.
    let said = Place::new()
        .run(&["-q", "up", "--relay", "none", "--bind", "192.0.2.1:0"])
        .exits(1);
    assert!(is_clear(&said).0.contains("192.0.2.1"), "{said:?}");
}
