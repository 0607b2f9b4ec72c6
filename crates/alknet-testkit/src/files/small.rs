//! Small files go and come as wholes, many at once.

use super::{
    Ground, Rule,
    ground::{at, fails, fails_as, path, pattern, refused, small},
    rules,
};
use alknet_core::files::{
    Create, FileErrorCode as Code, FileTime, SMALL_FILE_BYTES_MAX, SmallFile,
};
use bytes::Bytes;

pub(super) const RULES: &[Rule] = rules![
    each_has_its_outcome_in_order,
    small_is_up_to_the_limit,
    options_are_kept_to,
    one_path_twice_is_put_twice,
    a_thousand_go_together,
    each_is_checked,
];

fn with(text: &str, bytes: &str, create: Create) -> SmallFile {
    SmallFile {
        create,
        ..small(at(text), bytes.to_owned())
    }
}

async fn each_has_its_outcome_in_order(ground: Ground) {
    ground.mkdir("d").await;
    ground.put("f", "old").await;
    ground.symlink("l", "d/through").await;
    let (files, all) = (&ground.files, &ground.all);
    let put = vec![
        with("a", "1", Create::IfMissing),
        with("none/b", "2", Create::IfMissing),
        with("f", "3", Create::New),
        with("d", "4", Create::IfMissing),
        with("c", "5", Create::Never),
        with("f/x", "6", Create::IfMissing),
        with("l", "7", Create::IfMissing),
        small(path("nowhere/x"), "8"),
        with("empty", "", Create::New),
        with("f", "9", Create::Never),
        small(path("other/z"), "10"),
    ];
    let done = files.put_small(all, put).await;
    let codes: Vec<_> = done
        .iter()
        .map(|done| done.as_ref().err().map(|error| error.code().unwrap()))
        .collect();
    assert_eq!(
        codes,
        [
            None,
            Some(Code::NoSuchFile),
            Some(Code::FileExists),
            Some(Code::IsADirectory),
            Some(Code::NoSuchFile),
            Some(Code::NotADirectory),
            None,
            Some(Code::NoSuchBucket),
            None,
            None,
            None,
        ]
    );
    assert_eq!(done[0].as_ref().unwrap(), &ground.stat("a").await);
    assert_eq!(ground.get("d/through").await, b"7");
    assert_eq!(ground.get("f").await, b"9");
    let paths = ["a", "none/b", "d", "empty", "l", "f/x"].map(at);
    let got = files.get_small(all, &paths).await;
    let told: Vec<_> = got
        .into_iter()
        .map(|got| {
            got.map(|(_, bytes)| bytes)
                .map_err(|error| error.code().unwrap())
        })
        .collect();
    assert_eq!(
        told,
        [
            Ok(Bytes::from("1")),
            Err(Code::NoSuchFile),
            Err(Code::IsADirectory),
            Ok(Bytes::new()),
            Ok(Bytes::from("7")),
            Err(Code::NotADirectory),
        ]
    );
    assert!(files.put_small(all, Vec::new()).await.is_empty());
    assert!(files.get_small(all, &[]).await.is_empty());
}

async fn small_is_up_to_the_limit(ground: Ground) {
    let most = pattern(SMALL_FILE_BYTES_MAX, 5);
    ground.put("most", most.clone()).await;
    assert!(ground.get("most").await == most);
    let over = pattern(SMALL_FILE_BYTES_MAX + 1, 5);
    let put = ground.put_at(at("over"), over.clone()).await;
    fails(put, Code::FileTooLarge);
    assert!(!ground.is_there("over").await);
    let mut begun = ground.replace("over", Default::default()).await.unwrap();
    begun.write(&ground.all, over.into()).await.unwrap();
    begun.commit(&ground.all).await.unwrap();
    fails(ground.get_at(&at("over")).await, Code::FileTooLarge);
}

