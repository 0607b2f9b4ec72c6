//! The vault of a node, the credentials that it seals, and whom they are given.

use crate::support::*;
use alknet_core::{
    CallError, Context, ErrorCode, Operation, Registration, Secret, storage::CredentialStore,
};
use alknet_node::{
    InitOptions, NodeBuilder, OpenKeysError, ProtectError, Protection, ReplaceError, Replacement,
    StartError, init, protect, protection,
};
use alknet_store::{JobError, Store, rusqlite};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// What must be found nowhere but sealed.
const TOKEN: &str = "canary-0123456789-token";

/// What an operation reads, or why it cannot.
fn reads(cx: &Context, provider: &str, account: &str) -> Result<String, CallError> {
    let secret = cx.credential(provider, account)?;
    // The whole of it would be a leak in a real one.
    Ok(format!("{} bytes", secret.expose().len()))
}

/// Needs `github/ada`.
fn declared() -> Registration {
    Operation::mutation("issues/open", "Opens an issue.")
        .credential("github", "ada")
        .authority("issues", &["*"], &[])
        .reaches("issues/*")
        .handler(|cx: Context, other: Option<String>| async move {
            match other {
                // Another operation, with what this one holds.
                Some(other) => cx.env().call(&other, &json!(null)).await,
                None => reads(&cx, "github", "ada"),
            }
        })
}

/// Asks for what it did not declare.
fn undeclared(name: &str) -> Registration {
    Operation::mutation(name, "Asks for the credential of another.")
        .authority("thief", &["*"], &[])
        .reaches("issues/*")
        .handler(|cx: Context, other: Option<String>| async move {
            if let Some(other) = other {
                let _: String = cx.env().call(&other, &json!(null)).await?;
            }
            reads(&cx, "github", "ada")
        })
}

fn with_operations(builder: NodeBuilder) -> NodeBuilder {
    builder
        .operation(declared())
        .operation(undeclared("issues/steal"))
}

async fn put(node: &TestNode, account: &str, secret: &str) -> Value {
    let input = json!({ "provider": "github", "account": account, "secret": secret });
    node.told("credentials/put", input).await
}

