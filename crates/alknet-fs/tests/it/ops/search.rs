//! `fs/search`.

use super::world::World;
use serde_json::{Value, json};
use std::{fs, os::unix::fs::symlink};

async fn found(world: &World, input: Value) -> Vec<String> {
    let items = world.items("fs/search", input).await;
    let mut paths = Vec::new();
    for item in &items {
        let entries = item["entries"].as_array().unwrap();
        assert!(entries.len() <= 256);
        paths.extend(
            entries
                .iter()
                .map(|entry| entry["path"].as_str().unwrap().to_owned()),
        );
    }
    paths
}

#[tokio::test]
async fn everything_below_is_found_directories_first() {
    let world = World::new();
    for path in [
        "www/b/2/x",
        "www/b/1/y",
        "www/b/1/z",
        "www/c",
        "www/a/%",
        "www/a/é",
    ] {
        world.put(path, "x");
    }
    symlink("b", world.host("www/link")).unwrap();
    let all = [
        "a", "a/%25", "a/é", "b", "b/1", "b/1/y", "b/1/z", "b/2", "b/2/x", "c", "link",
    ];
    assert_eq!(found(&world, json!({ "file": "www" })).await, all);
    let check = async |input: Value, want: &[&str]| {
        assert_eq!(found(&world, input.clone()).await, want, "{input}");
    };
    check(
        json!({ "file": "www", "depth": 1 }),
        &["a", "b", "c", "link"],
    )
    .await;
    check(
        json!({ "file": "www", "glob": "*/*/[xy]" }),
        &["b/1/y", "b/2/x"],
    )
    .await;
    check(json!({ "file": "www", "glob": "**/z" }), &["b/1/z"]).await;
    check(json!({ "file": "www/b", "glob": "*" }), &["1", "2"]).await;
    check(json!({ "file": "www", "kinds": ["symlink"] }), &["link"]).await;
    check(
        json!({ "file": "www", "kinds": ["file"], "depth": 2 }),
        &["a/%25", "a/é", "c"],
    )
    .await;
    check(json!({ "file": "www", "glob": "none" }), &[]).await;
    let link = world
        .items("fs/search", json!({ "file": "www", "glob": "link" }))
        .await;
    assert_eq!(link[0]["entries"][0]["target"], "b");
}

#[tokio::test]
async fn a_large_and_deep_tree_is_told_once() {
    let world = World::new();
    fs::create_dir(world.host("www/big")).unwrap();
    for n in 0..3000 {
        fs::write(world.host(&format!("www/big/{n}")), "").unwrap();
    }
    // Deeper than directories are kept open.
    let mut deep = String::from("www/deep");
    for level in 0..40 {
        deep += &format!("/{level}");
        world.put(&format!("{deep}/a"), "");
        world.put(&format!("{deep}/z"), "");
    }
    let mut all = found(&world, json!({ "file": "www" })).await;
    assert_eq!(all.len(), 2 + 3000 + 40 * 3);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 2 + 3000 + 40 * 3);
}

#[tokio::test]
async fn what_may_not_be_listed_is_left_out() {
    let world = World::new().granted(&["fs:list", "bucket:www/**=list", "!bucket:www/b/**=*"]);
    for path in ["www/a/x", "www/b/y", "www/c/z"] {
        world.put(path, "x");
    }
    let all = found(&world, json!({ "file": "www" })).await;
    assert_eq!(all, ["a", "a/x", "c", "c/z"]);
}

#[tokio::test]
async fn odd_questions_are_refused() {
    let world = World::new();
    world.put("www/f", "x");
    let refused = async |input: Value| {
        let call = alknet_core::Call::new("fs/search", alknet_core::Caller::host());
        let items = world.door.subscribe(call.unwrap().input(&input)).await;
        match items {
            Err(error) => error.code.into_owned(),
            Ok(_) => panic!("{input} was answered"),
        }
    };
    assert_eq!(
        refused(json!({ "file": "www", "glob": "[a" })).await,
        "INVALID_INPUT"
    );
    assert_eq!(
        refused(json!({ "file": "www", "glob": "/a" })).await,
        "INVALID_INPUT"
    );
    assert_eq!(
        refused(json!({ "file": "www", "depth": 0 })).await,
        "INVALID_INPUT"
    );
    assert_eq!(refused(json!({ "file": "www/f" })).await, "NOT_A_DIRECTORY");
    assert_eq!(refused(json!({ "file": "www/none" })).await, "NO_SUCH_FILE");
}
