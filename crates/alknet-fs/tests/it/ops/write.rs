//! `fs/write`.

use super::world::{Opened, World, aux, main, noise, soon};
use alknet_core::CallError;
use alknet_fs::stream::hole_chunk;
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[tokio::test]
async fn a_file_is_made_and_replaced_as_a_whole() {
    let world = World::new();
    let content = noise(3 * 1024 * 1024 + 17);
    let mtime = "2020-01-02T03:04:05.5Z";
    let input = json!({
        "file": "www/d/a", "bytes": content.len(), "mode": 0o640, "mtime": mtime, "parents": true,
    });
    let opened = world.opened("fs/write", input).await;
    assert_eq!(opened.reply, json!({ "offset": 0 }));
    // Whatever the pieces, they become one file.
    let mut chunks = Vec::new();
    let (mut rest, mut size) = (&content[..], 1);
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(size.min(rest.len()));
        chunks.push(main(piece));
        (rest, size) = (more, size * 2 + 1);
    }
    let result = opened.send(chunks).await.unwrap();
    assert_eq!(result["bytes"], content.len());
    assert_eq!(result["stat"]["mtime"], mtime);
    assert!(world.get("www/d/a") == content);
    let meta = std::fs::metadata(world.host("www/d/a")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o640);
    // An empty one in its place; its permissions stay.
    world
        .write(json!({ "file": "www/d/a" }), b"")
        .await
        .unwrap();
    let meta = std::fs::metadata(world.host("www/d/a")).unwrap();
    assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (0, 0o640));
    assert_eq!(world.names("www/d"), ["a"]);
}

#[tokio::test]
async fn what_cannot_be_written_is_refused_before_the_bytes() {
    let world = World::new();
    world.put("www/a", "old");
    std::fs::create_dir(world.host("www/d")).unwrap();
    let cases = [
        (json!({ "file": "www/d" }), "IS_A_DIRECTORY"),
        (json!({ "file": "www/a/b" }), "NOT_A_DIRECTORY"),
        (json!({ "file": "www/x/b" }), "NO_SUCH_FILE"),
        (json!({ "file": "none/b" }), "NO_SUCH_BUCKET"),
        (json!({ "file": "www/a", "create": "new" }), "FILE_EXISTS"),
        (
            json!({ "file": "www/b", "create": "never" }),
            "NO_SUCH_FILE",
        ),
        (
            json!({ "file": "www/x/b", "create": "never", "parents": true }),
            "NO_SUCH_FILE",
        ),
        (
            json!({ "file": "www/a", "if_version": "another" }),
            "FILE_CHANGED",
        ),
        (json!({ "file": "www/b", "mode": 0o4755 }), "BAD_ARGUMENT"),
        (json!({ "file": "www/.alknet-part-x" }), "NAME_REFUSED"),
        (json!({ "file": "www/a", "truncate": true }), "BAD_ARGUMENT"),
        (
            json!({ "file": "www/a", "append": true, "offset": 1 }),
            "BAD_ARGUMENT",
        ),
        (
            json!({ "file": "www/a", "append": true, "resume": "x" }),
            "BAD_ARGUMENT",
        ),
        (
            json!({ "file": "www/a", "offset": 1, "sparse": true }),
            "BAD_ARGUMENT",
        ),
        (json!({ "file": "www/b", "bytes": 1_u64 << 60 }), "NO_SPACE"),
    ];
    for (input, code) in cases {
        world.refuses("fs/write", input, code).await;
    }
    assert_eq!(world.get("www/a"), b"old");
    assert_eq!(world.names("www"), ["a", "d"]);
}

