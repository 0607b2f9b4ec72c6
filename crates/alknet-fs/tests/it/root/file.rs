//! Open files, and what is not opened.

use super::{Ground, assert_errno, name};
use alknet_core::files::{Algorithm, Attributes, ByteRange, Create, FileKind, FileTime, SetTime};
use alknet_fs::root::{Digester, Directory, File, OpenHow, RootError};
use rustix::{
    fs::{CWD, FileType, Mode, makedev, mkfifoat, mknodat},
    io::Errno,
};
use std::{
    fs::{self, Permissions},
    ops::ControlFlow,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixListener,
    },
    sync::mpsc,
    thread,
    time::Duration,
};

fn open(directory: &Directory, file: &str, how: OpenHow) -> Result<File, RootError> {
    directory.open(&name(file), &how)
}

fn content(file: &File) -> Vec<u8> {
    let mut buffer = vec![0; 10_000];
    let bytes = file.read_at(&mut buffer, 0).unwrap();
    buffer.truncate(bytes);
    buffer
}

/// Fails instead of waiting, if it would wait for somebody at the other end.
fn in_time<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(act()).ok());
    told.recv_timeout(Duration::from_secs(10)).unwrap()
}

#[test]
fn pipes_devices_and_sockets_are_never_opened() {
    let ground = Ground::new();
    mkfifoat(CWD, ground.at("pipe"), Mode::from_raw_mode(0o666)).unwrap();
    let _socket = UnixListener::bind(ground.at("socket")).unwrap();
    let mut others = vec!["pipe", "socket"];
    let zero = makedev(1, 5);
    let mode = Mode::from_raw_mode(0o666);
    match mknodat(
        CWD,
        ground.at("zero"),
        FileType::CharacterDevice,
        mode,
        zero,
    ) {
        Ok(()) => others.push("zero"),
        Err(_) => alknet_lab::skip(
            "pipes_devices_and_sockets_are_never_opened",
            "no devices here",
        ),
    }
    let top = ground.root.directory();
    for other in others {
        assert_eq!(top.meta_of(&name(other)).unwrap().kind, FileKind::Other);
        let hows = [
            OpenHow::read(),
            OpenHow::write(Create::Never),
            OpenHow::write(Create::IfMissing),
            OpenHow {
                truncate: true,
                ..OpenHow::write(Create::IfMissing)
            },
        ];
        for how in hows {
            let (top, other) = (top.clone(), other.to_owned());
            let said = in_time(move || open(&top, &other, how));
            assert!(matches!(said, Err(RootError::NotAFile)), "{said:?}");
        }
        let new = open(&top, other, OpenHow::write(Create::New));
        assert_errno(new, Errno::EXIST);
        assert!(matches!(
            top.link(&name(other), &top, &name("x")),
            Err(RootError::NotAFile)
        ));
        let mode = Attributes {
            mode: Some(0o777),
            ..Attributes::default()
        };
        let set = top.set_attributes_of(&name(other), &mode);
        assert!(matches!(set, Err(RootError::NotAFile)));
        top.remove_file(&name(other)).unwrap();
        assert!(!ground.at(other).exists());
    }
}

#[test]
fn only_files_are_opened_and_no_symlink_is_followed() {
    let ground = Ground::new();
    ground
        .dirs("d")
        .file("f", "text")
        .link("l", "f")
        .link("out", ground.outside("canary"));
    let top = ground.root.directory();
    assert_errno(open(&top, "d", OpenHow::read()), Errno::ISDIR);
    assert_errno(open(&top, "missing", OpenHow::read()), Errno::NOENT);
    for link in ["l", "out"] {
        assert_errno(open(&top, link, OpenHow::read()), Errno::LOOP);
        assert_errno(
            open(&top, link, OpenHow::write(Create::IfMissing)),
            Errno::LOOP,
        );
        assert_errno(open(&top, link, OpenHow::write(Create::New)), Errno::EXIST);
    }
    let nothing = OpenHow {
        read: false,
        ..OpenHow::read()
    };
    assert_errno(open(&top, "f", nothing), Errno::INVAL);
    let cut = OpenHow {
        truncate: true,
        ..OpenHow::read()
    };
    assert_errno(open(&top, "f", cut), Errno::INVAL);
    assert_eq!(fs::read(ground.at("f")).unwrap(), b"text");
    let set_id = OpenHow {
        mode: Some(0o4755),
        ..OpenHow::write(Create::New)
    };
    assert!(matches!(open(&top, "s", set_id), Err(RootError::SetId)));
    assert!(!ground.at("s").exists());
    ground.assert_untouched();
}

