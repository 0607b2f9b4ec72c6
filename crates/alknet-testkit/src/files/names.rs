//! Names are bytes, and are kept as they are.

use super::{
    Ground, Rule,
    ground::{at, fails, fails_as, in_, name, path, small},
    rules,
};
use alknet_core::files::{
    FILE_NAME_BYTES_MAX, FILE_PATH_BYTES_MAX, FileErrorCode as Code, FileKind, FilePath,
    OpenOptions, Removal, RenameOptions, ReplaceOptions,
};

pub(super) const RULES: &[Rule] = rules![
    every_byte_but_two_is_kept,
    a_name_has_255_bytes,
    what_looks_alike_is_not_the_same,
    odd_names_go_through_every_method,
    a_path_has_4095_bytes,
    names_of_partial_files_are_reserved,
    an_unknown_bucket_has_nothing,
];

async fn every_byte_but_two_is_kept(ground: Ground) {
    let bytes = (1..=u8::MAX).filter(|byte| *byte != b'/');
    let mut names: Vec<_> = bytes.clone().map(|byte| name(&[byte, b'x'])).collect();
    names.extend(bytes.filter(|byte| *byte != b'.').map(|byte| name(&[byte])));
    let root = path("main");
    let files = names.iter().map(|name| {
        let content = name.as_bytes().to_vec();
        small(root.join(name.clone()).unwrap(), content)
    });
    for done in ground.files.put_small(&ground.all, files.collect()).await {
        done.unwrap();
    }
    names.sort();
    assert_eq!(names.len(), 254 + 253);
    assert_eq!(ground.names(&root).await, names);
    for name in names {
        let content = ground.get_at(&root.join(name.clone()).unwrap()).await;
        assert_eq!(content.unwrap(), name.as_bytes());
    }
}

async fn a_name_has_255_bytes(ground: Ground) {
    // Letters of two bytes: 127 and a half of them do not fit.
    for long in [
        vec![b'n'; FILE_NAME_BYTES_MAX],
        vec![0xFF; FILE_NAME_BYTES_MAX],
        ["é".repeat(127).as_bytes(), b"e"].concat(),
    ] {
        let file = in_(&path("main"), &long);
        ground.put_at(file.clone(), "long").await.unwrap();
        assert_eq!(ground.get_at(&file).await.unwrap(), b"long");
        let mut replacement = (ground.files)
            .replace(&ground.all, &file, ReplaceOptions::default())
            .await
            .unwrap();
        replacement.write(&ground.all, "new".into()).await.unwrap();
        replacement.commit(&ground.all).await.unwrap();
        assert_eq!(ground.get_at(&file).await.unwrap(), b"new");
        let moved = in_(&path("main"), &long[1..]);
        let options = RenameOptions::default();
        let renamed = ground.files.rename(&ground.all, &file, &moved, options);
        renamed.await.unwrap();
        assert_eq!(ground.names(&path("main")).await, [name(&long[1..])]);
        let removed = ground.files.remove(&ground.all, &moved, Removal::File);
        removed.await.unwrap();
    }
}

async fn what_looks_alike_is_not_the_same(ground: Ground) {
    // NFC and NFD of one word, three cases, a letter that folds to two.
    let alike = [
        "caf\u{e9}",
        "cafe\u{301}",
        "CAFE",
        "cafe",
        "Cafe",
        "stra\u{df}e",
        "strasse",
        "\u{212b}",
        "\u{c5}",
        "A\u{30a}",
        "\u{fb01}",
        "fi",
    ];
    for (at, text) in alike.iter().enumerate() {
        let file = in_(&path("main"), text.as_bytes());
        ground.put_at(file, format!("{at}")).await.unwrap();
    }
    assert_eq!(ground.names(&path("main")).await.len(), alike.len());
    for (at, text) in alike.iter().enumerate() {
        let content = ground.get_at(&in_(&path("main"), text.as_bytes())).await;
        assert_eq!(content.unwrap(), format!("{at}").as_bytes(), "{text:?}");
    }
}

