//! Listings, page by page.

use super::{Ground, assert_errno, name};
use alknet_core::files::{FileKind, FileName};
use alknet_fs::root::{Detail, Position, RootError};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

#[test]
fn pages_have_what_was_asked_and_go_on_where_they_ended() {
    let ground = Ground::new();
    ground.dirs("d/sub").link("d/link", "nowhere");
    for at in 0..500 {
        ground.file(&format!("d/f{at}"), vec![b'x'; at]);
    }
    let directory = ground.directory("d");
    let mut seen: BTreeMap<FileName, FileKind> = BTreeMap::new();
    let mut from: Option<Position> = None;
    loop {
        // Every page from a listing of its own.
        let mut listing = directory.list(from).unwrap();
        let page = listing.page(7, Detail::Meta).unwrap();
        assert!(page.len() <= 7);
        let Some(last) = page.last() else { break };
        assert_eq!(last.next, listing.position());
        from = Some(listing.position());
        for entry in page {
            let meta = entry.meta.unwrap();
            assert_eq!(meta.kind, entry.kind);
            if let Some(bytes) = entry.name.to_string().strip_prefix('f') {
                assert_eq!(meta.bytes.to_string(), bytes);
            }
            assert!(seen.insert(entry.name, entry.kind).is_none());
        }
    }
    assert_eq!(seen.len(), 502);
    assert_eq!(seen[&name("sub")], FileKind::Directory);
    assert_eq!(seen[&name("link")], FileKind::Symlink);
    let elsewhere = ground.root.directory().list(from);
    assert!(matches!(elsewhere, Err(RootError::Changed)));
    let kinds = directory
        .list(None)
        .unwrap()
        .page(1000, Detail::Kinds)
        .unwrap();
    assert!(kinds.iter().all(|entry| entry.meta.is_none()));
    assert_eq!(kinds.len(), 502);
    // What may be entered need not be readable, but as root everything is.
    assert_errno(
        ground.directory("d").enter(&name("link")),
        rustix::io::Errno::NOTDIR,
    );
}

#[test]
fn a_directory_is_listed_while_it_changes() {
    list_while_it_changes(10_000);
}

#[test]
fn slow_a_directory_of_100_000_is_listed_while_it_changes() {
    list_while_it_changes(100_000);
}

fn list_while_it_changes(steady: usize) {
    let ground = Ground::new();
    ground.dirs("d");
    for at in 0..steady {
        fs::File::create(ground.at(&format!("d/steady{at}"))).unwrap();
    }
    let is_over = AtomicBool::new(false);
    let directory = ground.directory("d");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !is_over.load(Ordering::Relaxed) {
                round += 1;
                let (new, old) = (format!("d/new{round}"), format!("d/new{}", round - 1));
                fs::File::create(ground.at(&new)).unwrap();
                fs::remove_file(ground.at(&old)).ok();
            }
        });
        for pages_of_their_own in [false, true] {
            let mut seen: HashMap<FileName, usize> = HashMap::new();
            let mut listing = directory.list(None).unwrap();
            loop {
                let page = listing.page(1000, Detail::Kinds).unwrap();
                if page.is_empty() {
                    break;
                }
                for entry in page {
                    *seen.entry(entry.name).or_default() += 1;
                }
                if pages_of_their_own {
                    listing = directory.list(Some(listing.position())).unwrap();
                }
            }
            let found = seen
                .iter()
                .filter(|(name, _)| name.as_bytes().starts_with(b"steady"));
            assert_eq!(found.clone().count(), steady);
            assert!(found.clone().all(|(_, times)| *times == 1));
        }
        is_over.store(true, Ordering::Relaxed);
    });
}
