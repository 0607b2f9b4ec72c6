//! Open files, as POSIX has them.

use super::{
    Ground, Rule,
    ground::{at, fails, fails_as, path, pattern, read_write, refused},
    rules,
};
use alknet_core::files::{
    Attributes, Create, Extent, FileErrorCode as Code, OpenOptions, READ_BYTES_MAX, Removal,
    RenameOptions,
};

pub(super) const RULES: &[Rule] = rules![
    what_is_opened_is_there_or_is_made,
    only_files_are_opened,
    reads_are_short_at_the_end_alone,
    writes_are_seen_at_once_by_all,
    writes_beyond_the_end_leave_zeros,
    appended_is_at_the_end_whatever_the_offset,
    a_length_is_set_while_others_read,
    a_removed_file_lives_while_it_is_open,
    a_moved_file_stays_open,
    extents_cover_the_file,
    a_use_that_was_not_opened_for_is_refused,
    each_use_is_checked,
    offsets_have_no_end,
    truncation_empties,
];

async fn what_is_opened_is_there_or_is_made(ground: Ground) {
    let opened = ground.open("none", OpenOptions::reading()).await;
    fails(opened, Code::NoSuchFile);
    let opened = ground
        .open("none", OpenOptions::writing(Create::Never))
        .await;
    fails(opened, Code::NoSuchFile);
    assert!(!ground.is_there("none").await);
    ground.open("new", read_write(Create::New)).await.unwrap();
    assert_eq!(ground.stat("new").await.bytes, 0);
    fails(
        ground.open("new", read_write(Create::New)).await,
        Code::FileExists,
    );
    let file = ground.open("new", read_write(Create::IfMissing)).await;
    assert_eq!(file.unwrap().path(), &at("new"));
    let no_parent = ground.open("no/new", read_write(Create::IfMissing)).await;
    fails(no_parent, Code::NoSuchFile);
    let below = ground.open("new/x", read_write(Create::IfMissing)).await;
    fails(below, Code::NotADirectory);
    let options = OpenOptions {
        mode: Some(0o600),
        ..read_write(Create::IfMissing)
    };
    ground.open("private", options).await.unwrap();
    if ground.features.modes {
        assert_eq!(ground.stat("private").await.mode, 0o600);
    }
    let options = OpenOptions {
        mode: Some(0o4700),
        ..read_write(Create::IfMissing)
    };
    fails(ground.open("run-as", options).await, Code::BadArgument);
    assert!(!ground.is_there("run-as").await);
}

async fn only_files_are_opened(ground: Ground) {
    ground.mkdir("d").await;
    for options in [OpenOptions::reading(), read_write(Create::IfMissing)] {
        fails(ground.open("d", options).await, Code::IsADirectory);
        let root = ground.files.open(&ground.all, &path("main"), options).await;
        fails(root, Code::IsADirectory);
    }
    let new = ground.open("d", read_write(Create::New)).await;
    fails_as(new, &[Code::FileExists, Code::IsADirectory]);
}

async fn reads_are_short_at_the_end_alone(ground: Ground) {
    let content = pattern(READ_BYTES_MAX + 1_000, 9);
    let mut begun = ground.replace("f", Default::default()).await.unwrap();
    for part in content.chunks(1 << 20) {
        begun
            .write(&ground.all, part.to_vec().into())
            .await
            .unwrap();
    }
    begun.commit(&ground.all).await.unwrap();
    let file = ground.open("f", OpenOptions::reading()).await.unwrap();
    let len = content.len();
    for (offset, bytes) in [
        (0, 0),
        (0, 1),
        (0, READ_BYTES_MAX),
        (4_095, 2),
        (999, READ_BYTES_MAX),
        (len - 1, 1),
        (len - 1, 100),
        (len - 100, 101),
        (len, 1),
        (len + 1, 1),
        (len, 0),
    ] {
        let read = file
            .read_at(&ground.all, offset as u64, bytes)
            .await
            .unwrap();
        let wanted = &content[offset.min(len)..(offset + bytes).min(len)];
        assert!(read == wanted, "{bytes} from {offset}: {} came", read.len());
    }
    let most = file.read_at(&ground.all, 0, usize::MAX).await.unwrap();
    assert!(!most.is_empty() && most.len() <= READ_BYTES_MAX);
    assert!(content.starts_with(&most));
    let stat = file.stat(&ground.all).await.unwrap();
    assert_eq!(stat, ground.stat("f").await);
}