async fn options_are_kept_to(ground: Ground) {
    let mtime = FileTime {
        seconds: 987_654_321,
        nanoseconds: 1,
    };
    let file = SmallFile {
        mode: Some(0o640),
        mtime: Some(mtime),
        ..small(at("f"), "x")
    };
    let done = ground.files.put_small(&ground.all, vec![file]).await;
    let stat = done.into_iter().next().unwrap().unwrap();
    assert_eq!((stat.mtime, stat.bytes), (mtime, 1));
    assert_eq!(stat, ground.stat("f").await);
    let again = ground.put("f", "new").await;
    assert_ne!(again.mtime, mtime);
    if ground.features.modes {
        assert_eq!((stat.mode, again.mode), (0o640, 0o640));
    }
}

async fn one_path_twice_is_put_twice(ground: Ground) {
    // As if one came after the other, whatever is done together.
    let put = vec![
        with("f", "first", Create::New),
        with("f", "second", Create::New),
        with("g", "first", Create::IfMissing),
        with("g", "second", Create::IfMissing),
        with("h", "first", Create::IfMissing),
        with("h", "second", Create::Never),
    ];
    let done = ground.files.put_small(&ground.all, put).await;
    let mut done = done.into_iter();
    done.next().unwrap().unwrap();
    fails(done.next().unwrap(), Code::FileExists);
    for done in done {
        done.unwrap();
    }
    assert_eq!(ground.get("f").await, b"first");
    assert_eq!(ground.get("g").await, b"second");
    assert_eq!(ground.get("h").await, b"second");
    assert_eq!(ground.names(&path("main")).await.len(), 3);
}

async fn a_thousand_go_together(ground: Ground) {
    ground.mkdir("d").await;
    let files: Vec<_> = (0..1_000)
        .map(|n| small(at(&format!("d/{n}")), pattern(n, n as u8)))
        .collect();
    for done in ground.files.put_small(&ground.all, files).await {
        done.unwrap();
    }
    let paths: Vec<_> = (0..1_000).map(|n| at(&format!("d/{n}"))).collect();
    let got = ground.files.get_small(&ground.all, &paths).await;
    for (n, got) in got.into_iter().enumerate() {
        let (stat, bytes) = got.unwrap();
        assert_eq!(stat.bytes, n as u64);
        assert!(bytes == pattern(n, n as u8), "{n}");
    }
}

async fn each_is_checked(ground: Ground) {
    ground.put("secret", "old").await;
    let grants = ["fs:*", "bucket:main/*=read,write", "!bucket:main/secret=*"];
    ground.access.grant("ada", &grants);
    let write = ground.access.permit("ada", "fs/write");
    let put = vec![
        with("a", "1", Create::IfMissing),
        with("secret", "2", Create::IfMissing),
        with("b", "3", Create::IfMissing),
        small(path("other/x"), "4"),
    ];
    let mut done = ground.files.put_small(&write, put).await.into_iter();
    done.next().unwrap().unwrap();
    refused(done.next().unwrap());
    done.next().unwrap().unwrap();
    refused(done.next().unwrap());
    assert_eq!(ground.get("secret").await, b"old");
    assert!(ground.names(&path("other")).await.is_empty());
    let read = ground.access.permit("ada", "fs/read");
    let paths = ["a", "secret", "b"].map(at);
    let mut got = ground.files.get_small(&read, &paths).await.into_iter();
    assert_eq!(got.next().unwrap().unwrap().1, "1");
    refused(got.next().unwrap());
    assert_eq!(got.next().unwrap().unwrap().1, "3");
    // Who may not know a file does not learn whether it is there.
    let hidden = ["secret", "secret/x", "nothing"].map(at);
    let mut got = ground.files.get_small(&read, &hidden).await.into_iter();
    refused(got.next().unwrap());
    let below = got.next().unwrap();
    refused(below);
    fails_as(got.next().unwrap(), &[Code::NoSuchFile]);
}
