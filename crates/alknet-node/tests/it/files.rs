//! Buckets of a node: configured, embedded, read again.

use crate::support::{Known, TestNode, start, start_configured, start_with};
use alknet_core::ErrorCode;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

fn write(node: &TestNode, text: &str) {
    std::fs::write(node.dir.path().join("alknet.toml"), text).unwrap();
}

fn bucket(name: &str, path: &Path) -> String {
    let path = path.display();
    format!("[[bucket]]\nname = \"{name}\"\npath = \"{path}\"\n")
}

async fn names(node: &TestNode) -> Vec<String> {
    let reply = node.told("fs/buckets", json!({})).await;
    let buckets = reply["buckets"].as_array().unwrap().iter();
    let named = buckets.map(|bucket| bucket["name"].as_str().unwrap().to_owned());
    named.collect()
}

async fn put(node: &TestNode, file: &str, text: &str) -> Value {
    let input = json!({ "file": file, "text": text });
    node.told("fs/write-text", input).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_has_an_inbox_for_itself_alone_with_nothing_configured() {
    use std::os::unix::fs::PermissionsExt;
    let home = start("home").await;
    assert_eq!(names(&home).await, ["inbox"]);
    put(&home, "inbox/a", "hello").await;
    let inbox = home.dir.path().join("inbox");
    assert_eq!(std::fs::read_to_string(inbox.join("a")).unwrap(), "hello");
    let mode = std::fs::metadata(&inbox).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // What the roles give reaches it, and nothing else does.
    let reader = Known::to(&home, "reader", &["reader"]).await;
    let stat = json!({ "file": "inbox/a" });
    assert_eq!(
        reader.call_json("fs/stat", &stat).await.unwrap()["bytes"],
        5
    );
    let text = json!({ "file": "inbox/b", "text": "x" });
    let refused = reader.call_json("fs/write-text", &text).await.unwrap_err();
    assert!(refused.is(ErrorCode::Forbidden), "{refused:?}");
    let none = Known::to(&home, "none", &["node:read"]).await;
    let refused = none.call_json("fs/stat", &stat).await.unwrap_err();
    assert!(refused.is(ErrorCode::Forbidden), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_that_is_switched_off_is_not_there() {
    let home = start_configured("home", "[files]\ninbox = false\n").await;
    assert_eq!(names(&home).await, Vec::<String>::new());
    assert!(!home.dir.path().join("inbox").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_change_live_and_a_bad_file_changes_nothing() {
    let (www, media) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    std::fs::write(www.path().join("motd"), "hello").unwrap();
    let home = start_configured("home", &bucket("www", www.path())).await;
    assert_eq!(names(&home).await, ["inbox", "www"]);
    let stat = json!({ "file": "www/motd" });
    assert_eq!(home.told("fs/stat", stat.clone()).await["bytes"], 5);

    let both = bucket("www", www.path()) + "read_only = true\n" + &bucket("media", media.path());
    write(&home, &both);
    let report = home.told("node/reload", json!({})).await;
    assert_eq!(
        report,
        json!({ "applied": ["bucket"], "needs_restart": [] })
    );
    assert_eq!(names(&home).await, ["inbox", "media", "www"]);
    put(&home, "media/a", "x").await;
    let text = json!({ "file": "www/b", "text": "x" });
    let refused = home.ask("fs/write-text", text).await.unwrap_err();
    assert_eq!(refused.code, "READ_ONLY", "{refused:?}");

    let inside = home.dir.path().join("own");
    for bad in [
        bucket("Bad", www.path()),
        bucket("www", Path::new("relative")),
        bucket("www", www.path()) + &bucket("www", media.path()),
        bucket("own", &inside),
        bucket("own", home.dir.path()),
        bucket("www", www.path()) + "quota = \"10 parsecs\"\n",
        bucket("www", www.path()) + "quota = 0\n",
    ] {
        write(&home, &bad);
        let refused = home.ask("node/reload", json!({})).await.unwrap_err();
        assert!(refused.is(ErrorCode::Conflict), "{bad}: {refused:?}");
        assert_eq!(names(&home).await, ["inbox", "media", "www"], "{bad}");
    }

    write(&home, "[files]\ninbox = false\n");
    let report = home.reload().await.unwrap();
    assert_eq!(report.applied, ["files", "bucket"]);
    assert_eq!(names(&home).await, Vec::<String>::new());
    let gone = home.ask("fs/stat", stat).await.unwrap_err();
    assert_eq!(gone.code, "NO_SUCH_BUCKET", "{gone:?}");
    // The files of a bucket that goes are nobody's business.
    assert!(www.path().join("motd").exists() && home.dir.path().join("inbox").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_without_its_directory_keeps_no_node_from_its_start() {
    let above = TempDir::new().unwrap();
    let path = above.path().join("later");
    let home = start_configured("home", &bucket("later", &path)).await;
    let reply = home.told("fs/buckets", json!({})).await;
    let later = reply["buckets"].as_array().unwrap().iter();
    let later = later.clone().find(|bucket| bucket["name"] == "later");
    assert!(later.unwrap()["unavailable"].is_string(), "{reply}");
    let stat = json!({ "file": "later/a" });
    let missing = home.ask("fs/stat", stat.clone()).await.unwrap_err();
    assert_eq!(missing.code, "NO_SUCH_BUCKET", "{missing:?}");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("a"), "hello").unwrap();
    assert_eq!(home.told("fs/stat", stat).await["bytes"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_directory_exists_through_no_bucket() {
    let above = TempDir::new().unwrap();
    let data = above.path().join("data");
    let node = crate::support::builder(&data, "home");
    let node = node.bucket("above", above.path()).spawn().await.unwrap();
    std::fs::write(above.path().join("mine"), "x").unwrap();
    let client = node.client();
    let list = json!({ "file": "above" });
    let listed = client.call_json("fs/list", &list).await.unwrap();
    let entries = listed["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 1, "{listed}");
    assert_eq!(entries[0]["name"], "mine");
    for file in ["above/data", "above/data/owner.key", "above/data/inbox"] {
        let stat = json!({ "file": file });
        let missing = client.call_json("fs/stat", &stat).await.unwrap_err();
        assert_eq!(missing.code, "NO_SUCH_FILE", "{file}: {missing:?}");
    }
    node.shutdown(crate::support::DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_adds_buckets_and_hands_files_to_its_surfaces() {
    let www = TempDir::new().unwrap();
    std::fs::write(www.path().join("motd"), "hello").unwrap();
    let home = start_with("home", |home| home.bucket("www", www.path())).await;
    assert_eq!(names(&home).await, ["inbox", "www"]);
    let caller = alknet_core::Caller::host();
    let permit = home.door().authorize(&caller, "fs/stat").unwrap();
    let motd = "www/motd".parse().unwrap();
    let stat = home.files().stat(&permit, &motd, true).await.unwrap();
    assert_eq!(stat.bytes, 5);
    // It stays when the file is read again.
    write(&home, "[files]\npartials_kept = \"1d\"\n");
    assert_eq!(home.reload().await.unwrap().applied, ["files"]);
    assert_eq!(names(&home).await, ["inbox", "www"]);
}
