//! Changes as the host tells them.

use alknet_core::{
    CallError, Caller, Credential, Dispatcher, ErrorCode, GrantTarget, Grants, Identity, Operation,
    PeerId, Permit, Registry, RoleSet, StaticIdentities,
    files::{
        BucketRef, ChangeKind, FileChange, FileError, FileErrorCode, FileKind, FilePath, Watch,
        WatchOptions,
    },
};
use alknet_fs::{
    root::Root,
    watch::{CHANGES_KEPT, WatchLimits, Watcher},
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

struct Ground {
    dir: TempDir,
    watcher: Watcher,
    ids: Arc<StaticIdentities>,
    door: Dispatcher,
}

fn key(id: &str) -> Credential {
    let mut key = [0; 32];
    key[..id.len()].copy_from_slice(id.as_bytes());
    Credential::NodeKey(key)
}

fn identity(id: &str, grants: &[&str]) -> Identity {
    let grants: Grants = grants
        .iter()
        .map(|text| GrantTarget::parse(text).unwrap())
        .collect();
    let mut identity = Identity::empty(PeerId::parse(id).unwrap());
    RoleSet::default().add_to(&grants, &mut identity);
    identity
}

fn path(text: &str) -> FilePath {
    FilePath::parse(text).unwrap()
}

impl Ground {
    fn new() -> Self {
        Self::with(WatchLimits::default(), |root| root)
    }

    fn with(limits: WatchLimits, set: impl FnOnce(Root) -> Root) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::in_dir(dir, limits, set)
    }

    fn in_dir(dir: TempDir, limits: WatchLimits, set: impl FnOnce(Root) -> Root) -> Self {
        let bucket = dir.path().join("bucket");
        fs::create_dir_all(&bucket).unwrap();
        let root = set(Root::open(&bucket).unwrap());
        let (registry, ids) = (Registry::new(), Arc::new(StaticIdentities::default()));
        let lists = Operation::query("fs/list", "Lists.")
            .requires("fs:list")
            .resource("bucket", "list", "/file")
            .handler(|_, input: Value| async move { Ok::<Value, CallError>(input) });
        registry.register(vec![lists]).unwrap();
        let door = Dispatcher::builder(registry)
            .identities(ids.clone())
            .build();
        let watcher = Watcher::new(BucketRef::parse("www").unwrap(), root, limits);
        Self {
            dir,
            watcher,
            ids,
            door,
        }
    }

    fn at(&self, below: &str) -> PathBuf {
        self.dir.path().join("bucket").join(below)
    }

    /// On the same file system, and not in the bucket.
    fn outside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn grant(&self, id: &str, grants: &[&str]) {
        self.ids.put(key(id), identity(id, grants));
    }

    fn permit(&self, id: &str, grants: &[&str]) -> Permit {
        self.grant(id, grants);
        let caller = Caller::resolve(&*self.ids, key(id)).unwrap();
        self.door.authorize(&caller, "fs/list").unwrap()
    }

    async fn begin(
        &self,
        permit: &Permit,
        file: &str,
        recursive: bool,
        after: Option<String>,
    ) -> Result<Box<dyn Watch>, FileError> {
        let real = path(file);
        let is_directory = self.at(&below(&real)).is_dir();
        let options = WatchOptions { recursive, after };
        self.watcher
            .watch(permit, &real, real.clone(), is_directory, options)
            .await
    }

    async fn all(&self) -> Told {
        let permit = self.permit("bob", &["fs:list", "bucket:**=list"]);
        let watch = self.begin(&permit, "www", true, None).await.unwrap();
        Told::new(watch, permit)
    }

    async fn told(&self, file: &str, recursive: bool) -> Told {
        let permit = self.permit("bob", &["fs:list", "bucket:**=list"]);
        let watch = self.begin(&permit, file, recursive, None).await.unwrap();
        Told::new(watch, permit)
    }
}

fn below(path: &FilePath) -> String {
    let text = path.to_string();
    text.split_once('/')
        .map_or(String::new(), |(_, below)| below.into())
}

struct Told {
    markers: u32,
    watch: Box<dyn Watch>,
    permit: Permit,
}

impl Told {
    fn new(watch: Box<dyn Watch>, permit: Permit) -> Self {
        Self {
            markers: 0,
            watch,
            permit,
        }
    }

    async fn next(&mut self) -> Result<Vec<FileChange>, FileError> {
        let next = timeout(PATIENCE, self.watch.next(&self.permit)).await;
        next.expect("something is told")
    }

