//! A file gets a new content as a whole, or keeps the one it has.

use super::{
    Ground, Rule,
    ground::{at, fails, fails_as, path, pattern, refused},
    rules,
};
use alknet_core::files::{
    Algorithm, Create, DigestRequest, Digests, Extent, FileErrorCode as Code, FileKind, FileTime,
    OpenOptions, ReplaceOptions,
};

pub(super) const RULES: &[Rule] = rules![
    the_old_content_is_there_until_the_commit,
    what_is_dropped_or_discarded_leaves_nothing,
    what_must_or_must_not_be_there_is_looked_for_twice,
    only_the_expected_version_is_replaced,
    bytes_that_are_not_as_announced_are_not_kept,
    a_cut_is_gone_on_with,
    who_goes_on_is_who_began,
    whoever_comes_later_takes_over,
    a_rewind_forgets_what_came_after,
    holes_are_zeros,
    mode_and_time_are_kept_or_given,
    only_a_file_is_replaced,
    through_a_link_the_file_is_replaced,
    names_of_a_replaced_file_part,
    revoked_in_between_nothing_is_changed,
    two_at_once_are_two,
];

fn with(create: Create) -> ReplaceOptions {
    ReplaceOptions {
        create,
        ..ReplaceOptions::default()
    }
}

fn resumed(text: &str) -> ReplaceOptions {
    ReplaceOptions {
        resume: Some(text.into()),
        ..ReplaceOptions::default()
    }
}

async fn the_old_content_is_there_until_the_commit(ground: Ground) {
    ground.put("f", "old").await;
    let reader = ground.open("f", OpenOptions::reading()).await.unwrap();
    let mut begun = ground
        .replace("f", ReplaceOptions::default())
        .await
        .unwrap();
    assert_eq!((begun.path(), begun.bytes()), (&at("f"), 0));
    let content = pattern(300_000, 7);
    for part in content.chunks(70_001) {
        begun
            .write(&ground.all, part.to_vec().into())
            .await
            .unwrap();
        assert_eq!(ground.get("f").await, b"old");
    }
    assert_eq!(begun.bytes(), 300_000);
    let digest = begun.digest(&ground.all).await.unwrap();
    assert_eq!(
        ground.names(&path("main")).await.len(),
        1,
        "nothing beside it"
    );
    let stat = begun.commit(&ground.all).await.unwrap();
    assert_eq!((stat.kind, stat.bytes), (FileKind::File, 300_000));
    assert_eq!(stat, ground.stat("f").await);
    assert_eq!(ground.get("f").await, content);
    assert_eq!(ground.names(&path("main")).await.len(), 1);
    let request = DigestRequest {
        algorithms: vec![Algorithm::Blake3],
        ..DigestRequest::default()
    };
    let (told, _) = (ground.files.digest(&ground.all, &at("f"), request).await).unwrap();
    assert_eq!(told.blake3, Some(digest));
    // Who has it open goes on with what was there.
    assert_eq!(ground.whole(&*reader).await, b"old");
    // An empty content is one.
    let begun = ground
        .replace("f", ReplaceOptions::default())
        .await
        .unwrap();
    assert_eq!(begun.commit(&ground.all).await.unwrap().bytes, 0);
    assert_eq!(ground.get("f").await, b"");
}

async fn what_is_dropped_or_discarded_leaves_nothing(ground: Ground) {
    ground.put("f", "old").await;
    for options in [ReplaceOptions::default(), resumed("again")] {
        for name in ["f", "new"] {
            let mut begun = ground.replace(name, options.clone()).await.unwrap();
            begun.write(&ground.all, "half".into()).await.unwrap();
            begun.discard().await;
            let mut begun = ground.replace(name, options.clone()).await.unwrap();
            assert_eq!(begun.bytes(), 0, "nothing was kept");
            begun.write(&ground.all, "half".into()).await.unwrap();
            drop(begun);
        }
        assert_eq!(ground.get("f").await, b"old");
        assert!(!ground.is_there("new").await);
        assert_eq!(ground.names(&path("main")).await.len(), 1);
    }
    let begun = ground
        .replace("f", ReplaceOptions::default())
        .await
        .unwrap();
    assert_eq!(begun.bytes(), 0, "without a text nothing is gone on with");
}

