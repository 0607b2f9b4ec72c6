//! `fs/copy` of trees, `fs/usage`.

use super::world::{World, noise};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    process::Command,
};

fn plant(world: &World) {
    world.put("www/t/a", noise(100_000));
    world.put("www/t/d/b", "b");
    world.put("www/t/d/e/c", "");
    symlink("d/b", world.host("www/t/link")).unwrap();
    symlink("/etc", world.host("www/t/out")).unwrap();
    for n in 0..30 {
        world.put(&format!("www/t/many/{n}"), n.to_string());
    }
    fs::set_permissions(world.host("www/t/d/e"), fs::Permissions::from_mode(0o511)).unwrap();
    let old = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    for path in ["www/t/a", "www/t/d", "www/t"] {
        let file = fs::File::open(world.host(path)).unwrap();
        file.set_times(old).unwrap();
    }
}

#[tokio::test]
async fn a_tree_is_copied_with_its_attributes() {
    let world = World::new();
    plant(&world);
    let copy = json!({ "file": "www/t", "to": "other/u", "recursive": true });
    let copied = world.did("fs/copy", copy).await;
    let want = json!({
        "files": 33, "bytes": 100_001 + 10 + 40, "directories": 4, "links": 1, "skipped": 1,
        "failed": 0,
    });
    assert_eq!(copied, want);
    fs::remove_file(world.host("www/t/out")).unwrap();
    let (from, to) = (world.host("www/t"), world.host("other/u"));
    let diff = Command::new("diff")
        .arg("-r")
        .args([&from, &to])
        .output()
        .unwrap();
    assert!(
        diff.status.success(),
        "{}",
        String::from_utf8_lossy(&diff.stdout)
    );
    let mode = |path: &str| fs::metadata(world.host(path)).unwrap().permissions().mode();
    assert_eq!(mode("other/u/d/e") & 0o777, 0o511);
    for path in ["other/u/a", "other/u/d", "other/u"] {
        assert_eq!(fs::metadata(world.host(path)).unwrap().mtime(), 0, "{path}");
    }
    assert_eq!(
        fs::read_link(world.host("other/u/link")).unwrap().to_str(),
        Some("d/b")
    );
    // Once more, into what is there.
    let again = json!({ "file": "www/t/d", "to": "other/u/d", "recursive": true });
    assert_eq!(world.did("fs/copy", again).await["files"], 2);
}

#[tokio::test]
async fn a_copy_is_refused_where_it_makes_no_sense() {
    let world = World::new();
    plant(&world);
    symlink("t/d", world.host("www/way")).unwrap();
    let fails = async |input: Value, code: &str| world.fails("fs/copy", input, code).await;
    fails(json!({ "file": "www/t", "to": "www/u" }), "IS_A_DIRECTORY").await;
    let recursive = |from: &str, to: &str| json!({ "file": from, "to": to, "recursive": true });
    fails(recursive("www/t", "www/t/x"), "BAD_ARGUMENT").await;
    fails(recursive("www/t", "www/t"), "BAD_ARGUMENT").await;
    fails(recursive("www/t", "www/way/x"), "BAD_ARGUMENT").await;
    fails(recursive("www/t", "www/t/a"), "BAD_ARGUMENT").await;
    fails(recursive("www/t/d", "www/t/a"), "FILE_EXISTS").await;
    fails(recursive("www/none", "www/u"), "NO_SUCH_FILE").await;
    let new = json!({ "file": "www/t/a", "to": "www/t/d/b", "create": "new" });
    fails(new, "FILE_EXISTS").await;
    let new = json!({ "file": "www/t/d", "to": "www/t/many", "create": "new", "recursive": true });
    fails(new, "FILE_EXISTS").await;
    // A file is a file, also if all of it is asked for.
    let file = world.did("fs/copy", recursive("www/way/b", "www/v")).await;
    assert_eq!((&file["files"], &file["bytes"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn entries_that_fail_are_told_and_the_others_go_on() {
    let world = World::new().granted(&[
        "fs:read",
        "fs:write",
        "fs:list",
        "bucket:www/**=read,list",
        "bucket:other/**=write",
        "!bucket:www/t/d/b=read",
    ]);
    plant(&world);
    world.put("other/u/many/7/x", "a directory in the way");
    let copy = json!({ "file": "www/t", "to": "other/u", "recursive": true });
    let copied = world.did("fs/copy", copy).await;
    assert_eq!(
        (&copied["files"], &copied["failed"]),
        (&json!(31), &json!(2))
    );
    let errors = copied["errors"].as_array().unwrap();
    let told: Vec<_> = errors
        .iter()
        .map(|e| (e["path"].as_str(), e["code"].as_str()))
        .collect();
    assert!(told.contains(&(Some("d/b"), Some("FORBIDDEN"))), "{told:?}");
    assert!(
        told.contains(&(Some("many/7"), Some("IS_A_DIRECTORY"))),
        "{told:?}"
    );
    assert!(!world.host("other/u/d/b").exists());
}

#[tokio::test]
async fn usage_counts_what_may_be_listed() {
    let world = World::new();
    plant(&world);
    let usage = world.did("fs/usage", json!({ "file": "www/t" })).await;
    let count = |name: &str| usage[name].as_u64().unwrap();
    assert_eq!(
        (count("files"), count("directories"), count("links")),
        (33, 3, 2)
    );
    assert_eq!(
        (count("bytes"), count("others"), count("failed")),
        (100_051, 0, 0)
    );
    assert!(usage["space"]["bytes_free"].as_u64().unwrap() > 0);
    let one = world.did("fs/usage", json!({ "file": "www/t/a" })).await;
    assert_eq!((&one["files"], &one["bytes"]), (&json!(1), &json!(100_000)));
    let grants = [
        "fs:read",
        "fs:list",
        "bucket:www/**=read,list",
        "!bucket:www/t/many/**=list",
    ];
    let world = world.granted(&grants);
    let some = world.did("fs/usage", json!({ "file": "www/t" })).await;
    assert_eq!(some["files"], 3);
}