async fn odd_names_go_through_every_method(ground: Ground) {
    let odd: &[&[u8]] = &[
        b"-rf",
        b"--",
        b"a\nb",
        b"\n",
        b"%",
        b"%41",
        b"%2F",
        b"*",
        b"**",
        b"?",
        b"[a]",
        b" ",
        b"~",
        b"\\",
        b"...",
        b"..a",
        b"a b ",
        b"\xff\xfe",
        b"\x1b[31m",
        b"$(reboot)",
        b"a:b",
        b"@b",
        b"con",
        b"\xed\xa0\x80",
        b"\xe2\x80\xae",
    ];
    let root = path("main");
    for bytes in odd {
        let (directory, file) = (in_(&root, bytes), in_(&in_(&root, bytes), bytes));
        let files = &ground.files;
        let made = files.make_directory(&ground.all, &directory, None).await;
        made.unwrap();
        ground.put_at(file.clone(), "odd").await.unwrap();
        let link = in_(&directory, b"link");
        files.symlink(&ground.all, &link, bytes).await.unwrap();
        assert_eq!(files.read_link(&ground.all, &link).await.unwrap(), *bytes);
        assert_eq!(ground.get_at(&link).await.unwrap(), b"odd");
        let listed = ground.entries(&directory).await;
        let listed = listed
            .iter()
            .find(|entry| entry.stat.kind == FileKind::Symlink);
        let target = listed.unwrap().target.as_deref().unwrap();
        assert_eq!(*alknet_core::files::unescape_name(target).unwrap(), **bytes);
        let open = files.open(&ground.all, &link, OpenOptions::reading()).await;
        assert_eq!(open.unwrap().path(), &file);
        let moved = in_(&root, b"moved");
        let options = RenameOptions::default();
        let renamed = files.rename(&ground.all, &directory, &moved, options).await;
        renamed.unwrap();
        let back = in_(&moved, bytes);
        assert_eq!(ground.get_at(&back).await.unwrap(), b"odd");
        let removed = files.remove(&ground.all, &moved, Removal::Tree).await;
        assert_eq!(removed.unwrap().files, 2);
    }
    assert!(ground.names(&root).await.is_empty());
}

async fn a_path_has_4095_bytes(ground: Ground) {
    let mut directory = path("main");
    for _ in 0..15 {
        directory = in_(&directory, &[b'd'; 255]);
        let made = ground.files.make_directory(&ground.all, &directory, None);
        made.await.unwrap();
    }
    let file = in_(&directory, &[b'f'; 255]);
    let bytes: usize = file.names().iter().map(|name| name.as_bytes().len()).sum();
    assert_eq!(bytes + file.names().len() - 1, FILE_PATH_BYTES_MAX);
    ground.put_at(file.clone(), "deep").await.unwrap();
    assert_eq!(ground.get_at(&file).await.unwrap(), b"deep");
    assert_eq!(ground.names(&directory).await, [name(&[b'f'; 255])]);
    let top = in_(&path("main"), &[b'd'; 255]);
    let removed = ground.files.remove(&ground.all, &top, Removal::Tree).await;
    let removed = removed.unwrap();
    assert_eq!((removed.files, removed.directories), (1, 15));
}

async fn names_of_partial_files_are_reserved(ground: Ground) {
    let reserved = at(".alknet-part-00000000000000000000000000000000");
    let files = &ground.files;
    let all = &ground.all;
    fails(
        ground.put_at(reserved.clone(), "x").await,
        Code::NameRefused,
    );
    let made = files.make_directory(all, &reserved, None).await;
    fails(made, Code::NameRefused);
    let made = files.symlink(all, &reserved, b"x").await;
    fails(made, Code::NameRefused);
    let begun = files.replace(all, &reserved, ReplaceOptions::default());
    fails(begun.await, Code::NameRefused);
    ground.put("a", "x").await;
    let renamed = files
        .rename(all, &at("a"), &reserved, RenameOptions::default())
        .await;
    fails(renamed, Code::NameRefused);
    let seen = files.stat(all, &reserved, true).await;
    fails_as(seen, &[Code::NameRefused, Code::NoSuchFile]);
    // Only the prefix is.
    ground.put(".alknet-par", "x").await;
}

async fn an_unknown_bucket_has_nothing(ground: Ground) {
    let nowhere: FilePath = path("nowhere/a");
    let (files, all) = (&ground.files, &ground.all);
    let code = Code::NoSuchBucket;
    fails(files.stat(all, &nowhere, true).await, code);
    fails(files.list(all, &path("nowhere"), None).await, code);
    let options = OpenOptions::reading();
    fails(files.open(all, &nowhere, options).await, code);
    fails(ground.put_at(nowhere.clone(), "x").await, code);
    fails(ground.get_at(&nowhere).await, code);
    fails(files.space(all, &nowhere).await, code);
    ground.put("a", "x").await;
    let to = files
        .rename(all, &at("a"), &nowhere, RenameOptions::default())
        .await;
    fails_as(to, &[code, Code::OtherFileSystem]);
    let copied = files
        .copy(all, &at("a"), &nowhere, Default::default())
        .await;
    fails(copied, code);
    let names: Vec<String> = (files.buckets(all).await.unwrap().into_iter())
        .map(|bucket| bucket.name)
        .collect();
    for known in ["main", "other", "small", "fixed"] {
        assert!(names.iter().any(|name| name == known), "{names:?}");
    }
}