async fn what_must_or_must_not_be_there_is_looked_for_twice(ground: Ground) {
    ground.put("f", "old").await;
    fails(
        ground.replace("f", with(Create::New)).await,
        Code::FileExists,
    );
    let begun = ground.replace("none", with(Create::Never)).await;
    fails(begun, Code::NoSuchFile);
    let all = &ground.all;
    let mut begun = ground.replace("new", with(Create::New)).await.unwrap();
    begun.write(all, "mine".into()).await.unwrap();
    ground.put("new", "theirs").await;
    fails(begun.commit(all).await, Code::FileExists);
    assert_eq!(ground.get("new").await, b"theirs");
    let mut begun = ground.replace("f", with(Create::Never)).await.unwrap();
    begun.write(all, "mine".into()).await.unwrap();
    let how = alknet_core::files::Removal::File;
    ground.files.remove(all, &at("f"), how).await.unwrap();
    fails(begun.commit(all).await, Code::NoSuchFile);
    assert!(!ground.is_there("f").await);
    for create in [Create::New, Create::IfMissing] {
        let name = format!("made-{create:?}");
        let mut begun = ground.replace(&name, with(create)).await.unwrap();
        begun.write(all, "x".into()).await.unwrap();
        begun.commit(all).await.unwrap();
        assert_eq!(ground.get(&name).await, b"x");
    }
    assert_eq!(ground.names(&path("main")).await.len(), 3);
}

async fn only_the_expected_version_is_replaced(ground: Ground) {
    let first = ground.put("f", "one").await.version;
    let expecting = |version: &str| ReplaceOptions {
        if_version: Some(version.into()),
        ..ReplaceOptions::default()
    };
    let all = &ground.all;
    let mut begun = ground.replace("f", expecting(&first)).await.unwrap();
    begun.write(all, "two".into()).await.unwrap();
    let second = begun.commit(all).await.unwrap().version;
    assert_ne!(first, second);
    fails(
        ground.replace("f", expecting(&first)).await,
        Code::FileChanged,
    );
    let mut begun = ground.replace("f", expecting(&second)).await.unwrap();
    begun.write(all, "mine".into()).await.unwrap();
    ground.put("f", "theirs").await;
    fails(begun.commit(all).await, Code::FileChanged);
    assert_eq!(ground.get("f").await, b"theirs");
    let gone = ground.replace("none", expecting(&second)).await;
    fails_as(gone, &[Code::FileChanged, Code::NoSuchFile]);
    assert_eq!(ground.names(&path("main")).await.len(), 1);
}

async fn bytes_that_are_not_as_announced_are_not_kept(ground: Ground) {
    ground.put("f", "old").await;
    let content = "The quick brown fox jumps over the lazy dog";
    let known = Digests {
        blake3: None,
        sha256: Some("d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592".into()),
        md5: Some("9e107d9d372bb6826bd81d3542a419d6".into()),
    };
    let all = &ground.all;
    let attempt = async |digests: Digests, content: &str, bytes: Option<u64>| {
        let options = ReplaceOptions {
            digests: Some(digests),
            bytes,
            ..ReplaceOptions::default()
        };
        let mut begun = ground.replace("f", options).await.unwrap();
        let bytes = content.as_bytes().to_vec();
        begun.write(all, bytes.into()).await?;
        begun.commit(all).await
    };
    let wrong = format!("{content}.");
    fails(
        attempt(known.clone(), &wrong, None).await,
        Code::HashMismatch,
    );
    let mut half = known.clone();
    half.md5 = Some("0".repeat(32));
    fails(attempt(half, content, None).await, Code::HashMismatch);
    let blake = |digit: &str| Digests {
        blake3: Some(digit.repeat(64)),
        ..Digests::default()
    };
    fails(attempt(blake("0"), content, None).await, Code::HashMismatch);
    // Fewer, or more, bytes than were announced.
    let none = Digests::default();
    let bytes = content.len() as u64;
    let short = attempt(none.clone(), content, Some(bytes + 1)).await;
    fails(short, Code::BadArgument);
    let long = attempt(none.clone(), content, Some(bytes - 1)).await;
    fails(long, Code::BadArgument);
    assert_eq!(ground.get("f").await, b"old");
    assert_eq!(ground.names(&path("main")).await.len(), 1);
    attempt(known, content, Some(bytes)).await.unwrap();
    assert_eq!(ground.get("f").await, content.as_bytes());
}

