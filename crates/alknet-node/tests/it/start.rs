//! A start that fails says why in one sentence, with what helps, and changes
//! nothing.

use crate::support::{builder, eventually, runs_commands, start};
use alknet_node::{InitError, InitOptions, NodeBuilder, StartError, init};
use serde_json::json;
use std::{
    net::UdpSocket,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A directory in which a node has run.
async fn used() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let node = builder(dir.path(), "home").spawn().await.unwrap();
    node.shutdown(std::time::Duration::ZERO).await;
    dir
}

/// What a person reads: one sentence as this house writes them, and a hint.
async fn refused(builder: NodeBuilder) -> (String, Option<String>) {
    let error = builder.spawn().await.unwrap_err();
    let text = error.to_string();
    let first = text.chars().next().unwrap();
    assert!(
        !first.is_uppercase() || text.starts_with("UDP "),
        "begins as a sentence within one: {text}"
    );
    assert!(!text.ends_with(['.', '!', '\n']), "{text}");
    assert!(!text.contains('\n') && text.len() < 600, "{text}");
    assert!(!text.contains("Error") && !text.contains("{"), "{text}");
    (text, error.hint())
}

/// The same, in `dir`; once it is mended, nothing is left of the failure.
async fn refused_in(dir: &Path) -> (String, Option<String>) {
    refused(builder(dir, "home")).await
}

/// Starts, and tells whether the last run is said to have crashed.
async fn starts_cleanly(dir: &Path) -> bool {
    let node = builder(dir, "home").spawn().await.unwrap();
    let rows = node
        .client()
        .call_json("audit/list", &json!({ "outcome": "unclean-start" }))
        .await
        .unwrap();
    node.shutdown(std::time::Duration::ZERO).await;
    rows["rows"].as_array().unwrap().is_empty()
}

fn expose(path: &Path) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
}

fn hide(path: &Path) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