#[tokio::test]
async fn other_bytes_than_announced_leave_the_file_as_it_was() {
    let world = World::new();
    world.put("www/a", "old");
    let code = async |input: Value| world.write(input, b"hello").await.unwrap_err().code;
    let md5 = |digest: &str| json!({ "md5": digest });
    let file = |more: Value| {
        let mut input = json!({ "file": "www/a" });
        input
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        input
    };
    assert_eq!(code(file(json!({ "bytes": 4 }))).await, "BAD_ARGUMENT");
    assert_eq!(code(file(json!({ "bytes": 6 }))).await, "BAD_ARGUMENT");
    let wrong = md5("5d41402abc4b2a76b9719d911017c593");
    assert_eq!(
        code(file(json!({ "digests": wrong }))).await,
        "HASH_MISMATCH"
    );
    assert_eq!(world.get("www/a"), b"old");
    assert_eq!(world.names("www"), ["a"]);
    let right = md5("5d41402abc4b2a76b9719d911017c592");
    let input = file(json!({ "bytes": 5, "digests": right }));
    world.write(input, b"hello").await.unwrap();
    assert_eq!(world.get("www/a"), b"hello");
}

#[tokio::test]
async fn a_cut_leaves_nothing() {
    let world = World::new();
    world.put("www/a", "old");
    let opened = world.opened("fs/write", json!({ "file": "www/a" })).await;
    opened.cut(vec![main(noise(700_000))]).await;
    assert_eq!(
        (world.get("www/a"), world.names("www")),
        (b"old".to_vec(), vec!["a".into()])
    );
    let opened = world.opened("fs/write", json!({ "file": "www/b" })).await;
    opened.cut(vec![]).await;
    assert_eq!(world.names("www"), ["a"]);
}

fn resumable(file: &str) -> Value {
    json!({ "file": file, "resume": "one" })
}

/// Rewinds, and waits until that is done.
async fn rewind(opened: &mut Opened, to: u64) {
    let channel = &mut opened.call.channel;
    channel
        .control_tx
        .send(json!({ "rewind": to }))
        .await
        .unwrap();
    let answer = soon(channel.control_rx.recv()).await.unwrap();
    assert_eq!(answer, json!({ "rewound": to }));
}

#[tokio::test]
async fn after_a_cut_it_goes_on_where_it_stopped() {
    let world = World::new();
    world.put("www/a", "old");
    let content = noise(2_000_003);
    let (first, rest) = content.split_at(1_500_001);
    let opened = world.opened("fs/write", resumable("www/a")).await;
    assert_eq!(opened.reply, json!({ "offset": 0 }));
    opened.cut(vec![main(first)]).await;
    assert_eq!(world.get("www/a"), b"old");
    let opened = world.opened("fs/write", resumable("www/a")).await;
    let kept = blake3::hash(first).to_string();
    assert_eq!(
        opened.reply,
        json!({ "offset": first.len(), "blake3": kept })
    );
    let result = opened.send(vec![main(rest)]).await.unwrap();
    assert_eq!(result["bytes"], rest.len());
    assert!(world.get("www/a") == content);
    assert_eq!(world.names("www"), ["a"]);
}

#[tokio::test]
async fn whoever_has_other_bytes_begins_again() {
    let world = World::new();
    let kept = async || {
        let opened = world.opened("fs/write", resumable("www/a")).await;
        opened.cut(vec![main("wrong bytes")]).await;
    };
    kept().await;
    let mut opened = world.opened("fs/write", resumable("www/a")).await;
    assert_eq!(opened.reply["offset"], 11);
    rewind(&mut opened, 6).await;
    rewind(&mut opened, 0).await;
    let result = opened.send(vec![main("right")]).await.unwrap();
    assert_eq!(result["bytes"], 5);
    assert_eq!(world.get("www/a"), b"right");
    // A part of what is kept is right.
    kept().await;
    let mut opened = world.opened("fs/write", resumable("www/a")).await;
    rewind(&mut opened, 6).await;
    opened.send(vec![main("words")]).await.unwrap();
    assert_eq!(world.get("www/a"), b"wrong words");
    // What is not there cannot be kept.
    kept().await;
    let opened = world.opened("fs/write", resumable("www/a")).await;
    let control = json!({ "rewind": 12 });
    opened.call.channel.control_tx.send(control).await.unwrap();
    let error = soon(opened.call.done).await.unwrap_err();
    assert_eq!(error.code, "BAD_ARGUMENT");
    assert_eq!(world.get("www/a"), b"wrong words");
}

