//! Copies from node to node: a caller of both carries an offer, the nodes
//! carry the bytes.

use crate::support::{Known, Pair, SOON, TestClock, TestNode, soon, start_with};
use alknet_core::{CallError, ChannelCall, ErrorCode};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    time::Duration,
};
use tempfile::TempDir;

/// Bytes of a file that is fetched piece by piece.
const LARGE: usize = 24 * 1024 * 1024;

/// `home` has the bucket `x`, `laptop` the bucket `y`, and `ada` works at both.
struct Two {
    pair: Pair,
    x: TempDir,
    y: TempDir,
    clock: TestClock,
    ada_at_home: Known,
    ada_at_laptop: Known,
}

impl Two {
    async fn new(home_gives: &[&str], laptop_gives: &[&str]) -> Self {
        let (x, y, clock) = (
            TempDir::new().unwrap(),
            TempDir::new().unwrap(),
            TestClock::default(),
        );
        let pair = Pair::with(
            &["node:read"],
            &[],
            |home| home.bucket("x", x.path()).clock(clock.shared()),
            |laptop| laptop.bucket("y", y.path()),
        )
        .await;
        let ada_at_home = Known::to(&pair.home, "ada", home_gives).await;
        let ada_at_laptop = Known::to(&pair.laptop, "ada", laptop_gives).await;
        Self {
            pair,
            x,
            y,
            clock,
            ada_at_home,
            ada_at_laptop,
        }
    }

    async fn usual() -> Self {
        Self::new(&["reader"], &["editor"]).await
    }

    async fn try_offer(&self, more: Value) -> Result<Value, CallError> {
        let mut input = json!({ "to_node": self.pair.laptop.status().node_id });
        merge(&mut input, more);
        self.ada_at_home.call_json("fs/offer", &input).await
    }

    async fn offer(&self, file: &str) -> String {
        let recursive = file == "x" || file.ends_with("tree");
        let offered = self
            .try_offer(json!({ "file": file, "recursive": recursive }))
            .await;
        let offered = offered.unwrap();
        assert_eq!(offered["node"], self.pair.home.status().node_id);
        offered["offer"].as_str().unwrap().to_owned()
    }

    async fn open(&self, more: Value) -> Result<ChannelCall, CallError> {
        open_at(&self.ada_at_laptop, &self.pair.home, more).await
    }

    async fn pull(&self, more: Value) -> Result<Pulled, CallError> {
        finish(self.open(more).await?).await
    }
}

async fn open_at(ada: &Known, from: &TestNode, more: Value) -> Result<ChannelCall, CallError> {
    let mut input = json!({ "from_node": from.status().node_id });
    merge(&mut input, more);
    ada.open("fs/pull", &input).await
}

fn merge(into: &mut Value, more: Value) {
    let Value::Object(more) = more else { panic!() };
    into.as_object_mut().unwrap().extend(more);
}

/// What a copy said and came to.
#[derive(Debug)]
struct Pulled {
    lines: Vec<Value>,
    result: Value,
}

impl Pulled {
    fn errors(&self) -> Vec<(String, String)> {
        let told = self.lines.iter().filter(|line| line["error"].is_object());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        told.map(|line| (text(&line["path"]), text(&line["error"]["code"])))
            .collect()
    }
}

async fn finish(mut call: ChannelCall) -> Result<Pulled, CallError> {
    call.channel.tx.end();
    let mut text = Vec::new();
    while let Ok(Some(chunk)) = call.channel.rx.recv().await {
        text.extend_from_slice(&chunk.bytes);
    }
    let lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let lines = lines
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let result = soon(call.done).await?.into_value().unwrap();
    Ok(Pulled { lines, result })
}

fn content(len: usize) -> Vec<u8> {
    let mut hash = blake3::Hasher::new().finalize_xof();
    let mut bytes = vec![0; len];
    hash.fill(&mut bytes);
    bytes
}