async fn a_cut_is_gone_on_with(ground: Ground) {
    ground.put("f", "old").await;
    let content = pattern(500_000, 3);
    let mut begun = ground.replace("f", resumed("upload-1")).await.unwrap();
    for part in content[..200_000].chunks(50_000) {
        begun
            .write(&ground.all, part.to_vec().into())
            .await
            .unwrap();
    }
    drop(begun);
    assert_eq!(ground.get("f").await, b"old");
    // Another text is another upload, and another file as well.
    let other = ground.replace("f", resumed("upload-2")).await.unwrap();
    assert_eq!(other.bytes(), 0);
    drop(other);
    let other = ground.replace("g", resumed("upload-1")).await.unwrap();
    assert_eq!(other.bytes(), 0);
    other.discard().await;
    let mut begun = ground.replace("f", resumed("upload-1")).await.unwrap();
    assert_eq!(begun.bytes(), 200_000);
    let so_far = {
        let mut copy = ground
            .replace("h", ReplaceOptions::default())
            .await
            .unwrap();
        let part = content[..200_000].to_vec();
        copy.write(&ground.all, part.into()).await.unwrap();
        copy.digest(&ground.all).await.unwrap()
    };
    assert_eq!(begun.digest(&ground.all).await.unwrap(), so_far);
    let rest = content[200_000..].to_vec();
    begun.write(&ground.all, rest.into()).await.unwrap();
    begun.commit(&ground.all).await.unwrap();
    assert_eq!(ground.get("f").await, content);
    // Committed, it is not gone on with.
    let begun = ground.replace("f", resumed("upload-1")).await.unwrap();
    assert_eq!(begun.bytes(), 0);
    begun.discard().await;
    // The digests of all of it hold, not of the last part.
    let options = ReplaceOptions {
        digests: Some(Digests {
            blake3: Some(so_far),
            ..Digests::default()
        }),
        bytes: Some(200_000),
        ..resumed("upload-3")
    };
    let mut begun = ground.replace("k", options.clone()).await.unwrap();
    let half = content[..120_000].to_vec();
    begun.write(&ground.all, half.into()).await.unwrap();
    drop(begun);
    let mut begun = ground.replace("k", options).await.unwrap();
    assert_eq!(begun.bytes(), 120_000);
    let half = content[120_000..200_000].to_vec();
    begun.write(&ground.all, half.into()).await.unwrap();
    begun.commit(&ground.all).await.unwrap();
    assert_eq!(ground.get("k").await, &content[..200_000]);
    let longest = "r".repeat(128);
    ground.replace("l", resumed(&longest)).await.unwrap();
    let longer = ground.replace("l", resumed(&"r".repeat(129))).await;
    fails(longer, Code::BadArgument);
}

async fn who_goes_on_is_who_began(ground: Ground) {
    let grants = ["fs:*", "bucket:main/**=*"];
    let files = &ground.files;
    ground.access.grant("ada", &grants);
    ground.access.grant("bob", &grants);
    let ada = ground.access.permit("ada", "fs/write");
    let bob = ground.access.permit("bob", "fs/write");
    let options = resumed("same");
    let mut begun = files
        .replace(&ada, &at("f"), options.clone())
        .await
        .unwrap();
    begun.write(&ada, "of ada".into()).await.unwrap();
    drop(begun);
    let mut begun = files
        .replace(&bob, &at("f"), options.clone())
        .await
        .unwrap();
    assert_eq!(begun.bytes(), 0);
    begun.write(&bob, "bob".into()).await.unwrap();
    drop(begun);
    let begun = files.replace(&ada, &at("f"), options).await.unwrap();
    assert_eq!(begun.bytes(), 6);
    begun.commit(&ada).await.unwrap();
    assert_eq!(ground.get("f").await, b"of ada");
}

