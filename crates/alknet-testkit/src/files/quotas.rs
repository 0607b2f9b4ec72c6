//! A full bucket, and one that is not written to.

use super::{
    Ground, Rule,
    ground::{Shape, Subject, fails, path, read_write, small},
    rules,
};
use alknet_core::files::{
    Attributes, CopyOptions, Create, FileError, FileErrorCode as Code, FilePath, OpenOptions,
    Removal, RenameOptions, ReplaceOptions, SetTime, Space,
};
use std::collections::BTreeMap;

pub(super) const RULES: &[Rule] = rules![
    the_last_byte_fits_and_the_next_does_not,
    the_last_entry_fits_and_the_next_does_not,
    what_is_freed_is_free_again,
    announced_bytes_are_refused_at_once,
    what_is_read_only_is_read_only,
];

const MOST: usize = Subject::SMALL_BYTES as usize;

async fn in_small(ground: &Ground) -> (BTreeMap<String, Shape>, Space) {
    let root = path("small");
    let space = ground.files.space(&ground.all, &root).await.unwrap();
    (ground.tree(&root).await, space)
}

/// One way in which a file grows to `bytes`.
type Grow = for<'a> fn(&'a Ground, usize) -> futures::future::BoxFuture<'a, Result<(), FileError>>;

/// Each makes `small/f` of so many bytes; before, it has one.
const WAYS: &[(&str, Grow)] = &[
    ("put_small", |ground, bytes| {
        Box::pin(async move {
            let put = ground.put_at(path("small/f"), vec![1; bytes]).await;
            put.map(drop)
        })
    }),
    ("replace", |ground, bytes| {
        Box::pin(async move {
            let (files, all, options) = (&ground.files, &ground.all, ReplaceOptions::default());
            let mut begun = files.replace(all, &path("small/f"), options).await?;
            let (a, b) = (bytes / 2, bytes - bytes / 2);
            begun.write(all, vec![1; a].into()).await?;
            begun.write(all, vec![1; b].into()).await?;
            begun.commit(all).await.map(drop)
        })
    }),
    ("skip", |ground, bytes| {
        Box::pin(async move {
            let (files, all, options) = (&ground.files, &ground.all, ReplaceOptions::default());
            let mut begun = files.replace(all, &path("small/f"), options).await?;
            begun.skip(all, bytes as u64).await?;
            begun.commit(all).await.map(drop)
        })
    }),
    ("write_at", |ground, bytes| {
        Box::pin(async move {
            let (files, all) = (&ground.files, &ground.all);
            let options = read_write(Create::IfMissing);
            let file = files.open(all, &path("small/f"), options).await?;
            let last = bytes as u64 - 1;
            file.write_at(all, last, "x".into()).await
        })
    }),
    ("append", |ground, bytes| {
        Box::pin(async move {
            let (files, all) = (&ground.files, &ground.all);
            let options = OpenOptions {
                append: true,
                ..read_write(Create::IfMissing)
            };
            let file = files.open(all, &path("small/f"), options).await?;
            let more = bytes as u64 - file.stat(all).await?.bytes;
            file.write_at(all, 0, vec![1; more as usize].into()).await
        })
    }),
    ("set_attributes", |ground, bytes| {
        Box::pin(async move {
            let attributes = Attributes {
                bytes: Some(bytes as u64),
                ..Attributes::default()
            };
            let (files, all) = (&ground.files, &ground.all);
            let set = files
                .set_attributes(all, &path("small/f"), true, attributes)
                .await;
            set.map(drop)
        })
    }),
    ("set_attributes of a handle", |ground, bytes| {
        Box::pin(async move {
            let attributes = Attributes {
                bytes: Some(bytes as u64),
                ..Attributes::default()
            };
            let (files, all) = (&ground.files, &ground.all);
            let options = read_write(Create::IfMissing);
            let file = files.open(all, &path("small/f"), options).await?;
            file.set_attributes(all, attributes).await.map(drop)
        })
    }),
    ("copy", |ground, bytes| {
        Box::pin(async move {
            ground.put("from", vec![1; bytes]).await;
            let (files, all, options) = (&ground.files, &ground.all, CopyOptions::default());
            let copied = files
                .copy(all, &path("main/from"), &path("small/f"), options)
                .await;
            copied.map(drop)
        })
    }),
];