/// Bytes may overtake control messages: they would follow what is wrong.
#[tokio::test]
async fn a_rewinding_behind_the_bytes_is_refused() {
    let world = World::new();
    let opened = world.opened("fs/write", resumable("www/a")).await;
    opened.cut(vec![main("wrong")]).await;
    let mut opened = world.opened("fs/write", resumable("www/a")).await;
    let channel = &mut opened.call.channel;
    // More than the window: the first bytes were taken, and no rewinding is
    // listened to from here on.
    channel
        .tx
        .send(noise(2 * 1024 * 1024).into())
        .await
        .unwrap();
    channel
        .control_tx
        .send(json!({ "rewind": 0 }))
        .await
        .unwrap();
    let error = opened.send(vec![]).await.unwrap_err();
    assert_eq!(error.code, "BAD_ARGUMENT");
    assert_eq!(world.names("www"), Vec::<String>::new());
    // One that nothing is kept for is answered too.
    let mut opened = world.opened("fs/write", resumable("www/a")).await;
    rewind(&mut opened, 0).await;
    opened.send(vec![main("right")]).await.unwrap();
    assert_eq!(world.get("www/a"), b"right");
}

#[tokio::test]
async fn fewer_bytes_are_kept_and_more_are_not() {
    let world = World::new();
    let input = json!({ "file": "www/a", "resume": "one", "bytes": 5 });
    let error = world.write(input.clone(), b"hel").await.unwrap_err();
    assert_eq!(error.code, "BAD_ARGUMENT");
    let opened = world.opened("fs/write", input.clone()).await;
    assert_eq!(opened.reply["offset"], 3);
    let error = opened.send(vec![main("lo!")]).await.unwrap_err();
    assert_eq!(error.code, "BAD_ARGUMENT");
    let opened = world.opened("fs/write", input).await;
    assert_eq!(opened.reply["offset"], 0);
    opened.send(vec![main("hello")]).await.unwrap();
    assert_eq!(world.get("www/a"), b"hello");
}

#[tokio::test]
async fn holes_stay_holes() {
    let world = World::new();
    let long = 1_u64 << 34;
    let input = json!({ "file": "www/a", "sparse": true, "bytes": long + 10 });
    let opened = world.opened("fs/write", input).await;
    let chunks = vec![main("begin"), hole_chunk(long), main("end!!")];
    let result = opened.send(chunks).await.unwrap();
    assert_eq!(result["bytes"], long + 10);
    let meta = std::fs::metadata(world.host("www/a")).unwrap();
    assert_eq!(meta.len(), long + 10);
    assert!(
        meta.blocks() * 512 < 1024 * 1024,
        "{} blocks",
        meta.blocks()
    );
    let end = json!({ "file": "www/a", "offset": long + 5 });
    assert_eq!(world.read(end).await.main(), b"end!!");
    // One at the end counts too.
    let opened = world
        .opened("fs/write", json!({ "file": "www/b", "sparse": true }))
        .await;
    opened
        .send(vec![main("x"), hole_chunk(4095)])
        .await
        .unwrap();
    let mut want = vec![0; 4096];
    want[0] = b'x';
    assert_eq!(world.get("www/b"), want);
}

#[tokio::test]
async fn holes_that_make_no_sense_are_refused() {
    let world = World::new();
    let code = async |input: Value, chunks| -> String {
        let opened = world.opened("fs/write", input).await;
        let error: CallError = opened.send(chunks).await.unwrap_err();
        assert_eq!(world.names("www"), Vec::<String>::new());
        error.code.into_owned()
    };
    let sparse = json!({ "file": "www/a", "sparse": true, "resume": "x" });
    let odd: Vec<Vec<_>> = vec![
        vec![aux([0; 8])],
        vec![aux([0; 7])],
        vec![aux([1; 7]), main("x")],
        vec![main("x"), hole_chunk(u64::MAX)],
        vec![hole_chunk(u64::MAX), hole_chunk(u64::MAX)],
    ];
    for chunks in odd {
        assert_eq!(code(sparse.clone(), chunks).await, "BAD_ARGUMENT");
    }
    let plain = json!({ "file": "www/a" });
    assert_eq!(code(plain, vec![hole_chunk(1)]).await, "BAD_ARGUMENT");
}

