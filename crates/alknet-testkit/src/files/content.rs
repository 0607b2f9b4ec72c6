//! Digests, copies within the service, and the room that is left.

use super::{
    Ground, Rule,
    ground::{Subject, at, fails, fails_as, path, pattern, refused},
    rules,
};
use alknet_core::files::{
    Algorithm, ByteRange, CopyOptions, Create, DigestRequest, Digests, FileError,
    FileErrorCode as Code, FileTime, OpenOptions, ReplaceOptions,
};

pub(super) const RULES: &[Rule] = rules![
    digests_are_those_of_the_standards,
    ranges_are_digested_alone,
    a_copy_is_another_file_with_the_same_bytes,
    a_copy_replaces_as_a_whole_or_not_at_all,
    a_copy_takes_both_rights,
    holes_are_copied_as_zeros,
    room_is_told,
];

async fn digest(ground: &Ground, text: &str, range: ByteRange) -> Result<Digests, FileError> {
    let request = DigestRequest {
        range,
        algorithms: vec![Algorithm::Md5, Algorithm::Blake3, Algorithm::Sha256],
    };
    let done = ground.files.digest(&ground.all, &at(text), request).await;
    let (digests, stat) = done?;
    assert_eq!(stat.version, ground.stat(text).await.version);
    Ok(digests)
}

async fn digests_are_those_of_the_standards(ground: Ground) {
    let check = async |content: Vec<u8>, md5: &str, sha256: &str, blake3: &str| {
        let mut begun = ground
            .replace("f", ReplaceOptions::default())
            .await
            .unwrap();
        begun.write(&ground.all, content.into()).await.unwrap();
        begun.commit(&ground.all).await.unwrap();
        let wanted = Digests {
            blake3: Some(blake3.into()),
            sha256: Some(sha256.into()),
            md5: Some(md5.into()),
        };
        assert_eq!(
            digest(&ground, "f", ByteRange::default()).await.unwrap(),
            wanted
        );
    };
    // RFC 1321, FIPS 180-4, and the BLAKE3 reference.
    check(
        Vec::new(),
        "d41d8cd98f00b204e9800998ecf8427e",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    )
    .await;
    check(
        b"abc".to_vec(),
        "900150983cd24fb0d6963f7d28e17f72",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
    )
    .await;
    check(
        vec![b'a'; 1_000_000],
        "7707d6ae4e027c70eea2a935c2296f21",
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
        "616f575a1b58d4c9797d4217b9730ae5e6eb319d76edef6549b46f4efe31ff8b",
    )
    .await;
    // Only those that were asked for, and at least one.
    let files = &ground.files;
    let request = |algorithms: &[Algorithm]| DigestRequest {
        algorithms: algorithms.to_vec(),
        ..DigestRequest::default()
    };
    let one = request(&[Algorithm::Sha256]);
    let (one, _) = files.digest(&ground.all, &at("f"), one).await.unwrap();
    assert!(one.sha256.is_some() && one.blake3.is_none() && one.md5.is_none());
    let none = files.digest(&ground.all, &at("f"), request(&[])).await;
    fails(none, Code::BadArgument);
    ground.mkdir("d").await;
    let of = |text: &'static str| digest(&ground, text, ByteRange::default());
    fails(of("d").await, Code::IsADirectory);
    fails(of("none").await, Code::NoSuchFile);
}

async fn ranges_are_digested_alone(ground: Ground) {
    let content = pattern(300_000, 1);
    ground.put("f", content.clone()).await;
    for (offset, bytes) in [
        (0, Some(300_000)),
        (0, None),
        (100, Some(200_000)),
        (299_999, None),
        (300_000, None),
        (250_000, Some(u64::MAX)),
        (u64::MAX, Some(1)),
        (5, Some(0)),
    ] {
        let end = bytes.map_or(300_000, |bytes: u64| bytes.saturating_add(offset));
        let part = &content[offset.min(300_000) as usize..end.min(300_000) as usize];
        ground.put("part", part.to_vec()).await;
        let range = ByteRange { offset, bytes };
        let of_range = digest(&ground, "f", range).await.unwrap();
        let of_part = digest(&ground, "part", ByteRange::default()).await;
        assert_eq!(of_range, of_part.unwrap(), "{range:?}");
    }
}

async fn a_copy_is_another_file_with_the_same_bytes(ground: Ground) {
    let content = pattern(2_500_000, 4);
    let time = FileTime {
        seconds: 1_000_000_007,
        nanoseconds: 8,
    };
    let options = ReplaceOptions {
        mode: Some(0o640),
        mtime: Some(time),
        ..ReplaceOptions::default()
    };
    let mut begun = ground.replace("f", options).await.unwrap();
    begun
        .write(&ground.all, content.clone().into())
        .await
        .unwrap();
    let stat = begun.commit(&ground.all).await.unwrap();
    let (files, all) = (&ground.files, &ground.all);
    let attributes = CopyOptions {
        attributes: true,
        ..CopyOptions::default()
    };
    let kept = files.copy(all, &at("f"), &at("kept"), attributes).await;
    let kept = kept.unwrap();
    assert_eq!(
        (kept.bytes, kept.mtime, kept.mode),
        (stat.bytes, time, stat.mode)
    );
    let plain = files
        .copy(all, &at("f"), &path("other/g"), CopyOptions::default())
        .await;
    assert_ne!(plain.unwrap().mtime, time);
    // Another file: what is written to one is not in the other.
    let file = ground.edit("f").await;
    file.write_at(all, 0, "changed".into()).await.unwrap();
    for copy in [at("kept"), path("other/g")] {
        let copy = files
            .open(all, &copy, OpenOptions::reading())
            .await
            .unwrap();
        assert!(ground.whole(&*copy).await == content);
    }
}