    /// Everything up to the first change of `file`, that included.
    async fn until(&mut self, file: &str) -> Vec<FileChange> {
        let mut told: Vec<FileChange> = Vec::new();
        let file = path(file);
        loop {
            let next = self.next().await.unwrap();
            assert!(!next.is_empty(), "ended after {told:?}");
            told.extend(next);
            if told.iter().any(|change| change.file == file) {
                return told;
            }
        }
    }

    /// Makes a file in the root and tells what was told before that, in words.
    async fn before_marker(&mut self, ground: &Ground) -> Vec<String> {
        self.markers += 1;
        let marker = format!("marker{}", self.markers);
        fs::write(ground.at(&marker), "").unwrap();
        let told = self.until(&format!("www/{marker}")).await;
        let told = told.iter().map(said);
        let mut told: Vec<String> = told.filter(|said| !said.contains("marker")).collect();
        // One writing may be told in parts.
        told.dedup();
        told
    }
}

fn said(change: &FileChange) -> String {
    let kind = serde_json::to_value(change.kind).unwrap();
    let kind = kind.as_str().unwrap();
    let slash = match change.entry {
        Some(FileKind::Directory) => "/",
        _ => "",
    };
    match &change.from {
        Some(from) => format!("{kind} {from} {}{slash}", change.file),
        None => format!("{kind} {}{slash}", change.file),
    }
}

fn has_missed(told: &[FileChange]) -> bool {
    told.iter().any(|change| change.kind == ChangeKind::Missed)
}