async fn writes_are_seen_at_once_by_all(ground: Ground) {
    let (one, two) = (ground.edit("f").await, ground.edit("f").await);
    let all = &ground.all;
    one.write_at(all, 0, "hello".into()).await.unwrap();
    assert_eq!(two.read_at(all, 0, 100).await.unwrap(), "hello");
    two.write_at(all, 4, "p!".into()).await.unwrap();
    assert_eq!(one.read_at(all, 0, 100).await.unwrap(), "hellp!");
    assert_eq!(ground.get("f").await, b"hellp!");
    assert_eq!(ground.stat("f").await.bytes, 6);
    one.write_at(all, 3, "".into()).await.unwrap();
    assert_eq!(one.stat(all).await.unwrap().bytes, 6);
    one.sync(all).await.unwrap();
    // Long ones are written whole.
    let content = pattern(3_000_000, 1);
    one.write_at(all, 1, content.clone().into()).await.unwrap();
    let whole = ground.whole(&*two).await;
    assert!(whole[0] == b'h' && whole[1..] == content);
}

async fn writes_beyond_the_end_leave_zeros(ground: Ground) {
    let file = ground.edit("f").await;
    let all = &ground.all;
    file.write_at(all, 0, "a".into()).await.unwrap();
    file.write_at(all, 10_000, "b".into()).await.unwrap();
    let mut wanted = vec![0; 10_001];
    (wanted[0], wanted[10_000]) = (b'a', b'b');
    assert_eq!(ground.get("f").await, wanted);
    // Nothing written beyond the end does not move it.
    file.write_at(all, 50_000, "".into()).await.unwrap();
    assert_eq!(ground.stat("f").await.bytes, 10_001);
}

async fn appended_is_at_the_end_whatever_the_offset(ground: Ground) {
    ground.put("f", "start").await;
    let options = OpenOptions {
        append: true,
        ..read_write(Create::Never)
    };
    let log = ground.open("f", options).await.unwrap();
    let other = ground.edit("f").await;
    let all = &ground.all;
    log.write_at(all, 0, " one".into()).await.unwrap();
    other.write_at(all, 9, " two".into()).await.unwrap();
    log.write_at(all, 2, " three".into()).await.unwrap();
    assert_eq!(ground.get("f").await, b"start one two three");
    other
        .set_attributes(
            all,
            Attributes {
                bytes: Some(5),
                ..Attributes::default()
            },
        )
        .await
        .unwrap();
    log.write_at(all, 100, "!".into()).await.unwrap();
    assert_eq!(ground.get("f").await, b"start!");
    assert_eq!(log.read_at(all, 0, 100).await.unwrap(), "start!");
}

async fn a_length_is_set_while_others_read(ground: Ground) {
    ground.put("f", pattern(10_000, 0)).await;
    let reader = ground.open("f", OpenOptions::reading()).await.unwrap();
    let writer = ground.edit("f").await;
    let all = &ground.all;
    let length = |bytes| Attributes {
        bytes: Some(bytes),
        ..Attributes::default()
    };
    let stat = writer.set_attributes(all, length(100)).await.unwrap();
    assert_eq!(stat.bytes, 100);
    assert!(reader.read_at(all, 100, 10).await.unwrap().is_empty());
    assert_eq!(reader.read_at(all, 0, 1_000).await.unwrap().len(), 100);
    writer.set_attributes(all, length(200)).await.unwrap();
    assert_eq!(reader.read_at(all, 100, 1_000).await.unwrap(), vec![0; 100]);
    // A handle that only reads does not cut.
    assert!(reader.set_attributes(all, length(0)).await.is_err());
    assert_eq!(reader.stat(all).await.unwrap().bytes, 200);
}

async fn a_removed_file_lives_while_it_is_open(ground: Ground) {
    ground.put("f", "content").await;
    let file = ground.edit("f").await;
    let all = &ground.all;
    let removed = ground.files.remove(all, &at("f"), Removal::File).await;
    removed.unwrap();
    assert!(!ground.is_there("f").await);
    file.write_at(all, 0, "C".into()).await.unwrap();
    assert_eq!(file.read_at(all, 0, 100).await.unwrap(), "Content");
    let stat = file.stat(all).await.unwrap();
    assert_eq!((stat.bytes, stat.links), (7, 0));
    // A new one of the name is another.
    ground.put("f", "new").await;
    file.write_at(all, 0, "K".into()).await.unwrap();
    assert_eq!(ground.get("f").await, b"new");
}

async fn a_moved_file_stays_open(ground: Ground) {
    ground.mkdir("d").await;
    ground.put("d/f", "content").await;
    ground.put("g", "other").await;
    let file = ground.edit("d/f").await;
    let all = &ground.all;
    let options = RenameOptions { replace: true };
    let moved = ground
        .files
        .rename(all, &at("d/f"), &at("g"), options)
        .await;
    moved.unwrap();
    file.write_at(all, 0, "C".into()).await.unwrap();
    assert_eq!(ground.get("g").await, b"Content");
    assert_eq!(file.stat(all).await.unwrap().bytes, 7);
}