async fn a_copy_replaces_as_a_whole_or_not_at_all(ground: Ground) {
    ground.put("f", "new").await;
    ground.put("g", "old").await;
    ground.mkdir("d").await;
    let (files, all) = (&ground.files, &ground.all);
    let copy = async |from: &str, to: &str, create: Create| {
        let options = CopyOptions {
            create,
            attributes: true,
        };
        files.copy(all, &at(from), &at(to), options).await
    };
    fails(copy("f", "g", Create::New).await, Code::FileExists);
    fails(copy("f", "h", Create::Never).await, Code::NoSuchFile);
    fails(copy("none", "g", Create::IfMissing).await, Code::NoSuchFile);
    fails(copy("f", "d", Create::IfMissing).await, Code::IsADirectory);
    fails(copy("d", "h", Create::IfMissing).await, Code::IsADirectory);
    fails(copy("f", "no/h", Create::IfMissing).await, Code::NoSuchFile);
    fails(
        copy("f", "g/h", Create::IfMissing).await,
        Code::NotADirectory,
    );
    assert_eq!(ground.get("g").await, b"old");
    assert_eq!(ground.names(&path("main")).await.len(), 3);
    let reader = ground.open("g", OpenOptions::reading()).await.unwrap();
    copy("f", "g", Create::Never).await.unwrap();
    assert_eq!(ground.get("g").await, b"new");
    assert_eq!(ground.whole(&*reader).await, b"old");
    // Onto itself it is what it was.
    let itself = copy("f", "f", Create::IfMissing).await;
    if let Err(error) = itself {
        assert_eq!(error.code(), Some(Code::BadArgument), "{error}");
    }
    assert_eq!(ground.get("f").await, b"new");
}

async fn a_copy_takes_both_rights(ground: Ground) {
    for directory in ["in", "out"] {
        ground.mkdir(directory).await;
    }
    ground.put("in/f", "content").await;
    let copy = async |grants: &[&str]| {
        // Elsewhere, all is held.
        let elsewhere = ["fs:*", "bucket:other/**=*"];
        ground.access.grant("ada", &[&elsewhere, grants].concat());
        let permit = ground.access.permit("ada", "fs/copy");
        let (from, to) = (at("in/f"), at("out/f"));
        let options = CopyOptions::default();
        ground.files.copy(&permit, &from, &to, options).await
    };
    refused(copy(&["bucket:main/in/**=read"]).await);
    refused(copy(&["bucket:main/out/**=write"]).await);
    refused(copy(&["bucket:main/in/**=write", "bucket:main/out/**=read"]).await);
    assert!(ground.names(&at("out")).await.is_empty());
    let both = ["bucket:main/in/**=read", "bucket:main/out/**=write"];
    copy(&both).await.unwrap();
    assert_eq!(ground.get("out/f").await, b"content");
}

async fn holes_are_copied_as_zeros(ground: Ground) {
    let mut begun = ground
        .replace("f", ReplaceOptions::default())
        .await
        .unwrap();
    begun.skip(&ground.all, 3 << 20).await.unwrap();
    begun.write(&ground.all, "data".into()).await.unwrap();
    begun.skip(&ground.all, 5 << 20).await.unwrap();
    let stat = begun.commit(&ground.all).await.unwrap();
    let (files, all) = (&ground.files, &ground.all);
    let options = CopyOptions::default();
    let copied = files.copy(all, &at("f"), &at("g"), options).await.unwrap();
    assert_eq!(copied.bytes, stat.bytes);
    let range = ByteRange::default();
    assert_eq!(
        digest(&ground, "f", range).await.unwrap(),
        digest(&ground, "g", range).await.unwrap()
    );
}

async fn room_is_told(ground: Ground) {
    ground.put("f", "x").await;
    let (files, all) = (&ground.files, &ground.all);
    for file in [path("main"), at("f")] {
        let space = files.space(all, &file).await.unwrap();
        assert!(space.bytes_free <= space.bytes && space.block_bytes > 0);
        assert!(!space.read_only && space.entries_free <= space.entries);
    }
    let space = files.space(all, &path("small")).await.unwrap();
    assert_eq!(space.bytes, Subject::SMALL_BYTES);
    assert_eq!(space.bytes_free, Subject::SMALL_BYTES);
    assert_eq!(space.entries, Subject::SMALL_ENTRIES);
    let filled = vec![0; 10_000];
    ground.put_at(path("small/f"), filled).await.unwrap();
    let space = files.space(all, &path("small")).await.unwrap();
    assert_eq!(space.bytes_free, Subject::SMALL_BYTES - 10_000);
    assert_eq!(space.entries_free, Subject::SMALL_ENTRIES - 1);
    assert!(files.space(all, &path("fixed")).await.unwrap().read_only);
    let missing = files.space(all, &at("none")).await;
    fails_as(missing, &[Code::NoSuchFile]);
}