async fn whoever_comes_later_takes_over(ground: Ground) {
    let all = &ground.all;
    let mut cut = ground.replace("f", resumed("same")).await.unwrap();
    cut.write(all, "12345".into()).await.unwrap();
    // The cut of the connection was not noticed here yet.
    let mut again = ground.replace("f", resumed("same")).await.unwrap();
    assert_eq!(again.bytes(), 5);
    fails(cut.write(all, "late".into()).await, Code::FileBusy);
    again.write(all, "678".into()).await.unwrap();
    fails(cut.commit(all).await, Code::FileBusy);
    again.commit(all).await.unwrap();
    assert_eq!(ground.get("f").await, b"12345678");
}

async fn a_rewind_forgets_what_came_after(ground: Ground) {
    let all = &ground.all;
    let mut begun = ground.replace("f", resumed("r")).await.unwrap();
    begun.write(all, "hello world".into()).await.unwrap();
    drop(begun);
    let mut begun = ground.replace("f", resumed("r")).await.unwrap();
    fails(begun.rewind(all, 12).await, Code::BadArgument);
    begun.rewind(all, 6).await.unwrap();
    assert_eq!(begun.bytes(), 6);
    begun.write(all, "there".into()).await.unwrap();
    begun.rewind(all, 11).await.unwrap();
    let so_far = begun.digest(all).await.unwrap();
    begun.rewind(all, 0).await.unwrap();
    begun.write(all, "hello there".into()).await.unwrap();
    assert_eq!(begun.digest(all).await.unwrap(), so_far);
    begun.commit(all).await.unwrap();
    assert_eq!(ground.get("f").await, b"hello there");
}

async fn holes_are_zeros(ground: Ground) {
    const HOLE: u64 = 4 * 1024 * 1024;
    let all = &ground.all;
    let mut begun = ground
        .replace("f", ReplaceOptions::default())
        .await
        .unwrap();
    begun.write(all, "head".into()).await.unwrap();
    begun.skip(all, HOLE).await.unwrap();
    begun.write(all, "tail".into()).await.unwrap();
    begun.skip(all, 3).await.unwrap();
    assert_eq!(begun.bytes(), HOLE + 11);
    let digest = begun.digest(all).await.unwrap();
    let stat = begun.commit(all).await.unwrap();
    assert_eq!(stat.bytes, HOLE + 11);
    let file = ground.open("f", OpenOptions::reading()).await.unwrap();
    let whole = ground.whole(&*file).await;
    let mut wanted = b"head".to_vec();
    wanted.resize(4 + HOLE as usize, 0);
    wanted.extend(b"tail\0\0\0");
    assert!(whole == wanted, "other bytes than written");
    let mut plain = ground
        .replace("g", ReplaceOptions::default())
        .await
        .unwrap();
    plain.write(all, wanted.into()).await.unwrap();
    assert_eq!(plain.digest(all).await.unwrap(), digest);
    if ground.features.holes {
        let Extent::Data(end) = file.extent(all, 0).await.unwrap() else {
            panic!("it begins with bytes");
        };
        assert!((4..HOLE / 2).contains(&end), "{end}");
        let hole = file.extent(all, end).await.unwrap();
        assert!(
            matches!(hole, Extent::Hole(to) if to > HOLE / 2),
            "{hole:?}"
        );
    }
    assert_eq!(file.extent(all, HOLE + 11).await.unwrap(), Extent::End);
    let mut begun = ground
        .replace("h", ReplaceOptions::default())
        .await
        .unwrap();
    let far = begun.skip(all, u64::MAX).await;
    let codes = [Code::FileTooLarge, Code::BadArgument, Code::NoSpace];
    fails_as(far, &codes);
}

async fn mode_and_time_are_kept_or_given(ground: Ground) {
    ground.put("f", "old").await;
    let time = FileTime {
        seconds: 1_111_111_111,
        nanoseconds: 222_222_222,
    };
    let options = ReplaceOptions {
        mode: Some(0o604),
        mtime: Some(time),
        ..ReplaceOptions::default()
    };
    let all = &ground.all;
    let begun = ground.replace("f", options.clone()).await.unwrap();
    let stat = begun.commit(all).await.unwrap();
    assert_eq!(stat.mtime, time);
    let begun = ground
        .replace("f", ReplaceOptions::default())
        .await
        .unwrap();
    let kept = begun.commit(all).await.unwrap();
    assert_ne!(kept.mtime, time, "a new content is of now");
    if ground.features.modes {
        assert_eq!((stat.mode, kept.mode), (0o604, 0o604));
        let begun = ground.replace("new", options).await.unwrap();
        assert_eq!(begun.commit(all).await.unwrap().mode, 0o604);
    }
}