#[test]
fn files_are_made_cut_and_appended_to_as_asked() {
    let ground = Ground::new();
    let top = ground.root.directory();
    let made = OpenHow {
        mode: Some(0o640),
        ..OpenHow::write(Create::New)
    };
    open(&top, "f", made)
        .unwrap()
        .write_at(b"0123456789", 0)
        .unwrap();
    assert_eq!(fs::metadata(ground.at("f")).unwrap().mode() & 0o777, 0o640);
    assert_errno(open(&top, "f", OpenHow::write(Create::New)), Errno::EXIST);
    let file = open(
        &top,
        "f",
        OpenHow {
            read: true,
            ..OpenHow::write(Create::Never)
        },
    )
    .unwrap();
    file.write_at(b"ab", 4).unwrap();
    assert_eq!(content(&file), b"0123ab6789");
    let append = OpenHow {
        write: false,
        append: true,
        ..OpenHow::write(Create::Never)
    };
    let end = open(&top, "f", append).unwrap();
    end.append(b"!").unwrap();
    assert_errno(end.write_at(b"x", 0), Errno::INVAL);
    assert_errno(file.append(b"x"), Errno::INVAL);
    assert_eq!(content(&file), b"0123ab6789!");
    file.set_len(3).unwrap();
    end.append(b"?").unwrap();
    assert_eq!(content(&file), b"012?");
    let cut = OpenHow {
        truncate: true,
        ..OpenHow::write(Create::Never)
    };
    open(&top, "f", cut).unwrap();
    assert_eq!(content(&file), b"");
    assert_eq!(file.meta().unwrap().bytes, 0);
}