#[track_caller]
fn refused(asked: Result<Value, CallError>, reason: &str) -> CallError {
    let error = asked.unwrap_err();
    assert!(error.is(ErrorCode::Unavailable), "{error:?}");
    assert_eq!(
        error.details.as_ref().unwrap()["reason"],
        reason,
        "{error:?}"
    );
    assert_eq!(error.details.as_ref().unwrap()["credential"], "github/ada");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_given_to_the_operation_that_declared_it() {
    let mut node = start_with("home", with_operations).await;
    let error = refused(node.ask("issues/open", json!(null)).await, "missing");
    assert!(
        error
            .message
            .ends_with("there: alknet credentials put github ada"),
        "{error:?}"
    );
    let stored = put(&node, "ada", TOKEN).await;
    assert_eq!(stored["used_by"], json!(["issues/open"]));
    assert_eq!(stored["key_version"], 1);
    // At once, without a restart, and again after one.
    let told = node.told("issues/open", json!(null)).await;
    assert_eq!(told, format!("{} bytes", TOKEN.len()));
    node.stop().await;
    node.start_again_with(with_operations).await;
    let told = node.told("issues/open", json!(null)).await;
    assert_eq!(told, format!("{} bytes", TOKEN.len()));

    put(&node, "ada", "other").await;
    assert_eq!(node.told("issues/open", json!(null)).await, "5 bytes");
    let ada = json!({ "provider": "github", "account": "ada" });
    node.told("credentials/remove", ada.clone()).await;
    refused(node.ask("issues/open", json!(null)).await, "missing");
    let again = node.ask("credentials/remove", ada).await.unwrap_err();
    assert!(again.is(ErrorCode::NotFound), "{again:?}");
    let list = node.told("credentials/list", json!({})).await;
    assert_eq!(
        list,
        json!({ "credentials": [], "missing": [{ "provider": "github", "account": "ada", "used_by": ["issues/open"] }] })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_another_operation_nor_one_above_or_below_has_the_credential() {
    let node = start_with("home", with_operations).await;
    put(&node, "ada", TOKEN).await;
    // By itself; called by the one that has it; calling the one that has it.
    for (operation, input) in [
        ("issues/steal", json!(null)),
        ("issues/open", json!("issues/steal")),
        ("issues/steal", json!("issues/open")),
    ] {
        let error = node.ask(operation, input).await.unwrap_err();
        assert!(error.is(ErrorCode::Internal), "{error:?}");
    }
    let told = node.told("issues/open", json!("issues/open")).await;
    assert_eq!(told, format!("{} bytes", TOKEN.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_call_it_does_not_hear_which_credential_is_missing() {
    let pair = Pair::with(&["reader"], &[], with_operations, |laptop| laptop).await;
    let client = pair.at_home();
    let error = ask(client, "issues/open", json!(null)).await.unwrap_err();
    assert!(!error.is(ErrorCode::Unavailable), "{error:?}");
    assert!(!error.to_string().contains("github"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_credential_is_refused_without_repeating_it() {
    let node = start("home").await;
    let long = format!("{TOKEN}{}", "x".repeat(64 * 1024));
    for input in [
        json!({ "provider": TOKEN.to_uppercase(), "account": "ada", "secret": "s" }),
        json!({ "provider": "github", "account": "a/b", "secret": TOKEN }),
        json!({ "provider": "github", "account": "ada", "secret": "" }),
        json!({ "provider": "github", "account": "ada", "secret": long }),
        json!({ "provider": "github", "account": "ada", "secret": [TOKEN] }),
        json!({ "provider": "github", "account": "ada", "secret": TOKEN, "more": TOKEN }),
    ] {
        let error = node.ask("credentials/put", input).await.unwrap_err();
        assert!(error.is(ErrorCode::InvalidInput), "{error:?}");
        let said = format!("{error:?}").to_lowercase();
        assert!(!said.contains(TOKEN), "{said}");
    }
    let most = "x".repeat(64 * 1024);
    put(&node, "ada", &most).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_nowhere_but_sealed() {
    let mut node = start_with("home", with_operations).await;
    let client = node.client().idempotency_key("once");
    let input = json!({ "provider": "github", "account": "ada", "secret": TOKEN });
    client.call_json("credentials/put", &input).await.unwrap();
    node.told("issues/open", json!(null)).await;
    let mut shown = node.told("credentials/list", json!({})).await.to_string();
    for filter in [json!({}), json!({ "operation": "credentials/*" })] {
        shown.push_str(&json!(node.audit(filter).await).to_string());
    }
    assert!(shown.contains("github/ada"), "{shown}");
    assert!(!shown.contains(TOKEN), "{shown}");
    // No hash of it either, which could be tried out: nothing is known of the
    // input of the call before.
    let other = json!({ "provider": "github", "account": "ada", "secret": "other" });
    client.call_json("credentials/put", &other).await.unwrap();
    client.call_json("credentials/put", &input).await.unwrap();
    node.stop().await;
    for file in fs::read_dir(node.dir.path()).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            // The inbox: nothing was put there.
            assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let found = bytes
            .windows(TOKEN.len())
            .any(|window| window == TOKEN.as_bytes());
        assert!(!found, "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_vault_gives_no_credential_and_the_node_goes_on() {
    let node = start_with("home", with_operations).await;
    put(&node, "ada", TOKEN).await;
    let locked = node.told("vault/lock", json!({})).await;
    assert_eq!(
        locked,
        json!({ "protection": "key-file", "locked": true, "key_version": 1, "credentials": 1 })
    );
    refused(node.ask("issues/open", json!(null)).await, "locked");
    for (operation, input) in [
        (
            "credentials/put",
            json!({ "provider": "a", "account": "b", "secret": "c" }),
        ),
        ("vault/rotate", json!({})),
    ] {
        let error = node.ask(operation, input).await.unwrap_err();
        assert!(error.is(ErrorCode::Unavailable), "{error:?}");
        assert!(error.message.contains("alknet vault unlock"), "{error:?}");
    }
    // Everything else goes on; a removal needs no key.
    node.told("node/info", json!({})).await;
    let unlocked = node.told("vault/unlock", json!({})).await;
    assert_eq!(unlocked["locked"], false);
    node.told("issues/open", json!(null)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_seals_everything_anew() {
    let mut node = start_with("home", with_operations).await;
    put(&node, "ada", TOKEN).await;
    let sealed = |rows: Vec<alknet_core::storage::SealedCredential>| rows[0].sealed.clone();
    let rotated = node.told("vault/rotate", json!({})).await;
    // The credential, and the secret of the node's network.
    assert_eq!(
        rotated,
        json!({ "key_version": 2, "resealed": 2, "left": 0 })
    );
    node.told("issues/open", json!(null)).await;
    let list = node.told("credentials/list", json!({})).await;
    assert_eq!(list["credentials"][0]["key_version"], 2);
    assert_eq!(put(&node, "eve", "x").await["key_version"], 2);
    node.stop().await;
    let store = Store::open(&node.dir.path().join("alknet.db")).unwrap();
    assert_eq!(store.networks().await.unwrap()[0].key_version, 2);
    assert!(!sealed(store.credentials().await.unwrap()).is_empty());
    store.close().await;
    node.start_again_with(with_operations).await;
    node.told("issues/open", json!(null)).await;
    assert_eq!(node.told("vault/status", json!({})).await["key_version"], 2);
}

async fn change_database(dir: &Path, sql: &'static str) {
    let store = Store::open(&dir.join("alknet.db")).unwrap();
    let changed = store.write(move |connection| connection.execute_batch(sql).map_err(Failed::Sql));
    changed.await.unwrap();
    store.close().await;
}

#[derive(Debug)]
#[allow(dead_code)] // Shown by `unwrap`.
enum Failed {
    Sql(rusqlite::Error),
    Job(JobError),
}

impl From<JobError> for Failed {
    fn from(error: JobError) -> Self {
        Self::Job(error)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_swapped_or_changed_in_the_file_do_not_open() {
    for sql in [
        "CREATE TEMP TABLE both AS SELECT account, sealed FROM credentials;
         UPDATE credentials SET sealed = (SELECT sealed FROM both WHERE both.account <> credentials.account);",
        "UPDATE credentials SET account = 'ada2' WHERE account = 'ada';
         UPDATE credentials SET account = 'ada' WHERE account = 'eve';",
        "UPDATE credentials SET key_version = 2;",
        "UPDATE credentials SET sealed = substr(sealed, 1, length(sealed) - 1);",
    ] {
        let mut node = start_with("home", with_operations).await;
        put(&node, "ada", TOKEN).await;
        put(&node, "eve", "of eve").await;
        node.told("issues/open", json!(null)).await;
        node.stop().await;
        change_database(node.dir.path(), sql).await;
        node.start_again_with(with_operations).await;
        refused(node.ask("issues/open", json!(null)).await, "unreadable");
        // A rotation leaves what does not open, and says so; putting it helps.
        let rotated = node.told("vault/rotate", json!({})).await;
        assert_ne!(rotated["left"], 0, "{sql}");
        put(&node, "ada", TOKEN).await;
        node.told("issues/open", json!(null)).await;
    }
}

fn secret(text: &str) -> Secret {
    Secret::new(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passphrase_protects_the_keys() {
    let mut node = start_with("home", |builder| {
        with_operations(builder).passphrase(secret("correct horse"))
    })
    .await;
    let dir = node.dir.path().to_owned();
    let id = node.status().node_id;
    assert_eq!(protection(&dir).unwrap(), Some(Protection::Passphrase));
    assert!(!dir.join("vault.key").exists());
    assert_eq!(alknet_node::check_keys(&dir).unwrap(), None);
    put(&node, "ada", TOKEN).await;
    node.told("vault/lock", json!({})).await;
    for (input, code) in [
        (json!({}), "PASSPHRASE_NEEDED"),
        (json!({ "passphrase": "wrong horse" }), "WRONG_PASSPHRASE"),
    ] {
        let error = node.ask("vault/unlock", input).await.unwrap_err();
        assert_eq!(error.code, code);
        assert!(!format!("{error:?}").contains("horse"), "{error:?}");
    }
    // Whoever guesses does it once at a time, and slowly.
    let begun = std::time::Instant::now();
    let guess = || node.ask("vault/unlock", json!({ "passphrase": "wrong horse" }));
    let (one, other) = tokio::join!(guess(), guess());
    let mut codes = [one.unwrap_err().code, other.unwrap_err().code];
    codes.sort();
    assert_eq!(codes, ["RATE_LIMITED", "WRONG_PASSPHRASE"]);
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1));
    refused(node.ask("issues/open", json!(null)).await, "locked");
    let unlocked = node
        .told("vault/unlock", json!({ "passphrase": "correct horse" }))
        .await;
    assert_eq!(unlocked["locked"], false);
    node.told("issues/open", json!(null)).await;

    // While it runs: it goes on, and is unlocked with the new one.
    protect(
        &dir,
        Some(&secret("correct horse")),
        Some(&secret("battery")),
    )
    .unwrap();
    node.told("issues/open", json!(null)).await;
    let old = json!({ "passphrase": "correct horse" });
    assert_eq!(
        node.ask("vault/unlock", old).await.unwrap_err().code,
        "WRONG_PASSPHRASE"
    );
    node.told("vault/unlock", json!({ "passphrase": "battery" }))
        .await;
    node.stop().await;

    let none = builder(&dir, "home").spawn().await.unwrap_err();
    assert!(
        matches!(none, StartError::Keys(OpenKeysError::PassphraseNeeded)),
        "{none:?}"
    );
    assert!(none.hint().unwrap().contains("--passphrase-file"));
    let wrong = builder(&dir, "home").passphrase(secret("correct horse"));
    let wrong = wrong.spawn().await.unwrap_err();
    assert!(
        matches!(wrong, StartError::Keys(OpenKeysError::Unlock(_))),
        "{wrong:?}"
    );
    node.start_again_with(|builder| with_operations(builder).passphrase(secret("battery")))
        .await;
    assert_eq!(node.status().node_id, id);
    node.told("issues/open", json!(null)).await;
    node.stop().await;

    let wrong = protect(&dir, Some(&secret("correct horse")), None).unwrap_err();
    assert!(matches!(wrong, ProtectError::Unlock(_)), "{wrong:?}");
    protect(&dir, Some(&secret("battery")), None).unwrap();
    node.start_again_with(with_operations).await;
    assert_eq!(node.status().node_id, id);
}

/// Files of a vault, as they were.
struct Kept(Vec<(&'static str, Option<Vec<u8>>)>);

impl Kept {
    fn of(dir: &Path, names: &[&'static str]) -> Self {
        let files = names
            .iter()
            .map(|name| (*name, fs::read(dir.join(name)).ok()));
        Self(files.collect())
    }

    fn put_back(&self, dir: &Path) {
        use std::os::unix::fs::PermissionsExt;
        for (name, bytes) in &self.0 {
            let path = dir.join(name);
            match bytes {
                Some(bytes) => {
                    fs::write(&path, bytes).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
                }
                None => drop(fs::remove_file(&path)),
            }
        }
    }
}

/// Whether a node starts here, and which; with its credential and its peers.
async fn works(node: &mut TestNode, id: &str) {
    node.start_again_with(with_operations).await;
    assert_eq!(node.status().node_id, id);
    let told = node.told("issues/open", json!(null)).await;
    assert_eq!(told, format!("{} bytes", TOKEN.len()));
    node.told("peers/show", json!({ "peer": "nas" })).await;
    // The command line gets in with the owner's key.
    let local = alknet_node::control::connect(node.dir.path())
        .await
        .unwrap();
    let called = local.client.call_json("node/info", &json!({})).await;
    assert_eq!(called.unwrap()["node_id"], id);
    local.close().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_is_replaced_leaves_all_but_the_keys_and_may_be_cut_anywhere() {
    let mut node = start_with("home", with_operations).await;
    put(&node, "ada", TOKEN).await;
    node.told("vault/rotate", json!({})).await;
    node.told("peers/add", json!({ "peer": "nas" })).await;
    let dir = node.dir.path().to_owned();
    let running = Replacement::prepare(&dir, None).await.unwrap_err();
    assert!(matches!(running, ReplaceError::Lock(_)), "{running:?}");
    node.stop().await;
    let old_id = alknet_node::check_keys(&dir).unwrap().unwrap();
    let names = ["vault.json", "vault.next.json", "owner.key"];

    // Prepared, and cut before the database went over: nothing happened.
    let next = Replacement::prepare(&dir, None).await.unwrap();
    assert_eq!(next.old_node_id(), old_id);
    drop(next);
    assert!(dir.join("vault.next.json").exists());
    works(&mut node, &old_id).await;
    assert!(!dir.join("vault.next.json").exists());

    let next = Replacement::prepare(&dir, None).await.unwrap();
    let (new_id, words) = (next.node_id(), next.words().to_owned());
    assert_ne!(new_id, old_id);
    let before = Kept::of(&dir, &names);
    let done = next.commit().await.unwrap();
    assert_eq!((done.node_id.as_str(), done.left), (new_id.as_str(), 0));
    assert_eq!(done.resealed, 2);
    let after = Kept::of(&dir, &names);
    // Cut after the database went over, before the files did.
    before.put_back(&dir);
    works(&mut node, &new_id).await;
    // Cut between the two files.
    after.put_back(&dir);
    Kept(vec![("owner.key", before.0[2].1.clone())]).put_back(&dir);
    works(&mut node, &new_id).await;
    // The words are those of the new keys.
    let other = tempfile::tempdir().unwrap();
    let options = InitOptions {
        words: Some(&words),
        ..InitOptions::default()
    };
    assert_eq!(init(other.path(), &options).unwrap().node_id, new_id);
    // The old vault opens nothing of it.
    Kept(vec![before.0[0].clone()]).put_back(&dir);
    node.start_again_with(with_operations).await;
    refused(node.ask("issues/open", json!(null)).await, "unreadable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_under_a_passphrase_is_replaced_under_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let phrase = secret("correct horse");
    let options = InitOptions {
        passphrase: Some(&phrase),
        ..InitOptions::default()
    };
    let made = init(dir.path(), &options).unwrap();
    let none = Replacement::prepare(dir.path(), None).await.unwrap_err();
    assert!(matches!(none, ReplaceError::PassphraseNeeded), "{none:?}");
    let wrong = Replacement::prepare(dir.path(), Some(secret("wrong"))).await;
    let wrong = wrong.unwrap_err();
    assert!(matches!(wrong, ReplaceError::Unlock(_)), "{wrong:?}");
    // It never ran, so there is no database yet.
    let next = Replacement::prepare(dir.path(), Some(secret("correct horse")));
    let next = next.await.unwrap();
    next.discard().unwrap();
    let next = Replacement::prepare(dir.path(), Some(secret("correct horse")));
    let done = next.await.unwrap().commit().await.unwrap();
    assert_ne!(done.node_id, made.node_id);
    let node = builder(dir.path(), "home")
        .passphrase(phrase)
        .spawn()
        .await
        .unwrap();
    assert_eq!(node.status().node_id, done.node_id);
    node.shutdown(DRAIN).await;
}