#[tokio::test]
async fn in_place_only_what_is_sent_changes() {
    let world = World::new();
    world.put("www/a", "0123456789");
    let write = async |input: Value, bytes: &[u8]| world.write(input, bytes).await.unwrap();
    let opened = world
        .opened("fs/write", json!({ "file": "www/a", "offset": 3 }))
        .await;
    assert_eq!(opened.reply, json!({ "offset": 3 }));
    opened.send(vec![main("ab"), main("c")]).await.unwrap();
    assert_eq!(world.get("www/a"), b"012abc6789");
    write(
        json!({ "file": "www/a", "offset": 1, "truncate": true }),
        b"xy",
    )
    .await;
    assert_eq!(world.get("www/a"), b"0xy");
    write(json!({ "file": "www/a", "append": true }), b"end").await;
    assert_eq!(world.get("www/a"), b"0xyend");
    let result = write(json!({ "file": "www/a", "offset": 8, "bytes": 1 }), b"!").await;
    assert_eq!(
        (&result["bytes"], &result["stat"]["bytes"]),
        (&json!(1), &json!(9))
    );
    assert_eq!(world.get("www/a"), b"0xyend\0\0!");
    write(
        json!({ "file": "www/new/b", "append": true, "parents": true }),
        b"x",
    )
    .await;
    assert_eq!(world.get("www/new/b"), b"x");
    let version = json!({ "file": "www/a", "offset": 0, "if_version": "another" });
    world.refuses("fs/write", version, "FILE_CHANGED").await;
    // No file is so long; nothing is made of it.
    for (offset, bytes) in [(u64::MAX, 0), (i64::MAX as u64, 1), (9, u64::MAX)] {
        let far = json!({ "file": "www/far", "offset": offset, "bytes": bytes });
        world.refuses("fs/write", far, "FILE_TOO_LARGE").await;
        assert!(!world.host("www/far").exists());
    }
    let far = json!({ "file": "www/a", "offset": i64::MAX });
    let error = world.write(far, b"x").await.unwrap_err();
    assert_eq!(error.code, "FILE_TOO_LARGE");
    let missing = json!({ "file": "www/c", "offset": 0, "create": "never" });
    world.refuses("fs/write", missing, "NO_SUCH_FILE").await;
    // A cut leaves what was written.
    let opened = world
        .opened("fs/write", json!({ "file": "www/a", "append": true }))
        .await;
    opened.cut(vec![main("cut")]).await;
    assert_eq!(world.get("www/a"), b"0xyend\0\0!cut");
}

#[tokio::test]
async fn a_right_that_is_lost_leaves_nothing() {
    let world = World::new().granted(&["fs:write", "bucket:www/**=write"]);
    world.put("www/a", "old");
    let mut opened = world.opened("fs/write", json!({ "file": "www/a" })).await;
    opened
        .call
        .channel
        .tx
        .send(noise(600_000).into())
        .await
        .unwrap();
    world.grant(&["fs:write", "bucket:other/**=write"]);
    let error = soon(opened.call.done).await.unwrap_err();
    assert_eq!(error.code, "FORBIDDEN");
    assert_eq!(world.get("www/a"), b"old");
    // What a dropped call leaves is removed at once, by a thread of its own.
    let begun = std::time::Instant::now();
    while world.names("www") != ["a"] {
        assert!(
            begun.elapsed() < super::world::SOON,
            "{:?}",
            world.names("www")
        );
        tokio::task::yield_now().await;
    }
}