/// Else whoever may write it would choose what others run as its owner.
#[test]
fn a_file_that_is_written_in_place_loses_its_set_id_bits() {
    let ground = Ground::new();
    ground.file("source", "new");
    let top = ground.root.directory();
    let write = OpenHow::write(Create::Never);
    let append = OpenHow {
        write: false,
        append: true,
        ..write
    };
    let cut = OpenHow {
        truncate: true,
        ..write
    };
    let source = open(&top, "source", OpenHow::read()).unwrap();
    let write_at = |file: &File| file.write_at(b"new", 0);
    let copy = |file: &File| file.copy_from(&source, 0, 0, 3).map(|_| ());
    let lengthen = Attributes {
        bytes: Some(9),
        ..Attributes::default()
    };
    let by_attributes = |file: &File| file.set_attributes(&lengthen).map(|_| ());
    type Act<'a> = &'a dyn Fn(&File) -> Result<(), RootError>;
    let acts: [(&str, OpenHow, Act<'_>); 6] = [
        ("write", write, &write_at),
        ("append", append, &|file| file.append(b"new")),
        ("truncate", cut, &|_| Ok(())),
        ("length", write, &|file| file.set_len(1)),
        ("attributes", write, &by_attributes),
        ("copy", write, &copy),
    ];
    for (what, how, act) in acts {
        ground.file("f", "old");
        let mode =
            |mode| fs::set_permissions(ground.at("f"), Permissions::from_mode(mode)).unwrap();
        mode(0o6755);
        // What is only looked at keeps them.
        drop(open(&top, "f", OpenHow::read()).unwrap());
        assert_eq!(
            fs::metadata(ground.at("f")).unwrap().mode() & 0o7777,
            0o6755
        );
        act(&open(&top, "f", how).unwrap()).unwrap();
        let left = fs::metadata(ground.at("f")).unwrap().mode() & 0o7777;
        assert_eq!(left, 0o755, "{what}");
        fs::remove_file(ground.at("f")).unwrap();
    }
    ground.file("f", "old");
    fs::set_permissions(ground.at("f"), Permissions::from_mode(0o4711)).unwrap();
    top.set_attributes_of(&name("f"), &lengthen).unwrap();
    assert_eq!(fs::metadata(ground.at("f")).unwrap().mode() & 0o7777, 0o711);
}

#[test]
fn holes_are_told_and_kept() {
    let ground = Ground::new();
    let top = ground.root.directory();
    let both = OpenHow {
        read: true,
        ..OpenHow::write(Create::New)
    };
    let file = open(&top, "f", both).unwrap();
    const MIB: u64 = 1 << 20;
    file.write_at(&[1; 4096], 10 * MIB).unwrap();
    file.write_at(&[2; 4096], 30 * MIB).unwrap();
    file.set_len(40 * MIB).unwrap();
    let ranges = |file: &File| {
        let (mut at, mut ranges) = (0, Vec::new());
        while let Some(range) = file.next_data(at).unwrap() {
            at = range.end;
            ranges.push(range);
        }
        ranges
    };
    let found = ranges(&file);
    assert_eq!(
        found,
        [10 * MIB..10 * MIB + 4096, 30 * MIB..30 * MIB + 4096]
    );
    assert!(file.next_data(40 * MIB).unwrap().is_none());
    let copy = open(&top, "copy", both).unwrap();
    for range in found {
        let bytes = range.end - range.start;
        assert_eq!(
            copy.copy_from(&file, range.start, range.start, bytes)
                .unwrap(),
            bytes
        );
    }
    copy.set_len(40 * MIB).unwrap();
    assert_eq!(ranges(&copy), ranges(&file));
    assert!(copy.meta().unwrap().bytes_on_disk < MIB);
    assert_eq!(
        fs::read(ground.at("copy")).unwrap(),
        fs::read(ground.at("f")).unwrap()
    );
    // Past the end there is nothing to copy.
    assert_eq!(copy.copy_from(&file, 40 * MIB - 10, 0, 100).unwrap(), 10);
}

#[test]
fn digests_are_those_that_others_compute() {
    let ground = Ground::new();
    ground.file("f", "abc").file("long", vec![b'a'; 1_000_000]);
    let all = [Algorithm::Blake3, Algorithm::Sha256, Algorithm::Md5];
    let digest = |file: &str, range: ByteRange| {
        let file = open(&ground.root.directory(), file, OpenHow::read()).unwrap();
        let mut digester = Digester::new(&all);
        file.digest(range, &mut digester, |_| ControlFlow::Continue(()))
            .unwrap();
        digester.finish()
    };
    let whole = digest("f", ByteRange::default());
    // FIPS 180-4 and RFC 1321 have these; the first is of the BLAKE3 reference.
    assert_eq!(
        whole.blake3.unwrap(),
        "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
    );
    assert_eq!(
        whole.sha256.unwrap(),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_eq!(whole.md5.unwrap(), "900150983cd24fb0d6963f7d28e17f72");
    let long = digest("long", ByteRange::default());
    assert_eq!(
        long.sha256.unwrap(),
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    );
    let part = digest(
        "long",
        ByteRange {
            offset: 999_999,
            bytes: Some(10),
        },
    );
    assert_eq!(part.md5.unwrap(), "0cc175b9c0f1b6a831c399e269772661");
    let mut zeros = Digester::new(&all);
    zeros.update_zeros(100_000);
    let mut same = Digester::new(&all);
    same.update(&vec![0; 100_000]);
    assert_eq!(zeros.finish(), same.finish());
    let file = open(&ground.root.directory(), "long", OpenHow::read()).unwrap();
    let stopped = file.digest(ByteRange::default(), &mut Digester::new(&all), |_| {
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(RootError::Stopped)));
}

#[test]
fn attributes_are_set_on_the_entry_itself() {
    let ground = Ground::new();
    ground
        .dirs("d")
        .file("f", "0123456789")
        .link("l", "f")
        .link("out", ground.outside("canary"));
    let top = ground.root.directory();
    let time = FileTime {
        seconds: 1_700_000_000,
        nanoseconds: 123_456_789,
    };
    let before = fs::metadata(ground.outside("canary")).unwrap();
    let times = Attributes {
        mtime: Some(SetTime::To(time)),
        ..Attributes::default()
    };
    for entry in ["d", "f", "l", "out"] {
        let meta = top.set_attributes_of(&name(entry), &times).unwrap();
        assert_eq!(meta.modified, time, "{entry}");
        assert_eq!(top.meta_of(&name(entry)).unwrap().modified, time);
    }
    let after = fs::metadata(ground.outside("canary")).unwrap();
    assert_eq!(
        (before.mtime(), before.ctime_nsec()),
        (after.mtime(), after.ctime_nsec())
    );
    let mode = |mode| Attributes {
        mode: Some(mode),
        ..Attributes::default()
    };
    // Without the right to read it, it is still its owner's to set.
    assert_eq!(
        top.set_attributes_of(&name("f"), &mode(0o000))
            .unwrap()
            .mode,
        0
    );
    assert_eq!(
        top.set_attributes_of(&name("f"), &mode(0o600))
            .unwrap()
            .mode,
        0o600
    );
    assert_eq!(
        top.set_attributes_of(&name("d"), &mode(0o1777))
            .unwrap()
            .mode,
        0o1777
    );
    assert_errno(
        top.set_attributes_of(&name("f"), &mode(0o1644)),
        Errno::INVAL,
    );
    assert_errno(
        top.set_attributes_of(&name("out"), &mode(0o600)),
        Errno::OPNOTSUPP,
    );
    for set_id in [0o4755, 0o2755, 0o6000] {
        for entry in ["f", "d"] {
            let said = top.set_attributes_of(&name(entry), &mode(set_id));
            assert!(matches!(said, Err(RootError::SetId)), "{said:?}");
        }
        assert!(matches!(
            top.make_directory(&name("new"), set_id),
            Err(RootError::SetId)
        ));
    }
    assert_errno(
        top.set_attributes_of(&name("f"), &mode(0o100644)),
        Errno::INVAL,
    );
    let len = Attributes {
        bytes: Some(4),
        ..Attributes::default()
    };
    assert_eq!(top.set_attributes_of(&name("f"), &len).unwrap().bytes, 4);
    assert_eq!(fs::read(ground.at("f")).unwrap(), b"0123");
    assert_errno(top.set_attributes_of(&name("d"), &len), Errno::ISDIR);
    let nobody = Attributes {
        uid: Some(u32::MAX),
        ..Attributes::default()
    };
    assert_errno(top.set_attributes_of(&name("f"), &nobody), Errno::INVAL);
    let file = open(
        &top,
        "f",
        OpenHow {
            read: true,
            ..OpenHow::write(Create::Never)
        },
    )
    .unwrap();
    let meta = file
        .set_attributes(&Attributes {
            bytes: Some(6),
            mode: Some(0o644),
            ..times
        })
        .unwrap();
    assert_eq!((meta.bytes, meta.mode, meta.modified), (6, 0o644, time));
    let root = top.set_attributes(&mode(0o750)).unwrap();
    assert_eq!(root.mode, 0o750);
    assert_eq!(
        fs::metadata(ground.at("")).unwrap().permissions().mode() & 0o7777,
        0o750
    );
    ground.assert_untouched();
}

#[test]
fn a_version_tells_changes() {
    let ground = Ground::new();
    ground.file("f", "one").file("g", "one");
    let top = ground.root.directory();
    let version = |file: &str| top.meta_of(&name(file)).unwrap().version();
    let first = version("f");
    assert_eq!(version("f"), first);
    assert_ne!(version("g"), first);
    ground.file("f", "longer");
    assert_ne!(version("f"), first);
    let meta = top.meta_of(&name("f")).unwrap();
    assert_eq!(meta.stat().version, meta.version());
    assert_eq!(meta.stat().bytes, 6);
    assert!(meta.version().is_ascii() && meta.version().len() <= 100);
}