async fn the_last_byte_fits_and_the_next_does_not(ground: Ground) {
    // Half of it is another's.
    let half = MOST / 2;
    ground.put_at(path("small/g"), vec![2; half]).await.unwrap();
    for (way, grow) in WAYS {
        ground.put_at(path("small/f"), "x").await.unwrap();
        let before = in_small(&ground).await;
        let over = grow(&ground, MOST - half + 1).await;
        match over {
            Err(error) => assert_eq!(error.code(), Some(Code::QuotaExceeded), "{way}: {error}"),
            Ok(()) => panic!("{way}: one byte more than allowed"),
        }
        assert_eq!(in_small(&ground).await, before, "{way}");
        let fits = grow(&ground, MOST - half).await;
        assert!(fits.is_ok(), "{way}: {fits:?}");
        let (_, space) = in_small(&ground).await;
        assert_eq!(space.bytes_free, 0, "{way}");
        let removed = ground
            .files
            .remove(&ground.all, &path("small/f"), Removal::File)
            .await;
        removed.unwrap();
    }
}

async fn the_last_entry_fits_and_the_next_does_not(ground: Ground) {
    let (files, all) = (&ground.files, &ground.all);
    let make = async |n: u64, way: u64| -> Result<(), FileError> {
        let at = path(&format!("small/{n}"));
        match way % 6 {
            0 => ground.put_at(at, "").await.map(drop),
            1 => files.make_directory(all, &at, None).await.map(drop),
            2 => files.symlink(all, &at, b"0").await,
            3 => {
                let begun = files.replace(all, &at, ReplaceOptions::default()).await?;
                begun.commit(all).await.map(drop)
            }
            4 => {
                let options = read_write(Create::New);
                files.open(all, &at, options).await.map(drop)
            }
            _ => {
                let (from, options) = (path("main/from"), CopyOptions::default());
                files.copy(all, &from, &at, options).await.map(drop)
            }
        }
    };
    ground.put("from", "").await;
    let most = Subject::SMALL_ENTRIES;
    for n in 0..most - 1 {
        make(n, n).await.unwrap();
    }
    for way in 0..6 {
        make(most, way).await.unwrap();
        let before = in_small(&ground).await;
        assert_eq!(before.1.entries_free, 0);
        for other in 0..6 {
            fails(make(most + 1, other).await, Code::QuotaExceeded);
        }
        if ground.features.hard_links {
            let linked = files.link(all, &path("small/0"), &path("small/link")).await;
            fails(linked, Code::QuotaExceeded);
        }
        assert_eq!(in_small(&ground).await, before);
        // What replaces an entry makes none.
        ground.put_at(path("small/0"), "").await.unwrap();
        let removed = files
            .remove(all, &path(&format!("small/{most}")), Removal::Tree)
            .await;
        removed.unwrap();
    }
}

async fn what_is_freed_is_free_again(ground: Ground) {
    let (files, all) = (&ground.files, &ground.all);
    let fill = async |name: &str, bytes: usize| {
        ground
            .put_at(path(&format!("small/{name}")), vec![1; bytes])
            .await
    };
    for _ in 0..5 {
        fill("f", MOST).await.unwrap();
        fails(fill("g", 1).await, Code::QuotaExceeded);
        // A shorter content leaves room.
        fill("f", MOST - 1).await.unwrap();
        fill("g", 1).await.unwrap();
        let cut = Attributes {
            bytes: Some(10),
            ..Attributes::default()
        };
        let cut = files.set_attributes(all, &path("small/f"), true, cut).await;
        cut.unwrap();
        fill("h", MOST - 11).await.unwrap();
        // A file that replaces another in a rename frees that.
        let (from, to) = (path("small/g"), path("small/h"));
        let options = RenameOptions { replace: true };
        files.rename(all, &from, &to, options).await.unwrap();
        fill("i", MOST - 11).await.unwrap();
        for name in ["f", "h", "i"] {
            let at: FilePath = path(&format!("small/{name}"));
            files.remove(all, &at, Removal::Tree).await.unwrap();
        }
        // What is given up is not counted.
        let options = ReplaceOptions::default();
        let mut begun = files.replace(all, &path("small/f"), options).await.unwrap();
        begun.write(all, vec![1; MOST / 2].into()).await.unwrap();
        begun.discard().await;
    }
    let (_, space) = in_small(&ground).await;
    assert_eq!(space.bytes_free, Subject::SMALL_BYTES);
    assert_eq!(space.entries_free, Subject::SMALL_ENTRIES);
}

