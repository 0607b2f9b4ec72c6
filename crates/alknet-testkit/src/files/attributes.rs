//! Modes, times, lengths, owners, and the version of a file.

use super::{
    Ground, Rule,
    ground::{at, fails, fails_as, pattern},
    rules,
};
use alknet_core::files::{
    Attributes, FileErrorCode as Code, FileKind, FileStat, FileTime, ReplaceOptions, SetTime,
};

pub(super) const RULES: &[Rule] = rules![
    what_is_set_is_read_back,
    what_is_not_set_stays,
    bits_that_run_as_somebody_else_are_refused,
    a_length_is_cut_or_filled_with_zeros,
    times_are_kept_to_the_nanosecond,
    a_link_has_attributes_of_its_own,
    who_owns_it_stays_or_is_refused,
    a_version_is_another_whenever_the_content_is,
    attributes_of_nothing_are_not_set,
];

async fn set(ground: &Ground, text: &str, attributes: Attributes) -> FileStat {
    let set = ground
        .files
        .set_attributes(&ground.all, &at(text), true, attributes)
        .await
        .unwrap();
    assert_eq!(set, ground.stat(text).await, "it tells what is there now");
    set
}

fn mode(mode: u32) -> Attributes {
    Attributes {
        mode: Some(mode),
        ..Attributes::default()
    }
}

fn length(bytes: u64) -> Attributes {
    Attributes {
        bytes: Some(bytes),
        ..Attributes::default()
    }
}

async fn what_is_set_is_read_back(ground: Ground) {
    ground.put("f", "12345").await;
    ground.mkdir("d").await;
    let mtime = FileTime {
        seconds: 1_000_000_000,
        nanoseconds: 123_456_789,
    };
    let attributes = Attributes {
        mode: Some(0o640),
        mtime: Some(SetTime::To(mtime)),
        bytes: Some(3),
        ..Attributes::default()
    };
    let stat = set(&ground, "f", attributes).await;
    assert_eq!((stat.bytes, stat.mtime), (3, mtime));
    assert_eq!(ground.get("f").await, b"123");
    if !ground.features.modes {
        return;
    }
    assert_eq!(stat.mode, 0o640);
    for bits in [0o000, 0o111, 0o400, 0o644, 0o777] {
        assert_eq!(set(&ground, "f", mode(bits)).await.mode, bits);
    }
    for bits in [0o700, 0o755, 0o1777] {
        assert_eq!(set(&ground, "d", mode(bits)).await.mode, bits);
    }
    let made = (ground.files)
        .make_directory(&ground.all, &at("private"), Some(0o700))
        .await;
    assert_eq!(made.unwrap().mode, 0o700);
}

async fn what_is_not_set_stays(ground: Ground) {
    let before = ground.put("f", "12345").await;
    let after = set(&ground, "f", Attributes::default()).await;
    assert_eq!(
        (after.mode, after.mtime, after.bytes, &after.version),
        (before.mode, before.mtime, before.bytes, &before.version)
    );
    let after = set(&ground, "f", mode(0o600)).await;
    assert_eq!((after.mtime, after.bytes), (before.mtime, before.bytes));
}

async fn bits_that_run_as_somebody_else_are_refused(ground: Ground) {
    if !ground.features.modes {
        return;
    }
    ground.put("f", "x").await;
    ground.mkdir("d").await;
    let before = (ground.stat("f").await, ground.stat("d").await);
    let (files, all) = (&ground.files, &ground.all);
    for bits in [0o4755, 0o2755, 0o6755, 0o1755, 0o10_644, u32::MAX] {
        let set = files.set_attributes(all, &at("f"), true, mode(bits)).await;
        fails(set, Code::BadArgument);
        let options = ReplaceOptions {
            mode: Some(bits),
            ..ReplaceOptions::default()
        };
        let refused = match ground.replace("f", options).await {
            Ok(mut begun) => {
                begun.write(all, "new".into()).await.unwrap();
                begun.commit(all).await.map(drop)
            }
            Err(error) => Err(error),
        };
        fails(refused, Code::BadArgument);
        let mut small = super::ground::small(at("g"), "x");
        small.mode = Some(bits);
        let put = files.put_small(all, vec![small]).await;
        put.into_iter()
            .for_each(|put| fails(put, Code::BadArgument));
    }
    for bits in [0o4755, 0o2755, 0o10_755] {
        let set = files.set_attributes(all, &at("d"), true, mode(bits)).await;
        fails(set, Code::BadArgument);
        let made = files.make_directory(all, &at("e"), Some(bits)).await;
        fails(made, Code::BadArgument);
    }
    assert_eq!((ground.stat("f").await, ground.stat("d").await), before);
    assert_eq!(ground.get("f").await, b"x");
    assert!(!ground.is_there("g").await && !ground.is_there("e").await);
}