async fn only_a_file_is_replaced(ground: Ground) {
    ground.mkdir("d").await;
    ground.put("f", "x").await;
    let begin = async |text: &str| ground.replace(text, ReplaceOptions::default()).await;
    fails(begin("d").await, Code::IsADirectory);
    fails(begin("none/f").await, Code::NoSuchFile);
    fails(begin("f/g").await, Code::NotADirectory);
    let root = (ground.files)
        .replace(&ground.all, &path("main"), ReplaceOptions::default())
        .await;
    fails(root, Code::IsADirectory);
    // What became a directory meanwhile is none that is replaced.
    let begun = begin("g").await.unwrap();
    ground.mkdir("g").await;
    fails(begun.commit(&ground.all).await, Code::IsADirectory);
    assert_eq!(ground.lstat("g").await.kind, FileKind::Directory);
}

async fn through_a_link_the_file_is_replaced(ground: Ground) {
    ground.mkdir("d").await;
    ground.put("d/f", "old").await;
    ground.symlink("l", "d/f").await;
    let mut begun = ground
        .replace("l", ReplaceOptions::default())
        .await
        .unwrap();
    assert_eq!(begun.path(), &at("d/f"));
    begun.write(&ground.all, "new".into()).await.unwrap();
    begun.commit(&ground.all).await.unwrap();
    assert_eq!(ground.get("d/f").await, b"new");
    assert_eq!(ground.lstat("l").await.kind, FileKind::Symlink);
}

async fn names_of_a_replaced_file_part(ground: Ground) {
    if !ground.features.hard_links {
        return;
    }
    ground.put("a", "old").await;
    ground
        .files
        .link(&ground.all, &at("a"), &at("b"))
        .await
        .unwrap();
    let mut begun = ground
        .replace("a", ReplaceOptions::default())
        .await
        .unwrap();
    begun.write(&ground.all, "new".into()).await.unwrap();
    begun.commit(&ground.all).await.unwrap();
    assert_eq!(ground.get("a").await, b"new");
    assert_eq!(ground.get("b").await, b"old");
}

async fn revoked_in_between_nothing_is_changed(ground: Ground) {
    ground.put("f", "old").await;
    let grants = ["fs:*", "bucket:main/**=*"];
    let less = ["fs:*", "bucket:main/**=read,list", "bucket:main/x=write"];
    for when in 0..3 {
        ground.access.grant("ada", &grants);
        let permit = ground.access.permit("ada", "fs/write");
        let begun = ground.files.replace(&permit, &at("f"), resumed("r")).await;
        let mut begun = begun.unwrap();
        begun.write(&permit, "new".into()).await.unwrap();
        ground.access.grant("ada", &less);
        match when {
            0 => refused(begun.write(&permit, "more".into()).await),
            1 => refused(begun.skip(&permit, 5).await),
            _ => refused(begun.commit(&permit).await),
        }
        assert_eq!(ground.get("f").await, b"old");
        assert_eq!(ground.names(&path("main")).await.len(), 1);
    }
    refused(
        ground
            .files
            .replace(
                &ground.access.permit("ada", "fs/write"),
                &at("f"),
                resumed("r"),
            )
            .await,
    );
}

async fn two_at_once_are_two(ground: Ground) {
    let all = &ground.all;
    let mut one = ground
        .replace("f", ReplaceOptions::default())
        .await
        .unwrap();
    let mut two = ground
        .replace("f", ReplaceOptions::default())
        .await
        .unwrap();
    for round in 0..10 {
        one.write(all, format!("{round}").into()).await.unwrap();
        two.write(all, format!("{}", 9 - round).into())
            .await
            .unwrap();
    }
    one.commit(all).await.unwrap();
    assert_eq!(ground.get("f").await, b"0123456789");
    two.commit(all).await.unwrap();
    assert_eq!(ground.get("f").await, b"9876543210");
}
