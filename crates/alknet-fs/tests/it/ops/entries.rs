//! Operations that answer once.

use super::world::World;
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

fn names(page: &Value) -> Vec<&str> {
    let entries = page["entries"].as_array().unwrap();
    let mut names: Vec<&str> = entries
        .iter()
        .map(|e| e["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn buckets_are_listed_by_name_to_those_who_may_list_in_them() {
    let world = World::new();
    let all = world.did("fs/buckets", json!({})).await;
    let name = |reply: &Value, at: usize| reply["buckets"][at]["name"].clone();
    assert_eq!(
        (name(&all, 0), name(&all, 1)),
        (json!("other"), json!("www"))
    );
    let world = world.granted(&["fs:list", "bucket:www/a/**=list"]);
    let some = world.did("fs/buckets", json!({})).await;
    assert_eq!(some["buckets"].as_array().unwrap().len(), 1);
    assert_eq!(name(&some, 0), "www");
}

#[tokio::test]
async fn a_directory_is_listed_page_by_page() {
    let world = World::new();
    for n in 0..25 {
        world.put(&format!("www/d/{n:02}"), "x");
    }
    let mut seen = Vec::new();
    let mut input = json!({ "file": "www/d", "limit": 10 });
    let mut pages = 0;
    loop {
        let page = world.did("fs/list", input.clone()).await;
        seen.extend(names(&page).iter().map(|name| (*name).to_owned()));
        pages += 1;
        match page.get("next") {
            Some(next) => input["from"] = next.clone(),
            None => break,
        }
    }
    seen.sort();
    assert_eq!(seen, (0..25).map(|n| format!("{n:02}")).collect::<Vec<_>>());
    assert_eq!(pages, 3);
    for limit in [0, 1025] {
        let input = json!({ "file": "www/d", "limit": limit });
        world.fails("fs/list", input, "INVALID_INPUT").await;
    }
    world
        .fails("fs/list", json!({ "file": "www/d/01" }), "NOT_A_DIRECTORY")
        .await;
    world
        .fails("fs/list", json!({ "file": "www/none" }), "NO_SUCH_FILE")
        .await;
    world
        .fails("fs/list", json!({ "file": "none" }), "NO_SUCH_BUCKET")
        .await;
    world
        .fails("fs/list", json!({ "file": "www/../x" }), "INVALID_INPUT")
        .await;
}

#[tokio::test]
async fn a_link_is_followed_or_described_itself() {
    let world = World::new();
    world.put("www/a", "hello");
    symlink("a", world.host("www/link")).unwrap();
    symlink("/etc/passwd", world.host("www/out")).unwrap();
    let followed = world.did("fs/stat", json!({ "file": "www/link" })).await;
    assert_eq!(
        (&followed["kind"], &followed["bytes"]),
        (&json!("file"), &json!(5))
    );
    let itself = json!({ "file": "www/link", "follow": false });
    let itself = world.did("fs/stat", itself).await;
    assert_eq!(
        (&itself["kind"], &itself["target"]),
        (&json!("symlink"), &json!("a"))
    );
    let out = world
        .did("fs/stat", json!({ "file": "www/out", "follow": false }))
        .await;
    assert_eq!((&out["kind"], out.get("target")), (&json!("symlink"), None));
    world
        .fails("fs/stat", json!({ "file": "www/out" }), "LEADS_OUTSIDE")
        .await;
}

#[tokio::test]
async fn a_directory_is_made_with_those_above_it() {
    let world = World::new();
    let deep = json!({ "file": "www/a/b/c", "parents": true, "mode": 0o750 });
    world
        .fails("fs/mkdir", json!({ "file": "www/a/b/c" }), "NO_SUCH_FILE")
        .await;
    let made = world.did("fs/mkdir", deep.clone()).await;
    assert_eq!(
        (&made["created"], &made["stat"]["kind"]),
        (&json!(true), &json!("directory"))
    );
    assert_eq!(world.did("fs/mkdir", deep).await["created"], false);
    world
        .fails("fs/mkdir", json!({ "file": "www/a" }), "FILE_EXISTS")
        .await;
    world.put("www/f", "x");
    let on_file = json!({ "file": "www/f", "parents": true });
    world.fails("fs/mkdir", on_file, "FILE_EXISTS").await;
    let below_file = json!({ "file": "www/f/x/y", "parents": true });
    world.fails("fs/mkdir", below_file, "NOT_A_DIRECTORY").await;
}

/// What is above is there: nobody need be allowed to make it.
#[tokio::test]
async fn directories_above_are_made_as_far_as_they_are_missing() {
    let world = World::new().granted(&["fs:write", "bucket:www/a/b/**=write"]);
    std::fs::create_dir_all(world.host("www/a/b")).unwrap();
    let deep = json!({ "file": "www/a/b/c/d", "parents": true });
    assert_eq!(world.did("fs/mkdir", deep).await["created"], true);
    std::fs::remove_dir_all(world.host("www/a")).unwrap();
    let deep = json!({ "file": "www/a/b/c/d", "parents": true });
    world.fails("fs/mkdir", deep, "FORBIDDEN").await;
}

#[tokio::test]
async fn removal_takes_a_word_for_what_is_not_empty() {
    let world = World::new();
    world.put("www/d/e/f", "x");
    world.put("www/d/g", "x");
    symlink("d", world.host("www/link")).unwrap();
    world
        .fails(
            "fs/remove",
            json!({ "file": "www/d" }),
            "DIRECTORY_NOT_EMPTY",
        )
        .await;
    let link = world.did("fs/remove", json!({ "file": "www/link" })).await;
    assert_eq!(link, json!({ "files": 1, "directories": 0 }));
    assert!(world.host("www/d/g").exists());
    let all = json!({ "file": "www/d", "recursive": true });
    let all = world.did("fs/remove", all).await;
    assert_eq!(all, json!({ "files": 2, "directories": 2 }));
    std::fs::create_dir(world.host("www/empty")).unwrap();
    let empty = world.did("fs/remove", json!({ "file": "www/empty" })).await;
    assert_eq!(empty, json!({ "files": 0, "directories": 1 }));
    world
        .fails("fs/remove", json!({ "file": "www/empty" }), "NO_SUCH_FILE")
        .await;
}

#[tokio::test]
async fn names_change_links_are_made_and_attributes_set() {
    let world = World::new();
    world.put("www/a", "hello");
    world.put("www/b", "there");
    let rename = json!({ "file": "www/a", "to": "www/b" });
    world.fails("fs/rename", rename, "FILE_EXISTS").await;
    let rename = json!({ "file": "www/a", "to": "www/b", "replace": true });
    assert_eq!(world.did("fs/rename", rename).await, json!({}));
    assert_eq!(world.get("www/b"), b"hello");
    let across = json!({ "file": "www/b", "to": "other/b" });
    world.fails("fs/rename", across, "OTHER_FILE_SYSTEM").await;

    let link = json!({ "file": "www/l", "target": "%FF%25" });
    assert_eq!(world.did("fs/link", link).await["stat"]["kind"], "symlink");
    let target = std::fs::read_link(world.host("www/l")).unwrap();
    assert_eq!(
        std::os::unix::ffi::OsStrExt::as_bytes(target.as_os_str()),
        b"\xFF%"
    );
    for out in ["/etc", "../../x"] {
        let link = json!({ "file": "www/m", "target": out });
        world.fails("fs/link", link, "LEADS_OUTSIDE").await;
    }
    let hard = json!({ "file": "www/b", "to": "www/c" });
    assert_eq!(world.did("fs/hard-link", hard).await["stat"]["links"], 2);

    let mtime = "2020-01-02T03:04:05.000000006Z";
    let set = json!({ "file": "www/b", "mode": 0o600, "mtime": mtime, "bytes": 3 });
    let set = world.did("fs/set-attributes", set).await;
    assert_eq!(
        (&set["stat"]["bytes"], &set["stat"]["mode"]),
        (&json!(3), &json!(0o600))
    );
    assert_eq!(set["stat"]["mtime"], mtime);
    let meta = std::fs::metadata(world.host("www/c")).unwrap();
    assert_eq!(
        (meta.mtime_nsec(), meta.permissions().mode() & 0o777),
        (6, 0o600)
    );
    let odd = json!({ "file": "www/b", "mtime": "soon" });
    world.fails("fs/set-attributes", odd, "INVALID_INPUT").await;
    let set_id = json!({ "file": "www/b", "mode": 0o4755 });
    world
        .fails("fs/set-attributes", set_id, "BAD_ARGUMENT")
        .await;
}

#[tokio::test]
async fn texts_are_read_in_parts_and_written_as_wholes() {
    let world = World::new();
    let text = "é".repeat(10);
    let written = json!({ "file": "www/d/t", "text": text, "parents": true });
    let written = world.did("fs/write-text", written).await;
    let mut read = String::new();
    let mut input = json!({ "file": "www/d/t", "bytes": 5 });
    loop {
        let part = world.did("fs/read-text", input.clone()).await;
        assert_eq!(part["version"], written["stat"]["version"]);
        read += part["text"].as_str().unwrap();
        match part.get("next") {
            Some(next) => input["offset"] = next.clone(),
            None => break,
        }
    }
    assert_eq!(read, text);
    world.put("www/b", b"ab\xFF");
    world
        .fails("fs/read-text", json!({ "file": "www/b" }), "NOT_TEXT")
        .await;
    let beyond = json!({ "file": "www/b", "offset": 100 });
    assert_eq!(world.did("fs/read-text", beyond).await["bytes"], 0);
    world.put("www/e", "");
    let empty = world.did("fs/read-text", json!({ "file": "www/e" })).await;
    assert_eq!((&empty["text"], empty.get("next")), (&json!(""), None));

    let other = json!({ "file": "www/d/t", "text": "x", "if_version": "another" });
    world.fails("fs/write-text", other, "FILE_CHANGED").await;
    let new = json!({ "file": "www/d/t", "text": "x", "create": "new" });
    world.fails("fs/write-text", new, "FILE_EXISTS").await;
    let version = written["stat"]["version"].clone();
    let same = json!({ "file": "www/d/t", "text": "x", "if_version": version });
    world.did("fs/write-text", same).await;
    assert_eq!(world.get("www/d/t"), b"x");
    let most = "x".repeat(4 * 1024 * 1024);
    world
        .did("fs/write-text", json!({ "file": "www/big", "text": most }))
        .await;
    let more = json!({ "file": "www/big", "text": most + "x" });
    world.fails("fs/write-text", more, "FILE_TOO_LARGE").await;
}

#[tokio::test]
async fn digests_are_those_that_others_compute() {
    let world = World::new();
    world.put("www/a", "xhellox");
    let input = json!({
        "file": "www/a", "algorithms": ["md5", "sha256", "blake3"], "offset": 1, "bytes": 5,
    });
    let reply = world.did("fs/digest", input).await;
    assert_eq!(reply["bytes"], 5);
    assert_eq!(reply["digests"]["md5"], "5d41402abc4b2a76b9719d911017c592");
    assert_eq!(
        reply["digests"]["sha256"],
        "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    );
    let blake3 = blake3::hash(b"hello").to_string();
    assert_eq!(reply["digests"]["blake3"], blake3);
    let none = json!({ "file": "www/a", "algorithms": [] });
    world.fails("fs/digest", none, "INVALID_INPUT").await;
    let directory = json!({ "file": "www", "algorithms": ["md5"] });
    world.fails("fs/digest", directory, "IS_A_DIRECTORY").await;
}

#[tokio::test]
async fn what_was_cut_is_collected_by_those_who_may() {
    let world = World::new();
    let input = json!({ "file": "www/a", "resume": "one" });
    let opened = world.opened("fs/write", input).await;
    opened.cut(vec![super::world::main("hello")]).await;
    assert_eq!(world.names("www").len(), 1);
    let collected = world.did("fs/gc", json!({ "file": "www" })).await;
    assert_eq!(collected, json!({ "partials": 1, "bytes": 5 }));
    assert_eq!(world.names("www").len(), 0);
    let world = world.granted(&["fs:write", "fs:gc", "bucket:www/**=read,list,write"]);
    world
        .fails("fs/gc", json!({ "file": "www" }), "FORBIDDEN")
        .await;
}

#[tokio::test]
async fn each_operation_takes_its_own_scope_and_action() {
    let world = World::new().granted(&["fs:read", "bucket:www/**=read"]);
    world.put("www/a", "x");
    world.put("www/d/b", "x");
    world.did("fs/stat", json!({ "file": "www/a" })).await;
    let refused = [
        ("fs/list", json!({ "file": "www" })),
        ("fs/usage", json!({ "file": "www" })),
        ("fs/mkdir", json!({ "file": "www/x" })),
        ("fs/remove", json!({ "file": "www/a" })),
        ("fs/rename", json!({ "file": "www/a", "to": "www/b" })),
        ("fs/link", json!({ "file": "www/l", "target": "a" })),
        ("fs/hard-link", json!({ "file": "www/a", "to": "www/b" })),
        ("fs/copy", json!({ "file": "www/a", "to": "www/b" })),
        ("fs/set-attributes", json!({ "file": "www/a", "mode": 0 })),
        ("fs/write-text", json!({ "file": "www/a", "text": "" })),
        ("fs/stat", json!({ "file": "other/a" })),
    ];
    for (operation, input) in refused {
        world.fails(operation, input, "FORBIDDEN").await;
    }
    for operation in ["fs/write", "fs/write-many"] {
        let input = json!({ "file": "www/a" });
        world.refuses(operation, input, "FORBIDDEN").await;
    }
    assert_eq!(world.names("www"), ["a", "d"]);
    // The recursive one lists on the way.
    world.grant(&["fs:read", "fs:write", "bucket:www/**=read,write"]);
    let copy = json!({ "file": "www/d", "to": "www/e", "recursive": true });
    world.fails("fs/copy", copy.clone(), "FORBIDDEN").await;
    world.grant(&[
        "fs:read",
        "fs:write",
        "fs:list",
        "bucket:www/**=read,write,list",
    ]);
    assert_eq!(world.did("fs/copy", copy).await["files"], 1);
}
