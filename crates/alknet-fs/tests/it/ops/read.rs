//! `fs/read`.

use super::world::{World, noise, soon};
use alknet_fs::stream::{HoleDecoder, Piece};
use serde_json::json;
use std::{
    fs::File,
    os::unix::fs::{FileExt, symlink},
};

#[tokio::test]
async fn a_file_is_read_whole_or_in_part() {
    let world = World::new();
    let content = noise(3 * 1024 * 1024 + 17);
    world.put("www/a", &content);
    let len = content.len();
    let check = async |offset: usize, bytes: Option<usize>| {
        let mut input = json!({ "file": "www/a", "offset": offset });
        if let Some(bytes) = bytes {
            input["bytes"] = json!(bytes);
        }
        let received = world.read(input).await;
        let end = bytes.map_or(len, |bytes| len.min(offset + bytes));
        let want = &content[offset.min(len)..end.max(offset.min(len))];
        assert!(received.main() == want, "{offset} {bytes:?}");
        assert_eq!(received.reply["length"], want.len());
        assert_eq!(received.reply["bytes"], len);
        assert_eq!(received.result["bytes"], want.len());
        assert_eq!(
            received.result["stat"]["version"],
            received.reply["version"]
        );
    };
    for offset in [0, 1, 1024 * 1024, len - 1, len, len + 1] {
        for bytes in [
            None,
            Some(0),
            Some(1),
            Some(1024 * 1024 + 1),
            Some(usize::MAX / 2),
        ] {
            check(offset, bytes).await;
        }
    }
    let far = world
        .read(json!({ "file": "www/a", "offset": u64::MAX }))
        .await;
    assert_eq!(far.result["bytes"], 0);
    world.put("www/empty", "");
    assert_eq!(world.read(json!({ "file": "www/empty" })).await.main(), b"");
}

#[tokio::test]
async fn digests_are_of_what_is_sent() {
    let world = World::new();
    world.put("www/a", "xhello");
    let input = json!({ "file": "www/a", "offset": 1, "digests": ["md5", "blake3"] });
    let received = world.read(input).await;
    assert_eq!(
        received.result["digests"]["md5"],
        "5d41402abc4b2a76b9719d911017c592"
    );
    assert_eq!(
        received.result["digests"]["blake3"],
        blake3::hash(b"hello").to_string()
    );
    assert!(received.result["digests"].get("sha256").is_none());
}

#[tokio::test]
async fn holes_are_told_as_such() {
    let world = World::new();
    let file = File::create(world.host("www/a")).unwrap();
    file.set_len(64 * 1024 * 1024).unwrap();
    file.write_all_at(b"here", 32 * 1024 * 1024).unwrap();
    let input = json!({ "file": "www/a", "sparse": true, "digests": ["blake3"] });
    let received = world.read(input.clone()).await;
    let (mut decoder, mut content) = (HoleDecoder::new(), Vec::new());
    for chunk in received.chunks.clone() {
        for piece in decoder.pieces(chunk).unwrap() {
            match piece {
                Piece::Bytes(bytes) => content.extend_from_slice(&bytes),
                Piece::Hole(bytes) => content.resize(content.len() + bytes as usize, 0),
            }
        }
    }
    let want = world.get("www/a");
    assert!(content == want);
    assert!(received.main().len() < 1024 * 1024, "holes came as bytes");
    let digest = blake3::hash(&want).to_string();
    assert_eq!(received.result["digests"]["blake3"], digest);
    // A part of it, from within one hole into the next.
    let part = json!({ "file": "www/a", "sparse": true, "offset": 1000, "bytes": 60_000_000 });
    let part = world.read(part).await;
    assert_eq!(part.result["bytes"], 60_000_000);
    assert!(part.main().len() < 1024 * 1024);
}

#[tokio::test]
async fn what_is_no_file_is_not_read() {
    let world = World::new();
    world.put("www/a", "hello");
    symlink("/etc/passwd", world.host("www/out")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        world.host("www/fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let cases = [
        ("www", "IS_A_DIRECTORY"),
        ("www/none", "NO_SUCH_FILE"),
        ("www/a/b", "NOT_A_DIRECTORY"),
        ("www/fifo", "NOT_A_FILE"),
        ("www/out", "LEADS_OUTSIDE"),
        ("none/a", "NO_SUCH_BUCKET"),
    ];
    for (file, code) in cases {
        world
            .refuses("fs/read", json!({ "file": file }), code)
            .await;
    }
    let other = json!({ "file": "www/a", "if_version": "another" });
    world.refuses("fs/read", other, "FILE_CHANGED").await;
    let version = world.did("fs/stat", json!({ "file": "www/a" })).await["version"].clone();
    let same = json!({ "file": "www/a", "if_version": version });
    assert_eq!(world.read(same).await.main(), b"hello");
}

#[tokio::test]
async fn a_file_that_becomes_shorter_ends_the_reading() {
    let world = World::new();
    world.put("www/a", noise(16 * 1024 * 1024));
    let opened = world.opened("fs/read", json!({ "file": "www/a" })).await;
    // Nothing was taken, so most of it is not read yet.
    let file = File::options()
        .write(true)
        .open(world.host("www/a"))
        .unwrap();
    file.set_len(5).unwrap();
    let error = opened.receive().await.unwrap_err();
    assert_eq!(error.code, "FILE_CHANGED");
}

#[tokio::test]
async fn a_right_that_is_lost_ends_the_reading() {
    let world = World::new().granted(&["fs:read", "bucket:www/**=read"]);
    world.put("www/a", noise(16 * 1024 * 1024));
    let opened = world.opened("fs/read", json!({ "file": "www/a" })).await;
    world.grant(&["fs:read", "bucket:other/**=read"]);
    let error = opened.receive().await.unwrap_err();
    assert_eq!(error.code, "FORBIDDEN", "{error}");
    world.forget();
    let error = world
        .open("fs/read", json!({ "file": "www/a" }))
        .await
        .unwrap_err();
    assert_eq!(error.code, "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_reader_that_leaves_ends_the_call() {
    let world = World::new();
    world.put("www/a", noise(16 * 1024 * 1024));
    let opened = world.opened("fs/read", json!({ "file": "www/a" })).await;
    drop(opened.call.channel);
    let error = soon(opened.call.done).await.unwrap_err();
    assert_eq!(error.code, "CANCELLED");
}