async fn extents_cover_the_file(ground: Ground) {
    let file = ground.edit("f").await;
    let all = &ground.all;
    assert_eq!(file.extent(all, 0).await.unwrap(), Extent::End);
    assert_eq!(file.extent(all, 99).await.unwrap(), Extent::End);
    const BLOCK: u64 = 1 << 20;
    file.write_at(all, 2 * BLOCK, "data".into()).await.unwrap();
    let length = Attributes {
        bytes: Some(5 * BLOCK),
        ..Attributes::default()
    };
    file.set_attributes(all, length).await.unwrap();
    let (mut at, mut holes) = (0, 0);
    loop {
        let (to, is_hole) = match file.extent(all, at).await.unwrap() {
            Extent::Data(to) => (to, false),
            Extent::Hole(to) => (to, true),
            Extent::End => break,
        };
        assert!(to > at, "{to} after {at}");
        if is_hole {
            // Bytes are never taken for a hole.
            let data = 2 * BLOCK..2 * BLOCK + 4;
            assert!(to <= data.start || at >= data.end, "{at} to {to}");
            holes += to - at;
        }
        at = to;
    }
    assert_eq!(at, 5 * BLOCK);
    if ground.features.holes {
        assert!(holes >= 4 * BLOCK, "{holes}");
    }
}

async fn a_use_that_was_not_opened_for_is_refused(ground: Ground) {
    ground.put("f", "content").await;
    let all = &ground.all;
    let reader = ground.open("f", OpenOptions::reading()).await.unwrap();
    fails(reader.write_at(all, 0, "x".into()).await, Code::BadArgument);
    let writer = ground.open("f", OpenOptions::writing(Create::Never)).await;
    let writer = writer.unwrap();
    fails(writer.read_at(all, 0, 1).await, Code::BadArgument);
    writer.write_at(all, 0, "C".into()).await.unwrap();
    assert_eq!(ground.get("f").await, b"Content");
}

async fn each_use_is_checked(ground: Ground) {
    ground.put("f", "content").await;
    let grants = ["fs:*", "bucket:main/**=*"];
    ground.access.grant("ada", &grants);
    let read = ground.access.permit("ada", "fs/read");
    let write = ground.access.permit("ada", "fs/write");
    let files = &ground.files;
    // To write is not to read, and the other way round.
    let options = OpenOptions::reading();
    refused(files.open(&write, &at("f"), options).await);
    let options = OpenOptions::writing(Create::Never);
    refused(files.open(&read, &at("f"), options).await);
    let file = files
        .open(&write, &at("f"), read_write(Create::Never))
        .await;
    let file = file.unwrap();
    refused(file.read_at(&write, 0, 1).await);
    refused(file.write_at(&read, 0, "x".into()).await);
    assert_eq!(file.read_at(&read, 0, 1).await.unwrap(), "c");
    file.stat(&read).await.unwrap();
    file.stat(&write).await.unwrap();
    ground.access.grant("ada", &["fs:*", "bucket:other/**=*"]);
    refused(file.read_at(&read, 0, 1).await);
    refused(file.write_at(&write, 0, "x".into()).await);
    refused(file.extent(&read, 0).await);
    refused(file.stat(&read).await);
    refused(file.stat(&write).await);
    refused(file.sync(&write).await);
    let length = Attributes {
        bytes: Some(0),
        ..Attributes::default()
    };
    refused(file.set_attributes(&write, length).await);
    ground.access.forget("ada");
    refused(file.read_at(&read, 0, 1).await);
    refused(file.write_at(&write, 0, "x".into()).await);
    assert_eq!(ground.get("f").await, b"content");
}

async fn offsets_have_no_end(ground: Ground) {
    ground.put("f", "content").await;
    let file = ground.edit("f").await;
    let all = &ground.all;
    for offset in [1 << 40, i64::MAX as u64, 1 << 63, u64::MAX] {
        let read = file.read_at(all, offset, 10).await.unwrap();
        assert!(read.is_empty(), "nothing is at {offset}");
        assert_eq!(file.extent(all, offset).await.unwrap(), Extent::End);
    }
    for offset in [i64::MAX as u64, 1 << 63, u64::MAX] {
        let written = file.write_at(all, offset, "x".into()).await;
        fails_as(written, &[Code::FileTooLarge, Code::BadArgument]);
    }
    assert_eq!(ground.get("f").await, b"content");
}

async fn truncation_empties(ground: Ground) {
    ground.put("f", "content").await;
    let reader = ground.open("f", OpenOptions::reading()).await.unwrap();
    let options = OpenOptions {
        truncate: true,
        ..OpenOptions::writing(Create::IfMissing)
    };
    let file = ground.open("f", options).await.unwrap();
    assert_eq!(ground.stat("f").await.bytes, 0);
    assert!(reader.read_at(&ground.all, 0, 1).await.unwrap().is_empty());
    file.write_at(&ground.all, 0, "new".into()).await.unwrap();
    assert_eq!(ground.get("f").await, b"new");
}