async fn a_length_is_cut_or_filled_with_zeros(ground: Ground) {
    let content = pattern(10_000, 0);
    ground.put("f", content.clone()).await;
    set(&ground, "f", length(100)).await;
    assert_eq!(ground.get("f").await, &content[..100]);
    // What was cut off does not come back.
    set(&ground, "f", length(20_000)).await;
    let mut wanted = content[..100].to_vec();
    wanted.resize(20_000, 0);
    assert_eq!(ground.get("f").await, wanted);
    set(&ground, "f", length(0)).await;
    assert_eq!(ground.get("f").await, b"");
    // Longer than any disk, and than any file.
    let (files, all) = (&ground.files, &ground.all);
    let set = files
        .set_attributes(all, &at("f"), true, length(u64::MAX))
        .await;
    fails_as(set, &[Code::FileTooLarge, Code::BadArgument, Code::NoSpace]);
    assert_eq!(ground.stat("f").await.bytes, 0);
    ground.mkdir("d").await;
    let set = files.set_attributes(all, &at("d"), true, length(0)).await;
    fails_as(set, &[Code::IsADirectory, Code::BadArgument]);
}

async fn times_are_kept_to_the_nanosecond(ground: Ground) {
    ground.put("f", "x").await;
    ground.mkdir("d").await;
    for (seconds, nanoseconds) in [
        (0, 0),
        (1_500_000_000, 999_999_999),
        (1, 1),
        // After 2038.
        (4_000_000_000, 500),
    ] {
        let time = FileTime {
            seconds,
            nanoseconds,
        };
        for text in ["f", "d"] {
            let attributes = Attributes {
                mtime: Some(SetTime::To(time)),
                atime: Some(SetTime::To(time)),
                ..Attributes::default()
            };
            let stat = set(&ground, text, attributes).await;
            assert_eq!(stat.mtime, time, "{text}");
            assert!(stat.atime.is_none_or(|atime| atime == time), "{text}");
        }
    }
    let old = ground.stat("f").await.mtime;
    let attributes = Attributes {
        mtime: Some(SetTime::Now),
        ..Attributes::default()
    };
    let now = set(&ground, "f", attributes).await.mtime;
    assert!(old != now && now.seconds > 1_700_000_000, "{now}");
    let odd = Attributes {
        mtime: Some(SetTime::To(FileTime {
            seconds: 0,
            nanoseconds: 1_000_000_000,
        })),
        ..Attributes::default()
    };
    let set = (ground.files)
        .set_attributes(&ground.all, &at("f"), true, odd)
        .await;
    fails(set, Code::BadArgument);
}

async fn a_link_has_attributes_of_its_own(ground: Ground) {
    let before = ground.put("f", "x").await;
    ground.symlink("l", "f").await;
    let time = FileTime {
        seconds: 1_234,
        nanoseconds: 5,
    };
    let attributes = Attributes {
        mtime: Some(SetTime::To(time)),
        ..Attributes::default()
    };
    let (files, all) = (&ground.files, &ground.all);
    let set = files.set_attributes(all, &at("l"), false, attributes).await;
    let set = set.unwrap();
    assert_eq!((set.kind, set.mtime), (FileKind::Symlink, time));
    assert_eq!(ground.stat("f").await, before);
    let through = files.set_attributes(all, &at("l"), true, attributes).await;
    assert_eq!(through.unwrap().kind, FileKind::File);
    assert_eq!(ground.stat("f").await.mtime, time);
    // A link has neither length nor mode to set.
    for odd in [length(1), mode(0o600)] {
        let set = files.set_attributes(all, &at("l"), false, odd).await;
        let codes = [Code::BadArgument, Code::Unsupported, Code::TooManyLinks];
        fails_as(set, &codes);
    }
    assert_eq!(ground.get("f").await, b"x");
}

async fn who_owns_it_stays_or_is_refused(ground: Ground) {
    let before = ground.put("f", "x").await;
    let attributes = Attributes {
        uid: Some(before.uid),
        gid: Some(before.gid),
        ..Attributes::default()
    };
    let stat = set(&ground, "f", attributes).await;
    assert_eq!((stat.uid, stat.gid), (before.uid, before.gid));
}

async fn a_version_is_another_whenever_the_content_is(ground: Ground) {
    let first = ground.put("f", "one").await.version;
    assert_eq!(ground.stat("f").await.version, first);
    assert_eq!(ground.get("f").await, b"one");
    assert_eq!(
        ground.stat("f").await.version,
        first,
        "reading is no change"
    );
    let second = ground.put("f", "two").await.version;
    assert_ne!(second, first);
    let file = ground.edit("f").await;
    file.write_at(&ground.all, 0, "T".into()).await.unwrap();
    let third = ground.stat("f").await.version;
    assert!(third != second && third != first);
    assert_eq!(file.stat(&ground.all).await.unwrap().version, third);
    let fourth = set(&ground, "f", length(2)).await.version;
    assert_ne!(fourth, third);
    // The same bytes in another file are another version.
    let other = ground.put("g", "Tw").await.version;
    assert_ne!(other, fourth);
}

async fn attributes_of_nothing_are_not_set(ground: Ground) {
    let (files, all) = (&ground.files, &ground.all);
    let set = files
        .set_attributes(all, &at("none"), true, mode(0o600))
        .await;
    fails(set, Code::NoSuchFile);
    ground.symlink("dangling", "none").await;
    let set = files
        .set_attributes(all, &at("dangling"), true, mode(0o600))
        .await;
    fails(set, Code::NoSuchFile);
}