async fn announced_bytes_are_refused_at_once(ground: Ground) {
    let (files, all) = (&ground.files, &ground.all);
    let options = |bytes: u64| ReplaceOptions {
        bytes: Some(bytes),
        ..ReplaceOptions::default()
    };
    let at = path("small/f");
    let over = files
        .replace(all, &at, options(Subject::SMALL_BYTES + 1))
        .await;
    fails(over, Code::QuotaExceeded);
    let begun = files.replace(all, &at, options(Subject::SMALL_BYTES)).await;
    begun.unwrap().discard().await;
    assert!(in_small(&ground).await.0.is_empty());
}

async fn what_is_read_only_is_read_only(ground: Ground) {
    let (files, all, root) = (&ground.files, &ground.all, path("fixed"));
    let before = ground.tree(&root).await;
    let kept = path("fixed/kept");
    assert_eq!(
        before.get("fixed/kept"),
        Some(&Shape::File(b"kept".to_vec()))
    );
    let new = path("fixed/new");
    let code = Code::ReadOnly;
    for create in [Create::IfMissing, Create::Never] {
        let options = OpenOptions::writing(create);
        fails(files.open(all, &kept, options).await, code);
    }
    let options = OpenOptions {
        append: true,
        ..read_write(Create::IfMissing)
    };
    fails(files.open(all, &kept, options).await, code);
    fails(files.open(all, &new, read_write(Create::New)).await, code);
    for at in [&kept, &new] {
        let begun = files.replace(all, at, ReplaceOptions::default()).await;
        fails(begun, code);
        let put = files.put_small(all, vec![small(at.clone(), "x")]).await;
        put.into_iter().for_each(|put| fails(put, code));
    }
    for attributes in [
        Attributes {
            mode: Some(0o600),
            ..Attributes::default()
        },
        Attributes {
            bytes: Some(0),
            ..Attributes::default()
        },
        Attributes {
            mtime: Some(SetTime::Now),
            ..Attributes::default()
        },
    ] {
        let set = files.set_attributes(all, &kept, true, attributes).await;
        fails(set, code);
    }
    fails(files.make_directory(all, &new, None).await, code);
    let options = RenameOptions { replace: true };
    fails(files.rename(all, &kept, &new, options).await, code);
    if ground.features.hard_links {
        fails(files.link(all, &kept, &new).await, code);
    }
    fails(files.symlink(all, &new, b"kept").await, code);
    fails(files.remove(all, &kept, Removal::File).await, code);
    let empty = path("fixed/empty");
    fails(files.remove(all, &empty, Removal::Directory).await, code);
    let full = path("fixed/full");
    fails(files.remove(all, &full, Removal::Tree).await, code);
    fails(
        files.copy(all, &kept, &new, CopyOptions::default()).await,
        code,
    );
    ground.put("from", "x").await;
    let into = files
        .copy(all, &path("main/from"), &new, CopyOptions::default())
        .await;
    fails(into, code);
    assert_eq!(ground.tree(&root).await, before);
    // It is read, and copied from.
    let out = files
        .copy(all, &kept, &path("main/out"), CopyOptions::default())
        .await;
    out.unwrap();
    assert_eq!(ground.get("out").await, b"kept");
    let buckets = files.buckets(all).await.unwrap();
    for bucket in buckets {
        assert_eq!(bucket.read_only, bucket.name == "fixed", "{}", bucket.name);
        let has_quota = bucket.quota_bytes == Some(Subject::SMALL_BYTES)
            && bucket.quota_entries == Some(Subject::SMALL_ENTRIES);
        assert_eq!(has_quota, bucket.name == "small", "{}", bucket.name);
    }
}