/// Changes four bytes of the header of a SQLite file
/// (<https://www.sqlite.org/fileformat.html>).
fn patch(database: &Path, at: usize, value: u32) -> Vec<u8> {
    let before = std::fs::read(database).unwrap();
    let mut bytes = before.clone();
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    std::fs::write(database, bytes).unwrap();
    before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_used_by_one_node() {
    let home = start("home").await;
    let (text, hint) = refused_in(home.dir.path()).await;
    let pid = std::process::id();
    assert_eq!(
        text,
        format!(
            "data directory `{}` is in use by process {pid}",
            home.dir.path().display()
        )
    );
    assert!(hint.unwrap().contains("alknet down"));
    home.told("node/info", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_others_may_read_are_refused_with_the_command_that_mends_it() {
    let dir = used().await;
    for name in ["owner.key", "vault.json", "vault.key", "alknet.db"] {
        let path = dir.path().join(name);
        expose(&path);
        let (text, hint) = refused_in(dir.path()).await;
        assert!(text.contains(name), "{text}");
        assert_eq!(hint.unwrap(), format!("chmod go= {}", path.display()));
        hide(&path);
    }
    assert!(starts_cleanly(dir.path()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_of_others_and_of_the_future_are_left_alone() {
    let dir = used().await;
    let database = dir.path().join("alknet.db");
    let newer = patch(&database, 60, 999);
    let (text, hint) = refused_in(dir.path()).await;
    assert!(
        text.contains("has format 999") && text.contains("newest known"),
        "{text}"
    );
    assert!(hint.unwrap().contains("update this one"));
    assert_ne!(
        std::fs::read(&database).unwrap(),
        newer,
        "the file is not changed back"
    );
    std::fs::write(&database, &newer).unwrap();

    let own = patch(&database, 68, 0x1234_5678);
    let (text, hint) = refused_in(dir.path()).await;
    assert!(text.ends_with("is a database of another program"), "{text}");
    assert!(hint.unwrap().contains("move it away"));
    std::fs::write(&database, &own).unwrap();

    std::fs::write(&database, vec![7; 8192]).unwrap();
    let (text, hint) = refused_in(dir.path()).await;
    assert!(text.ends_with("is damaged"), "{text}");
    assert!(hint.unwrap().contains("move it away"));
    std::fs::write(&database, &own).unwrap();
    assert!(starts_cleanly(dir.path()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_and_missing_keys_lead_to_the_words() {
    let dir = used().await;
    let (vault, key) = (dir.path().join("vault.json"), dir.path().join("vault.key"));
    let (vault_text, key_text) = (std::fs::read(&vault).unwrap(), std::fs::read(&key).unwrap());
    let write = |path: &PathBuf, text: &[u8]| {
        std::fs::write(path, text).unwrap();
        hide(path);
    };
    write(&vault, &vault_text[..vault_text.len() / 2]);
    let (text, hint) = refused_in(dir.path()).await;
    assert!(
        text.contains("vault.json") && text.contains("is damaged"),
        "{text}"
    );
    assert!(hint.unwrap().contains("alknet init --restore -"));
    write(&vault, &vault_text);

    std::fs::remove_file(&key).unwrap();
    let (text, hint) = refused_in(dir.path()).await;
    assert!(
        text.contains("vault.key") && text.contains("is missing"),
        "{text}"
    );
    assert!(hint.unwrap().contains("alknet init --restore -"));
    write(&key, &key_text);

    // With new keys it would be another node, which nobody knows.
    std::fs::remove_file(&vault).unwrap();
    let (text, hint) = refused_in(dir.path()).await;
    assert!(
        text.ends_with("holds a node's database and no keys"),
        "{text}"
    );
    assert!(hint.unwrap().contains("alknet init --restore -"));
    write(&vault, &vault_text);
    assert!(starts_cleanly(dir.path()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named() {
    let dir = used().await;
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (text, hint) = refused(builder(dir.path(), "home").bind(address)).await;
    assert_eq!(
        text,
        format!("UDP port {} is taken on 127.0.0.1", address.port())
    );
    assert!(hint.unwrap().contains("--bind ADDR:PORT"));
    let foreign = builder(dir.path(), "home").bind("203.0.113.9:9".parse().unwrap());
    let (text, _) = refused(foreign).await;
    assert_eq!(text, "cannot listen on 203.0.113.9:9");
    assert!(starts_cleanly(dir.path()).await);
}

/// A port that was picked, not named, gives way, and that is said in the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_was_picked_and_is_taken_is_replaced() {
    let dir = used().await;
    let port = std::fs::read_to_string(dir.path().join("port")).unwrap();
    let port: u16 = port.trim().parse().unwrap();
    let _taken = eventually("the node has let go of it", async || {
        UdpSocket::bind(("127.0.0.1", port)).ok()
    })
    .await;
    let node = builder(dir.path(), "home").spawn().await.unwrap();
    let status = node.status();
    assert!(!status.addresses[0].ends_with(&format!(":{port}")));
    let told = format!("another program has UDP port {port}, at which peers look");
    assert!(
        status.notes.iter().any(|note| note.starts_with(&told)),
        "{:?}",
        status.notes
    );
    node.shutdown(std::time::Duration::ZERO).await;
    // Peers look there still: it stays the node's.
    let kept = std::fs::read_to_string(dir.path().join("port")).unwrap();
    assert_eq!(kept.trim(), port.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_configuration_is_named() {
    let dir = used().await;
    let config = dir.path().join("alknet.toml");
    let path = config.display().to_string();
    let cases: [(&str, &[&str], Option<&str>); 14] = [
        (
            "name = \"home\"\n\n[netwrok]\nbind = \"127.0.0.1:0\"\n",
            &[&path, "line 3", "`netwrok`"],
            Some("did you mean `network`?"),
        ),
        (
            "[limits]\nrate_brust = 3\n",
            &["line 2", "`rate_brust`"],
            Some("did you mean `rate_burst`?"),
        ),
        ("name = \n", &["line 1"], None),
        ("[limits]\nrate_burst = \"x\"\n", &["line 2"], None),
        (
            "[limits]\nconnections_per_identity_max = 0\n",
            &["`limits.connections_per_identity_max`", "too small"],
            None,
        ),
        (
            "[limits]\nstream_window_bytes = 16777216\n",
            &["`limits.stream_window_bytes`", "2 MiB"],
            None,
        ),
        ("name = \"Not A Name\"\n", &["`name`"], None),
        (
            "[network]\nrelays = [\"http://relay.example.org\"]\n",
            &["`network.relays`", "https"],
            None,
        ),
        (
            "[[role]]\nname = \"admin\"\n",
            &["role `admin`", "built-in"],
            None,
        ),
        (
            "[[role]]\nname = \"a\"\n[[role]]\nname = \"a\"\n",
            &["role `a`", "twice"],
            None,
        ),
        (
            "[[role]]\nname = \"a\"\nscopes = [\"Not A Scope\"]\n",
            &["role `a`", "Not A Scope"],
            None,
        ),
        (
            "[[role]]\nname = \"a\"\nscopes = [\"editor\"]\n",
            &["role `a`", "roles contain no roles"],
            None,
        ),
        (
            "[[role]]\nname = \"a\"\nresources = { door = { \"x\" = [\"open\"] } }\n",
            &["role `a`", "`door`"],
            None,
        ),
        (
            "[[operation]]\nname = \"node/info\"\nsummary = \"Tells the time.\"\nkind = \"query\"\ncommand = [\"date\"]\n",
            &["node/info"],
            None,
        ),
    ];
    for (text, named, hint) in cases {
        std::fs::write(&config, runs_commands() + text).unwrap();
        let lines = runs_commands().lines().count();
        let named: Vec<String> = named
            .iter()
            .map(|part| match part.strip_prefix("line ") {
                Some(line) => format!("line {}", line.parse::<usize>().unwrap() + lines),
                None => (*part).to_owned(),
            })
            .collect();
        // Top-level fields come before any table.
        let (said, hinted) = match text.starts_with("name") {
            true => {
                std::fs::write(&config, text).unwrap();
                refused_in(dir.path()).await
            }
            false => refused_in(dir.path()).await,
        };
        for part in &named {
            let plain = part.starts_with("line ") && text.starts_with("name");
            assert!(plain || said.contains(part), "{part} in: {said}");
        }
        if hint.is_some() {
            assert_eq!(hinted.as_deref(), hint, "{said}");
        }
    }
    std::fs::write(&config, b"name = \"\xff\"").unwrap();
    let (text, _) = refused_in(dir.path()).await;
    assert!(text.contains("line 1") && text.contains("UTF-8"), "{text}");
    std::fs::remove_file(&config).unwrap();
    std::fs::create_dir(&config).unwrap();
    let (text, _) = refused_in(dir.path()).await;
    assert_eq!(text, format!("failed to read configuration `{path}`"));
    std::fs::remove_dir(&config).unwrap();
    let missing = dir.path().join("other.toml");
    let (text, hint) = refused(builder(dir.path(), "home").config_file(&missing)).await;
    assert!(text.contains("other.toml"), "{text}");
    assert!(hint.unwrap().contains("touch"));
    assert!(starts_cleanly(dir.path()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_program_says_is_checked_too() {
    let dir = tempfile::tempdir().unwrap();
    let (text, _) = refused(builder(dir.path(), "Not A Name")).await;
    assert!(text.contains("`name`"), "{text}");
    let (text, hint) = refused(builder(dir.path(), "home").relays(["none", "n0"])).await;
    assert_eq!(text, "relay `none` excludes others");
    assert!(hint.unwrap().contains("--relay"));
    let (text, _) = refused(builder(dir.path(), "home").relays(["relay"])).await;
    assert!(text.contains("`relay`"), "{text}");
    let error = alknet_node::Node::builder().spawn().await.unwrap_err();
    assert!(matches!(error, StartError::NoDataDir), "{error:?}");
    let double = || {
        alknet_core::Operation::query("test/double", "Doubles.")
            .handler(|_cx, n: u32| async move { Ok(n * 2) })
    };
    let (text, _) = refused(builder(dir.path(), "home").operations([double(), double()])).await;
    assert!(text.contains("`test/double`"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_bring_the_same_node_back() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let made = init(&first.path().join("data"), &InitOptions::default()).unwrap();
    let words = made.words.unwrap();
    assert_eq!(words.split(' ').count(), 24);
    let restored = init(
        second.path(),
        &InitOptions {
            words: Some(&words),
            ..InitOptions::default()
        },
    );
    let restored = restored.unwrap();
    assert_eq!(restored.node_id, made.node_id);
    assert!(restored.words.is_none());
    assert_eq!(
        alknet_node::check_keys(second.path()).unwrap(),
        Some(made.node_id.clone())
    );
    let node = builder(second.path(), "home").spawn().await.unwrap();
    assert_eq!(node.status().node_id, made.node_id);
    let local = alknet_node::control::connect(second.path()).await.unwrap();
    local.close().await;
    node.shutdown(std::time::Duration::ZERO).await;

    let again = init(second.path(), &InitOptions::default()).unwrap_err();
    assert!(matches!(again, InitError::Exists(_)), "{again:?}");
    assert!(again.hint().unwrap().contains("alknet up"));
    let wrong = InitOptions {
        words: Some("all these words are wrong"),
        ..InitOptions::default()
    };
    let error = init(&first.path().join("other"), &wrong).unwrap_err();
    assert_eq!(error.to_string(), "these words cannot bring a node back");
    assert!(!first.path().join("other").exists());
}

/// The words of another node, restored beside an old database: its owner
/// still gets in.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_key_changed_is_still_the_owner() {
    let dir = used().await;
    let other = tempfile::tempdir().unwrap();
    let words = init(other.path(), &InitOptions::default()).unwrap();
    let words = words.words.unwrap();
    for name in ["vault.json", "vault.key", "owner.key"] {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    let options = InitOptions {
        words: Some(&words),
        ..InitOptions::default()
    };
    let restored = init(dir.path(), &options).unwrap();
    let node = builder(dir.path(), "home").spawn().await.unwrap();
    assert_eq!(node.status().node_id, restored.node_id);
    let local = alknet_node::control::connect(dir.path()).await.unwrap();
    let peers = local.client.call_json("peers/list", &json!({})).await;
    assert_eq!(peers.unwrap()["peers"][0]["peer"], "owner");
    local.close().await;
    node.shutdown(std::time::Duration::ZERO).await;
}