#[tokio::test]
async fn every_kind_of_change_is_told() {
    let ground = Ground::new();
    fs::create_dir(ground.at("sub")).unwrap();
    fs::write(ground.outside("came"), "x").unwrap();
    let mut told = ground.told("www", false).await;

    fs::write(ground.at("a"), "1").unwrap();
    assert_eq!(
        told.before_marker(&ground).await,
        ["created www/a", "modified www/a"]
    );
    fs::write(ground.at("a"), "22").unwrap();
    assert_eq!(told.before_marker(&ground).await, ["modified www/a"]);
    fs::set_permissions(ground.at("a"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(told.before_marker(&ground).await, ["attributes www/a"]);
    fs::rename(ground.at("a"), ground.at("b")).unwrap();
    assert_eq!(told.before_marker(&ground).await, ["renamed www/a www/b"]);
    fs::rename(ground.at("b"), ground.at("sub/b")).unwrap();
    assert_eq!(told.before_marker(&ground).await, ["removed www/b"]);
    fs::rename(ground.outside("came"), ground.at("came")).unwrap();
    assert_eq!(told.before_marker(&ground).await, ["renamed www/came"]);
    fs::remove_file(ground.at("came")).unwrap();
    assert_eq!(told.before_marker(&ground).await, ["removed www/came"]);
    fs::create_dir(ground.at("made")).unwrap();
    fs::remove_dir(ground.at("made")).unwrap();
    assert_eq!(
        told.before_marker(&ground).await.last().unwrap(),
        "removed www/made/"
    );
}

#[tokio::test]
async fn what_is_below_is_told_if_it_was_asked_for() {
    let ground = Ground::new();
    fs::create_dir_all(ground.at("sub/deep")).unwrap();
    let mut entries = ground.told("www", false).await;
    let mut tree = ground.told("www", true).await;
    let mut sub = ground.told("www/sub", false).await;
    fs::write(ground.at("sub/deep/x"), "").unwrap();
    fs::write(ground.at("sub/x"), "").unwrap();
    fs::write(ground.at("x"), "").unwrap();
    let files = |told: Vec<FileChange>| -> BTreeSet<String> {
        told.iter().map(|change| change.file.to_string()).collect()
    };
    assert_eq!(files(entries.until("www/x").await), ["www/x".into()].into());
    let all = ["www/x", "www/sub/x", "www/sub/deep/x"].map(String::from);
    assert_eq!(files(tree.until("www/x").await), all.into());
    assert_eq!(
        files(sub.until("www/sub/x").await),
        ["www/sub/x".into()].into()
    );
}

#[tokio::test]
async fn trees_that_come_faster_than_they_are_watched_are_told_whole() {
    let ground = Ground::new();
    let mut told = ground.all().await;
    let mut missing = BTreeSet::new();
    for n in 0..100 {
        fs::create_dir_all(ground.at(&format!("{n}/b/c/d"))).unwrap();
        for file in ["f", "b/f", "b/c/f", "b/c/d/f"] {
            let file = format!("{n}/{file}");
            fs::write(ground.at(&file), "x").unwrap();
            missing.insert(path(&format!("www/{file}")));
        }
    }
    while !missing.is_empty() {
        for change in told.next().await.unwrap() {
            assert_ne!(change.kind, ChangeKind::Missed);
            missing.remove(&change.file);
        }
    }
    fs::remove_file(ground.at("99/b/c/d/f")).unwrap();
    let last = told.before_marker(&ground).await;
    assert!(last.contains(&"removed www/99/b/c/d/f".into()), "{last:?}");
}

#[tokio::test]
async fn a_directory_that_moves_takes_its_watch_along_and_one_that_leaves_does_not() {
    let ground = Ground::new();
    fs::create_dir_all(ground.at("a/b")).unwrap();
    fs::create_dir(ground.at("other")).unwrap();
    fs::create_dir_all(ground.outside("new/sub")).unwrap();
    fs::write(ground.outside("new/sub/f"), "").unwrap();
    let mut told = ground.all().await;
    fs::rename(ground.at("a"), ground.at("other/z")).unwrap();
    fs::write(ground.at("other/z/b/f"), "").unwrap();
    let moved = told.until("www/other/z/b/f").await;
    assert_eq!(said(&moved[0]), "renamed www/a www/other/z/");

    fs::rename(ground.at("other/z"), ground.outside("z")).unwrap();
    fs::write(ground.outside("z/b/secret"), "").unwrap();
    let left = told.before_marker(&ground).await;
    assert!(left.contains(&"removed www/other/z/".into()), "{left:?}");
    assert!(!left.iter().any(|said| said.contains("secret")), "{left:?}");

    fs::rename(ground.outside("new"), ground.at("came")).unwrap();
    let came = told.before_marker(&ground).await;
    for said in [
        "renamed www/came/",
        "created www/came/sub/",
        "created www/came/sub/f",
    ] {
        assert!(came.contains(&said.into()), "{said}: {came:?}");
    }
    fs::write(ground.at("came/sub/g"), "").unwrap();
    told.until("www/came/sub/g").await;
}

#[tokio::test]
async fn directories_that_change_places_are_told_by_their_new_names() {
    let ground = Ground::new();
    for dir in ["a/in", "b/in"] {
        fs::create_dir_all(ground.at(dir)).unwrap();
    }
    let mut told = ground.all().await;
    renameat_with(
        CWD,
        ground.at("a"),
        CWD,
        ground.at("b"),
        RenameFlags::EXCHANGE,
    )
    .unwrap();
    let mut seen = Vec::new();
    while !has_missed(&seen) {
        seen = told.next().await.unwrap();
    }
    fs::write(ground.at("a/in/one"), "").unwrap();
    told.until("www/a/in/one").await;
    fs::write(ground.at("b/in/two"), "").unwrap();
    told.until("www/b/in/two").await;
}

#[tokio::test]
async fn what_is_watched_and_goes_is_told_as_the_last_change() {
    for moves in [true, false] {
        let ground = Ground::new();
        fs::create_dir_all(ground.at("above/watched")).unwrap();
        let mut direct = ground.told("www/above/watched", true).await;
        let mut above = ground.told("www/above", true).await;
        match moves {
            true => fs::rename(ground.at("above"), ground.at("gone")).unwrap(),
            false => fs::remove_dir_all(ground.at("above")).unwrap(),
        }
        for (told, file) in [
            (&mut direct, "www/above/watched"),
            (&mut above, "www/above"),
        ] {
            let last = told.until(file).await;
            let last = last.last().unwrap();
            assert_eq!(said(last), format!("removed {file}/"));
            if told.next().await.unwrap().is_empty() {
                continue;
            }
            assert!(told.next().await.unwrap().is_empty(), "after {last:?}");
        }
        // A new one under the old name is another one.
        fs::create_dir_all(ground.at("above/watched")).unwrap();
        let mut again = ground.told("www/above/watched", true).await;
        fs::write(ground.at("above/watched/x"), "").unwrap();
        again.until("www/above/watched/x").await;
    }
}

#[tokio::test]
async fn a_file_is_watched_under_its_name() {
    let ground = Ground::new();
    for file in ["f", "beside"] {
        fs::write(ground.at(file), "1").unwrap();
    }
    let mut told = ground.told("www/f", true).await;
    fs::write(ground.at("beside"), "2").unwrap();
    fs::write(ground.at("f"), "2").unwrap();
    assert_eq!(said(&told.next().await.unwrap()[0]), "modified www/f");
    fs::write(ground.at("new"), "3").unwrap();
    fs::rename(ground.at("new"), ground.at("f")).unwrap();
    let mut seen = Vec::new();
    while !seen.contains(&"renamed www/f".to_owned()) {
        seen.extend(told.next().await.unwrap().iter().map(said));
    }
    fs::remove_file(ground.at("f")).unwrap();
    fs::write(ground.at("f"), "back").unwrap();
    while !seen.contains(&"created www/f".to_owned()) {
        seen.extend(told.next().await.unwrap().iter().map(said));
    }
    assert!(seen.contains(&"removed www/f".to_owned()), "{seen:?}");
}

#[tokio::test]
async fn partial_files_are_not_told_and_what_they_become_is_created() {
    let ground = Ground::new();
    fs::write(ground.at("f"), "old").unwrap();
    let mut told = ground.all().await;
    let partial = format!("{}{}", alknet_fs::root::PARTIAL_PREFIX, "0".repeat(32));
    fs::write(ground.at(&partial), "new").unwrap();
    fs::rename(ground.at(&partial), ground.at("f")).unwrap();
    fs::write(ground.at(&partial), "given up").unwrap();
    fs::remove_file(ground.at(&partial)).unwrap();
    assert_eq!(told.before_marker(&ground).await, ["created www/f"]);
}

#[tokio::test]
async fn a_hidden_directory_is_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let hidden = dir.path().join("bucket/home/data");
    fs::create_dir_all(&hidden).unwrap();
    let ground = Ground::in_dir(dir, WatchLimits::default(), |root| {
        root.hide(&hidden).unwrap()
    });
    let mut told = ground.all().await;
    fs::write(hidden.join("secret"), "x").unwrap();
    fs::create_dir(hidden.join("deep")).unwrap();
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(ground.at("home/seen"), "").unwrap();
    let said = told.before_marker(&ground).await;
    assert!(said.contains(&"created www/home/seen".into()), "{said:?}");
    assert!(!said.iter().any(|said| said.contains("data")), "{said:?}");
}

#[tokio::test]
async fn a_hundred_watch_and_each_is_told() {
    let ground = Ground::new();
    fs::create_dir_all(ground.at("sub")).unwrap();
    let mut watches = Vec::new();
    for n in 0..100 {
        let file = ["www", "www/sub"][n % 2];
        watches.push(ground.told(file, n % 4 < 2).await);
    }
    fs::write(ground.at("sub/x"), "").unwrap();
    fs::write(ground.at("x"), "").unwrap();
    for (n, told) in watches.iter_mut().enumerate() {
        told.until(["www/x", "www/sub/x"][n % 2]).await;
    }
}

#[tokio::test]
async fn who_does_not_read_is_told_that_changes_were_missed() {
    let ground = Ground::new();
    let mut slow = ground.all().await;
    for n in 0..CHANGES_KEPT + 100 {
        fs::write(ground.at(&format!("{n}")), "").unwrap();
    }
    let mut fast = ground.all().await;
    fs::write(ground.at("last"), "").unwrap();
    fast.until("www/last").await;
    let first = slow.next().await.unwrap();
    assert_eq!(said(&first[0]), "missed www");
    fs::write(ground.at("after"), "").unwrap();
    let rest = slow.until("www/after").await;
    assert!(!has_missed(&rest), "{rest:?}");
}

#[tokio::test]
async fn a_cursor_goes_on_after_a_cut() {
    let ground = Ground::new();
    fs::create_dir(ground.at("sub")).unwrap();
    let permit = ground.permit("bob", &["fs:list", "bucket:**=list"]);
    let watch = ground.begin(&permit, "www/sub", true, None).await.unwrap();
    let cursor = watch.cursor();
    drop(watch);
    fs::write(ground.at("sub/x"), "").unwrap();
    let again = ground.begin(&permit, "www/sub", true, Some(cursor)).await;
    let mut told = Told::new(again.unwrap(), permit);
    let seen = told.until("www/sub/x").await;
    assert_eq!(said(&seen[0]), "created www/sub/x");

    let cursor = seen[0].cursor.clone();
    let Told { watch, permit, .. } = told;
    drop(watch);
    let wider = ground.begin(&permit, "www", true, Some(cursor)).await;
    let mut told = Told::new(wider.unwrap(), permit);
    let seen = told.next().await.unwrap();
    assert_eq!(said(&seen[0]), "missed www", "that was not watched");

    for odd in ["", "x", "0123456789abcdef-1"] {
        let watch = ground
            .begin(&told.permit, "www", true, Some(odd.into()))
            .await;
        told.watch = watch.unwrap();
        let seen = told.next().await.unwrap();
        assert_eq!(said(&seen[0]), "missed www", "{odd}");
    }
}

#[tokio::test]
async fn what_may_not_be_listed_is_not_told() {
    let ground = Ground::new();
    for dir in ["public", "private"] {
        fs::create_dir(ground.at(dir)).unwrap();
    }
    let grants = &["fs:list", "bucket:www/**=list", "!bucket:www/private/**=*"];
    let permit = ground.permit("eve", grants);
    let watch = ground.begin(&permit, "www", true, None).await.unwrap();
    let mut told = Told::new(watch, permit);
    fs::write(ground.at("private/a"), "").unwrap();
    fs::rename(ground.at("private/a"), ground.at("public/a")).unwrap();
    fs::rename(ground.at("public/a"), ground.at("public/b")).unwrap();
    fs::rename(ground.at("public/b"), ground.at("private/b")).unwrap();
    let said = told.before_marker(&ground).await;
    let want = [
        "renamed www/public/a",
        "renamed www/public/a www/public/b",
        "removed www/public/b",
    ];
    assert_eq!(said, want);
}

#[tokio::test]
async fn what_is_taken_back_is_told_no_more() {
    let ground = Ground::new();
    fs::create_dir(ground.at("sub")).unwrap();
    let permit = ground.permit("eve", &["fs:list", "bucket:**=list"]);
    let watch = ground.begin(&permit, "www", true, None).await.unwrap();
    let mut told = Told::new(watch, permit);
    let mut all = ground.all().await;

    // Made while it was allowed, told when it is not.
    fs::write(ground.at("sub/secret"), "").unwrap();
    fs::write(ground.at("open"), "").unwrap();
    all.until("www/open").await;
    ground.grant(
        "eve",
        &["fs:list", "bucket:**=list", "!bucket:www/sub/**=*"],
    );
    let seen = told.until("www/open").await;
    assert!(
        seen.iter().all(|change| change.file == path("www/open")),
        "{seen:?}"
    );

    // Waiting, it ends.
    fs::remove_file(ground.at("open")).unwrap();
    told.until("www/open").await;
    let waiting = tokio::spawn(async move {
        loop {
            if let Err(error) = told.watch.next(&told.permit).await {
                return error;
            }
        }
    });
    ground.grant("eve", &["fs:list", "bucket:www/sub/**=list"]);
    let error = timeout(PATIENCE, waiting).await.unwrap().unwrap();
    let FileError::Refused(refused) = error else {
        panic!("{error}");
    };
    assert!(refused.is(ErrorCode::Forbidden), "{refused}");
}

#[tokio::test]
async fn limits_are_kept_and_named() {
    let limits = WatchLimits {
        directories: 4,
        watches_per_caller: 3,
        places: 2,
        kept: Duration::ZERO,
    };
    let ground = Ground::with(limits, |root| root);
    fs::create_dir_all(ground.at("a/b/c")).unwrap();
    let permit = ground.permit("bob", &["fs:list", "bucket:**=list"]);
    let begin = async |file: &str| ground.begin(&permit, file, true, None).await;
    let refused = |watch: Result<_, FileError>, what: &str| {
        let error: FileError = watch.map(|_: Box<dyn Watch>| ()).unwrap_err();
        assert_eq!(error.code(), Some(FileErrorCode::TooManyOpen), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    };

    // The root and three below it.
    let mut first = begin("www").await.unwrap();
    let _second = begin("www/a").await.unwrap();
    refused(begin("www/a/b").await, "places");
    let _third = begin("www/a").await.unwrap();
    refused(begin("www/a").await, "3 watches");
    let other = ground.permit("eve", &["fs:list", "bucket:**=list"]);
    ground.begin(&other, "www/a", true, None).await.unwrap();

    // One more than may be watched ends those that would not be told of it.
    fs::create_dir(ground.at("a/b/c/d")).unwrap();
    let error = loop {
        match timeout(PATIENCE, first.next(&permit)).await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    refused(Err(error), "directories");

    let ground = Ground::with(limits, |root| root);
    fs::create_dir_all(ground.at("a/b/c/d")).unwrap();
    let permit = ground.permit("bob", &["fs:list", "bucket:**=list"]);
    refused(
        ground.begin(&permit, "www", true, None).await,
        "directories",
    );
    ground.begin(&permit, "www/a/b", false, None).await.unwrap();
}

#[tokio::test]
async fn a_bucket_that_is_no_more_ends_its_watches() {
    let ground = Ground::new();
    let mut told = ground.all().await;
    ground.watcher.close();
    let error = told.next().await.unwrap_err();
    assert_eq!(error.code(), Some(FileErrorCode::NoSuchBucket), "{error}");
    assert!(told.next().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_copy_that_follows_the_changes_is_what_is_there() {
    for seed in 0..12 {
        mirror(seed).await;
    }
}

/// Changes a tree at random while a copy of its names follows what is told.
async fn mirror(seed: u64) {
    let ground = Ground::new();
    let mut told = ground.all().await;
    let at = ground.at("");
    let changes = tokio::task::spawn_blocking(move || churn(&at, seed, 400));
    let mut known = BTreeSet::new();
    let mut log = Vec::new();
    let (mut is_over, mut has_listed) = (false, false);
    let mut changes = Some(changes);
    while !is_over {
        if changes
            .as_ref()
            .is_some_and(|changes| changes.is_finished())
        {
            changes.take().unwrap().await.unwrap();
            // A second for what is looked at anew, which is told by `missed`.
            fs::write(ground.at("last"), "").unwrap();
        }
        let next = match timeout(Duration::from_millis(50), told.watch.next(&told.permit)).await {
            Ok(next) => next.unwrap(),
            Err(_) => continue,
        };
        for change in next {
            log.push(said(&change));
            is_over |= change.file == path("www/last");
            apply(&mut known, &mut has_listed, &ground, &change);
        }
    }
    known.remove("last");
    let mut want = BTreeSet::new();
    names(&ground.at(""), "", &mut want);
    want.remove("last");
    if known != want {
        // It may have said that it does not know: then it says what to do.
        let next = timeout(Duration::from_secs(3), told.watch.next(&told.permit)).await;
        let missed = next.is_ok_and(|next| has_missed(&next.unwrap()));
        let log = log.join("\n");
        assert!(
            missed,
            "seed {seed}: known {known:?}\nthere {want:?}\n{log}"
        );
    }
}

fn apply(
    known: &mut BTreeSet<String>,
    has_listed: &mut bool,
    ground: &Ground,
    change: &FileChange,
) {
    let file = below(&change.file);
    let is_in = |name: &String, above: &str| {
        name == above
            || name
                .strip_prefix(above)
                .is_some_and(|rest| rest.starts_with('/'))
    };
    match change.kind {
        ChangeKind::Created => drop(known.insert(file)),
        ChangeKind::Removed => known.retain(|name| !is_in(name, &file)),
        ChangeKind::Renamed => {
            let from = change.from.as_ref().map(below);
            let mut moved = BTreeSet::from([file.clone()]);
            if let Some(from) = &from {
                let all = known.iter().filter(|name| is_in(name, from));
                moved.extend(all.map(|name| format!("{file}{}", &name[from.len()..])));
                known.retain(|name| !is_in(name, from));
            }
            // Since it was listed, what is told may be older than what is known.
            moved.retain(|name| !*has_listed || ground.at(name).symlink_metadata().is_ok());
            known.extend(moved);
        }
        ChangeKind::Missed => {
            *has_listed = true;
            known.clear();
            names(&ground.at(""), "", known);
        }
        _ => {}
    }
}

fn names(at: &Path, below: &str, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        let name = format!("{below}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            names(&entry.path(), &format!("{name}/"), into);
        }
        into.insert(name);
    }
}

/// A small generator is enough, and its seed makes it again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % most
    }

    /// A path of one to four names out of three.
    fn path(&mut self, at: &Path) -> PathBuf {
        let mut path = at.to_owned();
        for _ in 0..=self.below(4) {
            path.push(["a", "b", "c"][self.below(3) as usize]);
        }
        path
    }
}

/// What does not fit is no change.
fn churn(at: &Path, seed: u64, steps: usize) {
    let mut dice = Dice(seed.wrapping_add(7).wrapping_mul(0x9E37_79B9));
    for _ in 0..steps {
        let (one, two) = (dice.path(at), dice.path(at));
        let _ = match dice.below(10) {
            0..=3 => fs::create_dir_all(&one),
            4 | 5 => fs::write(&one, "x"),
            6..=7 => fs::rename(&one, &two),
            8 => fs::remove_dir_all(&one),
            _ => fs::remove_file(&one),
        };
    }
}