/// What lies in a directory: paths, kinds, modes, times, contents.
fn described(root: &Path) -> Vec<(String, u32, i64, i64, Vec<u8>)> {
    let (mut found, mut todo) = (Vec::new(), vec![root.to_owned()]);
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let bytes = if meta.is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            Vec::new()
        } else if meta.is_symlink() {
            fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        } else {
            fs::read(&path).unwrap()
        };
        let name = path
            .strip_prefix(root)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        // The time of a link is not copied.
        let time = match meta.is_symlink() {
            true => (0, 0),
            false => (meta.mtime(), meta.mtime_nsec()),
        };
        found.push((name, meta.mode(), time.0, time.1, bytes));
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_from_node_to_node_with_its_attributes_and_holes() {
    let two = Two::usual().await;
    let path = two.x.path().join("film");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&content(3_000_001)).unwrap();
    file.seek(SeekFrom::Start(512 << 20)).unwrap();
    file.write_all(b"the end").unwrap();
    drop(file);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let offer = two.offer("x/film").await;
    let input = json!({ "file": "y/a/b/film", "offer": offer, "parents": true });
    let pulled = two.pull(input).await.unwrap();
    let bytes = (512u64 << 20) + 7;
    assert_eq!(
        pulled.result,
        json!({ "files": 1, "directories": 0, "links": 0, "bytes": bytes, "skipped": 0, "others": 0, "failed": 0 })
    );
    let (was, is) = (
        fs::metadata(&path).unwrap(),
        fs::metadata(two.y.path().join("a/b/film")).unwrap(),
    );
    assert_eq!(is.len(), bytes);
    assert_eq!(is.mode(), was.mode());
    assert_eq!(is.modified().unwrap(), was.modified().unwrap());
    assert!(is.blocks() * 512 < 16 << 20, "{} blocks", is.blocks());
    let mut copied = fs::File::open(two.y.path().join("a/b/film")).unwrap();
    let mut head = vec![0; 3_000_001];
    copied.read_exact(&mut head).unwrap();
    assert!(head == content(3_000_001));
    copied.seek(SeekFrom::Start(512 << 20)).unwrap();
    let mut tail = String::new();
    copied.read_to_string(&mut tail).unwrap();
    assert_eq!(tail, "the end");

    // An offer is for one copy.
    let again = two.pull(json!({ "file": "y/film", "offer": offer })).await;
    assert_eq!(again.unwrap_err().code, "NO_SUCH_OFFER");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_goes_whole_and_again_costs_nothing() {
    let two = Two::usual().await;
    let tree = two.x.path().join("tree");
    for directory in ["", "empty", "a/b/c", "closed"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    for number in 0..600 {
        fs::write(tree.join(format!("a/{number:03}")), format!("{number}")).unwrap();
    }
    fs::write(tree.join("a/b/c/empty"), "").unwrap();
    fs::write(tree.join("a/b/line\nand \u{fc}"), "odd").unwrap();
    fs::write(tree.join("large"), content(2_500_000)).unwrap();
    fs::write(tree.join("closed/in"), "in").unwrap();
    symlink("a/b", tree.join("link")).unwrap();
    symlink("nowhere", tree.join("dangling")).unwrap();
    symlink("/etc/passwd", tree.join("outside")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        tree.join("pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    fs::set_permissions(tree.join("closed"), fs::Permissions::from_mode(0o555)).unwrap();
    let old = fs::File::open(tree.join("a/b")).unwrap();
    old.set_modified(std::time::UNIX_EPOCH + Duration::from_nanos(1_000_000_000_000_000_123))
        .unwrap();

    let input = |offer: String| json!({ "file": "y/tree", "offer": offer, "each": true });
    let pulled = two.pull(input(two.offer("x/tree").await)).await.unwrap();
    let mut errors = pulled.errors();
    errors.sort();
    let told = |path: &str, code: &str| (path.to_owned(), code.to_owned());
    assert_eq!(
        errors,
        [told("outside", "LEADS_OUTSIDE"), told("pipe", "NOT_A_FILE")]
    );
    let result = &pulled.result;
    assert_eq!(result["files"], 604, "{result}");
    assert_eq!(result["directories"], 6, "{result}");
    assert_eq!(result["links"], 2, "{result}");
    assert_eq!(
        (&result["others"], &result["failed"]),
        (&json!(1), &json!(1))
    );
    fs::remove_file(tree.join("pipe")).unwrap();
    fs::remove_file(tree.join("outside")).unwrap();
    // Removing them changed its time.
    let time = fs::metadata(two.y.path().join("tree"))
        .unwrap()
        .modified()
        .unwrap();
    fs::File::open(&tree).unwrap().set_modified(time).unwrap();
    assert_eq!(described(&two.y.path().join("tree")), described(&tree));

    let pulled = two.pull(input(two.offer("x/tree").await)).await.unwrap();
    assert_eq!(pulled.errors(), []);
    let result = &pulled.result;
    assert_eq!((&result["files"], &result["bytes"]), (&json!(0), &json!(0)));
    assert_eq!(result["skipped"], 606, "{result}");
    assert_eq!(described(&two.y.path().join("tree")), described(&tree));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_in_the_way_is_replaced_and_not_followed() {
    let two = Two::usual().await;
    let (tree, here) = (two.x.path().join("tree"), two.y.path());
    fs::create_dir_all(tree.join("d")).unwrap();
    fs::write(tree.join("d/f"), "new").unwrap();
    fs::write(tree.join("g"), "new").unwrap();
    fs::create_dir_all(here.join("tree")).unwrap();
    fs::create_dir_all(here.join("elsewhere")).unwrap();
    fs::write(here.join("elsewhere/f"), "old").unwrap();
    symlink("../elsewhere", here.join("tree/d")).unwrap();
    symlink("../elsewhere/f", here.join("tree/g")).unwrap();
    let offer = two.offer("x/tree").await;
    let pulled = two
        .pull(json!({ "file": "y/tree", "offer": offer }))
        .await
        .unwrap();
    assert_eq!(
        pulled.errors(),
        [("d".to_owned(), "NOT_A_DIRECTORY".to_owned())]
    );
    assert_eq!(fs::read_to_string(here.join("elsewhere/f")).unwrap(), "old");
    assert!(fs::symlink_metadata(here.join("tree/g")).unwrap().is_file());
    assert_eq!(fs::read_to_string(here.join("tree/g")).unwrap(), "new");
}

/// Names in a bucket that are not the bucket's own partials.
fn names(dir: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(dir.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names
        .filter(|name| !name.starts_with(".alknet-part-"))
        .collect()
}

/// Begins to fetch a large file and waits until some of it is there.
async fn half_way(two: &Two, offer: &str) -> ChannelCall {
    let mut call = two
        .open(json!({ "file": "y/large", "offer": offer }))
        .await
        .unwrap();
    let progress = soon(call.channel.rx.recv()).await.unwrap().unwrap();
    let line: Value =
        serde_json::from_slice(progress.bytes.split(|b| *b == b'\n').next().unwrap()).unwrap();
    assert!(line["progress"]["bytes"].as_u64().unwrap() > 0, "{line}");
    call
}

/// A sparse file that takes seconds to be fetched, and holds much.
fn make_large(two: &Two) {
    let mut file = fs::File::create(two.x.path().join("large")).unwrap();
    let block = content(LARGE);
    for _ in 0..16 {
        file.write_all(&block).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_where_the_file_is_ends_the_copy_at_once() {
    let two = Two::usual().await;
    make_large(&two);
    let offer = two.offer("x/large").await;
    let call = half_way(&two, &offer).await;
    let revoke = json!({ "peer": "ada", "targets": ["reader"] });
    two.pair.home.told("peers/revoke", revoke).await;
    let error = finish(call).await.unwrap_err();
    assert!(error.is(ErrorCode::Forbidden), "{error:?}");
    assert!(error.message.contains("`home`"), "{error:?}");
    assert_eq!(names(&two.y), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_where_the_file_goes_ends_the_copy_at_once() {
    let two = Two::usual().await;
    make_large(&two);
    let offer = two.offer("x/large").await;
    let call = half_way(&two, &offer).await;
    let revoke = json!({ "peer": "ada", "targets": ["editor"] });
    two.pair.laptop.told("peers/revoke", revoke).await;
    let error = finish(call).await.unwrap_err();
    assert!(error.is(ErrorCode::Forbidden), "{error:?}");
    assert_eq!(names(&two.y), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_cut_goes_on_where_it_stopped() {
    let two = Two::usual().await;
    make_large(&two);
    let offer = two.offer("x/large").await;
    drop(half_way(&two, &offer).await);
    let bytes = 16 * LARGE as u64;
    // The cut may not have arrived everywhere yet.
    let pulled = crate::support::eventually("the offer is free again", async || {
        let input = json!({ "file": "y/large", "offer": offer });
        match two.pull(input).await {
            Err(error) if error.code == "FILE_BUSY" => None,
            ended => Some(ended.unwrap()),
        }
    });
    let pulled = pulled.await;
    let fetched = pulled.result["bytes"].as_u64().unwrap();
    assert!(0 < fetched && fetched < bytes, "{}", pulled.result);
    let (was, is) = (two.x.path().join("large"), two.y.path().join("large"));
    assert_eq!(fs::metadata(&is).unwrap().len(), bytes);
    assert!(fs::read(was).unwrap() == fs::read(is).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_is_for_one_node_and_no_other() {
    let two = Two::usual().await;
    fs::write(two.x.path().join("f"), "secret").unwrap();
    // A third node, which is as much a peer as the second one.
    let tablet = start_with("tablet", |tablet| tablet).await;
    let ticket = two.pair.home.invite(&["node:read"]).await.unwrap();
    assert_eq!(tablet.join(&ticket, &[]).await.unwrap(), "home");
    tablet.connected("home", SOON).await.unwrap();
    let ada = Known::to(&tablet, "ada", &["editor"]).await;
    let offer = two.offer("x/f").await;
    let input = json!({ "file": "inbox/f", "offer": offer });
    let stolen = open_at(&ada, &two.pair.home, input).await.unwrap_err();
    let invented = two
        .open(json!({ "file": "y/f", "offer": "5e".repeat(32) }))
        .await
        .unwrap_err();
    assert_eq!(stolen.code, "NO_SUCH_OFFER", "{stolen:?}");
    assert_eq!(stolen.message, invented.message);
    // Not even its maker, with a key of its own.
    let direct = two
        .ada_at_home
        .open("fs/offered", &json!({ "offer": offer }))
        .await;
    assert_eq!(direct.unwrap_err().code, "NO_SUCH_OFFER");
    // It was not used up by that.
    two.pull(json!({ "file": "y/f", "offer": offer }))
        .await
        .unwrap();
    assert_eq!(
        fs::read_to_string(two.y.path().join("f")).unwrap(),
        "secret"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_expires_by_the_clock() {
    let two = Two::usual().await;
    fs::write(two.x.path().join("f"), "x").unwrap();
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    // Ten minutes without use.
    let offer = two.offer("x/f").await;
    two.clock.forward(minutes(10));
    let late = two.pull(json!({ "file": "y/f", "offer": offer })).await;
    assert_eq!(late.unwrap_err().code, "NO_SUCH_OFFER");
    // As long as it says.
    let input = json!({ "file": "x/f", "expires_ms": 60_000 });
    let short = two.try_offer(input).await.unwrap()["offer"].clone();
    two.clock.forward(minutes(1));
    let late = two.pull(json!({ "file": "y/f", "offer": short })).await;
    assert_eq!(late.unwrap_err().code, "NO_SUCH_OFFER");
    let input = json!({ "file": "x/f", "expires_ms": 3_600_001 });
    let error = two.try_offer(input).await.unwrap_err();
    assert!(error.is(ErrorCode::InvalidInput), "{error:?}");
    let offer = two.offer("x/f").await;
    two.clock.forward(minutes(9));
    two.pull(json!({ "file": "y/f", "offer": offer }))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_makes_so_many_offers_and_not_one_more() {
    let two = Two::usual().await;
    fs::write(two.x.path().join("f"), "x").unwrap();
    for _ in 0..64 {
        two.offer("x/f").await;
    }
    let error = two.try_offer(json!({ "file": "x/f" })).await.unwrap_err();
    assert!(error.is(ErrorCode::RateLimited), "{error:?}");
    two.clock.forward(Duration::from_secs(600));
    two.offer("x/f").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_not_connected_say_so_at_once() {
    let mut two = Two::usual().await;
    fs::write(two.x.path().join("f"), "x").unwrap();
    let offer = two.offer("x/f").await;
    let unknown = json!({ "file": "y/f", "offer": offer, "from_node": "0b".repeat(32) });
    let error = two.open(unknown).await.unwrap_err();
    assert_eq!(error.code, "NOT_CONNECTED", "{error:?}");
    // Its own node is no peer either.
    let own = two.pair.laptop.status().node_id;
    let own = json!({ "file": "y/f", "offer": offer, "from_node": own });
    assert_eq!(two.open(own).await.unwrap_err().code, "NOT_CONNECTED");
    let home = two.pair.home.status().node_id;
    two.pair.home.stop().await;
    let input = json!({ "file": "y/f", "offer": offer, "from_node": home });
    let error = crate::support::eventually("the link is down", async || {
        two.ada_at_laptop.open("fs/pull", &input).await.err()
    });
    assert_eq!(error.await.code, "NOT_CONNECTED");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_write_here_or_read_there_is_refused_before_anybody_is_asked() {
    let two = Two::new(
        &[
            "fs:read",
            "fs:list",
            "bucket:x/public/**=read,list",
            "!bucket:x/public/private/**=read,list",
        ],
        &["fs:write", "bucket:y/in/**=write"],
    )
    .await;
    for directory in ["public/private", "other"] {
        fs::create_dir_all(two.x.path().join(directory)).unwrap();
    }
    fs::write(two.x.path().join("public/f"), "f").unwrap();
    fs::write(two.x.path().join("public/private/g"), "g").unwrap();
    fs::create_dir(two.y.path().join("in")).unwrap();
    let error = two
        .try_offer(json!({ "file": "x/other/f" }))
        .await
        .unwrap_err();
    assert!(error.is(ErrorCode::Forbidden), "{error:?}");
    let offered = two
        .try_offer(json!({ "file": "x/public/f" }))
        .await
        .unwrap();
    let offer = offered["offer"].clone();
    let error = two.open(json!({ "file": "y/f", "offer": offer })).await;
    assert!(error.unwrap_err().is(ErrorCode::Forbidden));
    let asked = json!({ "operation": "fs/offered" });
    let rows = two.pair.home.told("audit/list", asked).await;
    assert_eq!(rows["rows"], json!([]), "the other node was asked");
    // Who may write and not read fetches all of it, each time.
    for _ in 0..2 {
        let offered = two
            .try_offer(json!({ "file": "x/public/f" }))
            .await
            .unwrap();
        let input = json!({ "file": "y/in/f", "offer": offered["offer"] });
        assert_eq!(two.pull(input).await.unwrap().result["files"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_entry_of_a_tree_is_asked_for_on_both_sides() {
    let two = Two::new(
        &[
            "fs:read",
            "fs:list",
            "bucket:x/**=read,list",
            "!bucket:x/tree/hidden=read",
            "!bucket:x/tree/deep/**=read,list",
        ],
        &[
            "fs:write",
            "fs:read",
            "bucket:y/**=write,read",
            "!bucket:y/tree/fixed=write",
        ],
    )
    .await;
    let tree = two.x.path().join("tree");
    fs::create_dir_all(tree.join("deep")).unwrap();
    for name in ["open", "hidden", "fixed", "deep/f"] {
        fs::write(tree.join(name), "x").unwrap();
    }
    let offer = two.offer("x/tree").await;
    let pulled = two
        .pull(json!({ "file": "y/tree", "offer": offer }))
        .await
        .unwrap();
    let mut errors = pulled.errors();
    errors.sort();
    let forbidden = |path: &str| (path.to_owned(), "FORBIDDEN".to_owned());
    assert_eq!(errors, [forbidden("fixed"), forbidden("hidden")]);
    assert_eq!(
        fs::read_to_string(two.y.path().join("tree/open")).unwrap(),
        "x"
    );
    for name in ["hidden", "fixed", "deep/f"] {
        assert!(!two.y.path().join("tree").join(name).exists(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn create_says_what_may_be_there() {
    let two = Two::usual().await;
    fs::write(two.x.path().join("f"), "new").unwrap();
    fs::write(two.y.path().join("f"), "older").unwrap();
    let pull = async |file: &str, create: &str| {
        let offer = two.offer("x/f").await;
        let input = json!({ "file": file, "offer": offer, "create": create });
        two.pull(input)
            .await
            .map(|pulled| pulled.result["files"].clone())
    };
    assert_eq!(pull("y/f", "new").await.unwrap_err().code, "FILE_EXISTS");
    assert_eq!(pull("y/g", "never").await.unwrap_err().code, "NO_SUCH_FILE");
    assert_eq!(fs::read_to_string(two.y.path().join("f")).unwrap(), "older");
    assert_eq!(pull("y/f", "never").await.unwrap(), 1);
    assert_eq!(pull("y/g", "new").await.unwrap(), 1);
    assert_eq!(fs::read_to_string(two.y.path().join("f")).unwrap(), "new");
    // A directory is offered as a tree, or not at all.
    fs::create_dir(two.x.path().join("d")).unwrap();
    let error = two.try_offer(json!({ "file": "x/d" })).await.unwrap_err();
    assert_eq!(error.code, "IS_A_DIRECTORY");
    let error = two
        .try_offer(json!({ "file": "x/none" }))
        .await
        .unwrap_err();
    assert_eq!(error.code, "NO_SUCH_FILE");
}
