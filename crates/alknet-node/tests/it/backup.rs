//! A node as one file, and a node from one.

use crate::support::{Pair, soon};
use alknet_core::{Secret, storage::Timestamp};
use alknet_node::{
    InitError, InitOptions, Node, Replacement,
    backup::{
        Backup, BackupError, RestoreError, RestoreReport, RestoreSecret, TakeBackupError, prepare,
        restore, rewrite, wrapped_vault,
    },
    init,
};
use alknet_store::InstanceLock;
use std::{
    fs,
    io::{Cursor, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// A node that ran once, its words, and a place for others.
struct Kept {
    dir: TempDir,
    words: String,
    node_id: String,
}

impl Kept {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let made = init(&data, &InitOptions::default()).unwrap();
        fs::write(data.join("alknet.toml"), "name = \"home\"\n").unwrap();
        let node = start(&data).await;
        node.shutdown(Duration::from_secs(1)).await;
        Self {
            words: made.words.unwrap(),
            node_id: made.node_id,
            dir,
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn backup(&self) -> Vec<u8> {
        let mut prepared = prepare(&self.data(), "home", NOW, &Arc::default()).unwrap();
        let mut bytes = Vec::new();
        prepared.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, prepared.header().bytes());
        bytes
    }

    /// With the keys in it, under a passphrase.
    fn backup_under(&self, passphrase: &str) -> Vec<u8> {
        let vault = wrapped_vault(&self.data(), passphrase).unwrap();
        let mut whole = Vec::new();
        rewrite(Cursor::new(self.backup()), &vault, &mut whole, &mut |_| {}).unwrap();
        whole
    }

    fn restore(&self, backup: &[u8], name: &str) -> Result<RestoreReport, RestoreError> {
        restore_with(backup, &self.place(name), RestoreSecret::Words(&self.words))
    }
}

async fn start(data: &Path) -> Node {
    let builder = Node::builder().data_dir(data).relays(Vec::<String>::new());
    let bound = builder.bind("127.0.0.1:0".parse().unwrap());
    bound.spawn().await.unwrap()
}

fn restore_with(
    backup: &[u8],
    dir: &Path,
    secret: RestoreSecret<'_>,
) -> Result<RestoreReport, RestoreError> {
    restore(dir, Cursor::new(backup.to_vec()), secret, NOW, &mut |_| {})
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The files of a backup with what a test changes, sealed as one again.
fn rebuilt(backup: &[u8], change: impl FnOnce(&mut serde_json::Value, &mut Vec<u8>)) -> Vec<u8> {
    let mut lines = backup.splitn(3, |byte| *byte == b'\n');
    let magic = lines.next().unwrap();
    let mut header = serde_json::from_slice(lines.next().unwrap()).unwrap();
    let rest = lines.next().unwrap();
    let mut content = rest[..rest.len() - 65].to_vec();
    change(&mut header, &mut content);
    let mut bytes = magic.to_vec();
    bytes.push(b'\n');
    bytes.extend(header.to_string().into_bytes());
    bytes.push(b'\n');
    bytes.extend(content);
    let digest = blake3::hash(&bytes).to_hex();
    bytes.extend(digest.as_bytes());
    bytes.push(b'\n');
    bytes
}

/// A backup whose database is this one.
fn with_database(backup: &[u8], database: &[u8]) -> Vec<u8> {
    rebuilt(backup, |header, content| {
        let files = header["files"].as_array_mut().unwrap();
        let old = files.last().unwrap()["bytes"].as_u64().unwrap();
        content.truncate(content.len() - usize::try_from(old).unwrap());
        content.extend(database);
        files.last_mut().unwrap()["bytes"] = database.len().into();
    })
}

#[tokio::test]
async fn a_restored_node_is_the_same_one() {
    let kept = Kept::new().await;
    let restored = kept.restore(&kept.backup(), "new").unwrap();
    assert_eq!(
        (restored.node_id.as_str(), restored.name.as_str()),
        (kept.node_id.as_str(), "home")
    );
    let dir = kept.place("new");
    assert_eq!(
        names(&dir),
        [
            "alknet.db",
            "alknet.toml",
            "lock",
            "owner.key",
            "port",
            "vault.json",
            "vault.key"
        ]
    );
    for name in names(&dir) {
        let mode = fs::metadata(dir.join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let mode = fs::metadata(&dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // The same words, a new key around them.
    let read = |dir: &Path, name: &str| fs::read(dir.join(name)).unwrap();
    assert_eq!(read(&dir, "owner.key"), read(&kept.data(), "owner.key"));
    assert_eq!(read(&dir, "alknet.toml"), read(&kept.data(), "alknet.toml"));
    assert_ne!(read(&dir, "vault.key"), read(&kept.data(), "vault.key"));
    let node = start(&dir).await;
    assert_eq!(node.status().node_id, kept.node_id);
    node.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_backup_holds_no_key() {
    let kept = Kept::new().await;
    let holds = |backup: &[u8], what: &[u8]| backup.windows(what.len()).any(|part| part == what);
    for backup in [kept.backup(), kept.backup_under("kept apart")] {
        for file in ["vault.key", "owner.key"] {
            let key = fs::read(kept.data().join(file)).unwrap();
            assert!(!holds(&backup, key.trim_ascii()), "{file}");
        }
        let word = kept.words.split(' ').take(3).collect::<Vec<_>>().join(" ");
        assert!(!holds(&backup, word.as_bytes()));
        // What it does hold is found this way.
        assert!(holds(&backup, b"name = \"home\"") && holds(&backup, kept.node_id.as_bytes()));
    }
}

#[tokio::test]
async fn keys_under_a_passphrase_of_the_backup_need_it_and_no_words() {
    let kept = Kept::new().await;
    let backup = kept.backup_under("kept apart");
    let dir = kept.place("new");
    let with = |text| restore_with(&backup, &dir, RestoreSecret::Passphrase(text));
    let wrong = with("another").unwrap_err();
    assert_eq!(
        (wrong.code(), dir.exists()),
        ("WRONG_PASSPHRASE", false),
        "{wrong}"
    );
    assert_eq!(with("kept apart").unwrap().node_id, kept.node_id);
    // As the one that was kept: it starts with nobody present.
    let node = start(&dir).await;
    assert_eq!(node.status().node_id, kept.node_id);
    node.shutdown(Duration::ZERO).await;
    // The words still do, too.
    assert_eq!(
        kept.restore(&backup, "other").unwrap().node_id,
        kept.node_id
    );
}

#[tokio::test]
async fn a_restore_by_words_says_that_no_passphrase_protects_the_keys_any_more() {
    let kept = Kept::new().await;
    let passphrase = Secret::new("correct horse");
    alknet_node::protect(&kept.data(), None, Some(&passphrase)).unwrap();
    let backup = kept.backup();
    let restored = kept.restore(&backup, "by-words").unwrap();
    assert_eq!(
        (restored.protection, restored.passphrase_lost),
        ("key-file", true)
    );
    let by = RestoreSecret::Passphrase("correct horse");
    let restored = restore_with(&backup, &kept.place("by-passphrase"), by).unwrap();
    assert_eq!(
        (restored.protection, restored.passphrase_lost),
        ("passphrase", false)
    );
}

#[tokio::test]
async fn words_of_another_node_and_no_words_are_refused() {
    let kept = Kept::new().await;
    let backup = kept.backup();
    let dir = kept.place("new");
    let other = init(&kept.place("other"), &InitOptions::default()).unwrap();
    let error = restore_with(&backup, &dir, RestoreSecret::Words(&other.words.unwrap()));
    let error = error.unwrap_err();
    assert_eq!(error.code(), "WRONG_WORDS");
    let told = error.to_string();
    assert!(
        told.contains(&kept.node_id) && told.contains(&other.node_id),
        "{told}"
    );

    for (secret, code) in [
        (RestoreSecret::Words("legal winner thank"), "WRONG_WORDS"),
        (RestoreSecret::Passphrase("any"), "NEEDS_WORDS"),
    ] {
        let error = restore_with(&backup, &dir, secret).unwrap_err();
        assert_eq!(error.code(), code);
        assert!(!error.to_string().contains("winner"));
    }
    assert!(!dir.exists());
}

#[tokio::test]
async fn what_is_cut_or_changed_anywhere_is_refused_and_leaves_nothing() {
    let kept = Kept::new().await;
    let backup = kept.backup_under("kept apart");
    let header = backup.iter().position(|byte| *byte == b'{').unwrap();
    let step = backup.len() / 12;
    let places = (0..backup.len())
        .step_by(step)
        .chain([1, header, header + 9, backup.len() - 1]);
    for at in places {
        // Few of these get as far as deriving keys, which is slow.
        let cut = kept.restore(&backup[..at], "new").unwrap_err();
        let codes = ["BACKUP_DAMAGED", "NOT_A_BACKUP"];
        assert!(codes.contains(&cut.code()), "cut at {at}: {cut:?}");
        let mut changed = backup.clone();
        changed[at] ^= 1;
        let codes = [
            "BACKUP_DAMAGED",
            "NOT_A_BACKUP",
            "BACKUP_TOO_NEW",
            "WRONG_WORDS",
            "NEEDS_WORDS",
        ];
        let error = kept.restore(&changed, "new").unwrap_err();
        assert!(codes.contains(&error.code()), "changed at {at}: {error:?}");
        assert!(!kept.place("new").exists(), "at {at}");
    }
    let mut longer = backup.clone();
    longer.push(b'\n');
    assert_eq!(
        kept.restore(&longer, "new").unwrap_err().code(),
        "BACKUP_DAMAGED"
    );
    kept.restore(&backup, "new").unwrap();
}

#[test]
fn what_is_no_backup_is_told_so() {
    let long = "0123456789".repeat(20_000);
    for other in [
        "",
        "\n",
        "SQLite format 3\0",
        "alknet-backup x\n{}\n",
        &long,
    ] {
        let error = Backup::open(Cursor::new(other.as_bytes())).unwrap_err();
        assert!(
            matches!(error, BackupError::NotABackup),
            "{other:.20}: {error:?}"
        );
    }
    let newer = Backup::open(Cursor::new(b"alknet-backup 2\nwho knows\n")).unwrap_err();
    assert!(
        matches!(newer, BackupError::TooNew { found: 2, known: 1 }),
        "{newer:?}"
    );
    let endless = Backup::open(Cursor::new(format!("alknet-backup 1\n{long}"))).unwrap_err();
    assert!(matches!(endless, BackupError::Damaged(_)), "{endless:?}");
}

#[tokio::test]
async fn a_backup_names_only_files_that_one_has() {
    let kept = Kept::new().await;
    let backup = kept.backup();
    type Change = fn(&mut serde_json::Value);
    let changes: [Change; 7] = [
        |header| header["files"][0]["name"] = "../alknet.toml".into(),
        |header| header["files"][0]["name"] = "owner.key".into(),
        |header| header["files"][0]["name"] = "port".into(),
        |header| header["files"][0]["bytes"] = (1_u64 << 40).into(),
        |header| header["files"] = serde_json::json!([]),
        |header| header["needs"] = "passphrase".into(),
        |header| header["node_id"] = "no key".into(),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let changed = rebuilt(&backup, |header, _| change(header));
        let error = kept.restore(&changed, "new").unwrap_err();
        assert_eq!(error.code(), "BACKUP_DAMAGED", "{at}: {error}");
        assert!(!kept.place("new").exists(), "{at}");
    }
    // What the others changed, and this one does not.
    let same = rebuilt(&backup, |_, _| {});
    kept.restore(&same, "new").unwrap();
}

#[tokio::test]
async fn a_database_that_is_none_of_ours_is_refused() {
    let kept = Kept::new().await;
    let backup = kept.backup();
    let database = |sql: &str| {
        let path = kept.place("other.db");
        let _ = fs::remove_file(&path);
        let other = alknet_store::rusqlite::Connection::open(&path).unwrap();
        other.execute_batch(sql).unwrap();
        drop(other);
        fs::read(&path).unwrap()
    };
    let newer = {
        let path = kept.place("newer.db");
        fs::copy(kept.data().join("alknet.db"), &path).unwrap();
        let newer = alknet_store::rusqlite::Connection::open(&path).unwrap();
        newer.pragma_update(None, "user_version", 1_000).unwrap();
        drop(newer);
        fs::read(&path).unwrap()
    };
    let of_another = {
        let path = kept.place("another.db");
        fs::copy(kept.data().join("alknet.db"), &path).unwrap();
        let other = alknet_store::rusqlite::Connection::open(&path).unwrap();
        let sql = "UPDATE meta SET value = 'another' WHERE key = 'node'";
        assert_eq!(other.execute(sql, []).unwrap(), 1);
        drop(other);
        fs::read(&path).unwrap()
    };
    for (database, code) in [
        (database("CREATE TABLE t (x)"), "BACKUP_DAMAGED"),
        (
            b"no database at all, and long enough to be read as one".to_vec(),
            "BACKUP_DAMAGED",
        ),
        (newer, "BACKUP_TOO_NEW"),
        (of_another, "BACKUP_DAMAGED"),
    ] {
        let error = kept
            .restore(&with_database(&backup, &database), "new")
            .unwrap_err();
        assert_eq!(error.code(), code, "{error:?}");
        assert!(!kept.place("new").exists());
    }
}

#[tokio::test]
async fn a_backup_of_an_older_format_is_brought_up_to_date() {
    let kept = Kept::new().await;
    let path = kept.place("old.db");
    let old = alknet_store::rusqlite::Connection::open(&path).unwrap();
    let dump = "../../../alknet-store/tests/it/fixtures/format-2.sql";
    let dump = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it")
        .join(dump);
    old.execute_batch(&fs::read_to_string(dump).unwrap())
        .unwrap();
    drop(old);
    let backup = with_database(&kept.backup(), &fs::read(&path).unwrap());
    let restored = kept.restore(&backup, "new").unwrap();
    assert_eq!(restored.peers, 2);
    alknet_store::Store::check_deep(&kept.place("new").join("alknet.db")).unwrap();
}

#[tokio::test]
async fn nothing_is_ever_overwritten() {
    let kept = Kept::new().await;
    let backup = kept.backup();
    let dir = kept.place("new");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("notes"), "mine").unwrap();
    let error = kept.restore(&backup, "new").unwrap_err();
    assert!(matches!(error, RestoreError::NotEmpty(_)), "{error:?}");
    assert_eq!(names(&dir), ["notes"]);
    // The node itself is no place for its backup either.
    let error = kept.restore(&backup, "data").unwrap_err();
    assert!(matches!(error, RestoreError::NotEmpty(_)), "{error:?}");

    // What a kill left is told from a node, and is none.
    fs::remove_file(dir.join("notes")).unwrap();
    fs::create_dir(dir.join(".restoring")).unwrap();
    let error = kept.restore(&backup, "new").unwrap_err();
    assert!(matches!(error, RestoreError::Interrupted(_)), "{error:?}");
    let error = init(&dir, &InitOptions::default()).unwrap_err();
    assert!(matches!(error, InitError::HalfRestored(_)), "{error:?}");
    fs::remove_dir(dir.join(".restoring")).unwrap();
    // An empty directory, as a volume is.
    fs::create_dir(dir.join("lost+found")).unwrap();
    kept.restore(&backup, "new").unwrap();

    // A whole node with what its restore left is no interrupted restore: its
    // next start tidies up.
    fs::create_dir(dir.join(".restoring")).unwrap();
    let error = kept.restore(&backup, "new").unwrap_err();
    assert!(matches!(error, RestoreError::NotEmpty(_)), "{error:?}");
    start(&dir).await.shutdown(Duration::ZERO).await;
    assert!(!dir.join(".restoring").exists());
}

/// Of two who make a node in a directory at once, the second leaves alone what
/// the first one made.
#[tokio::test]
async fn a_directory_that_another_process_makes_a_node_of_is_left_alone() {
    let kept = Kept::new().await;
    let backup = kept.backup();
    let dir = kept.place("new");
    fs::create_dir(&dir).unwrap();
    // Another one has the lock, and has not made anything yet.
    let lock = InstanceLock::acquire(&dir).unwrap();
    let error = kept.restore(&backup, "new").unwrap_err();
    assert!(matches!(error, RestoreError::Lock(_)), "{error:?}");
    let error = init(&dir, &InitOptions::default()).unwrap_err();
    assert!(matches!(error, InitError::Lock(_)), "{error:?}");
    assert_eq!(names(&dir), ["lock"]);
    // It makes its node while a restore reads its backup: the directory was
    // empty when the restore was begun, and is not when it looks again.
    drop(lock);
    let (begun, mut restoring) = (dir.clone(), None);
    let source = Making(Cursor::new(backup.clone()), || {
        restoring = Some(init(&begun, &InitOptions::default()).map(|made| made.node_id));
    });
    let secret = RestoreSecret::Words(&kept.words);
    let error = restore(&dir, source, secret, NOW, &mut |_| {}).unwrap_err();
    assert!(matches!(error, RestoreError::NotEmpty(_)), "{error:?}");
    let made = restoring.unwrap().unwrap();
    assert_eq!(alknet_node::check_keys(&dir).unwrap(), Some(made));
    assert_eq!(
        names(&dir),
        ["lock", "owner.key", "vault.json", "vault.key"]
    );
}

/// A source that does something when it is first read.
struct Making<F: FnMut()>(Cursor<Vec<u8>>, F);

impl<F: FnMut()> Read for Making<F> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.0.position() == 0 {
            (self.1)();
        }
        self.0.read(into)
    }
}

/// A source that fails when so many bytes were read: the process of the node
/// dies, the network goes, and so on.
struct Failing<R>(R, usize);

impl<R: Read> Read for Failing<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.1 == 0 {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        let len = into.len().min(self.1);
        let read = self.0.read(&mut into[..len])?;
        self.1 -= read;
        Ok(read)
    }
}

#[tokio::test]
async fn a_source_that_fails_leaves_nothing() {
    let kept = Kept::new().await;
    let backup = kept.backup();
    for at in [0, 10, 400, backup.len() / 2, backup.len() - 1] {
        let source = Failing(Cursor::new(&backup), at);
        let secret = RestoreSecret::Words(&kept.words);
        let error = restore(&kept.place("new"), source, secret, NOW, &mut |_| {}).unwrap_err();
        assert!(
            matches!(error, RestoreError::Backup(BackupError::Io { .. })),
            "{error:?}"
        );
        assert!(!kept.place("new").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_nothing_of_a_backup_keeps_nobody_else_from_one() {
    let pair = Pair::with(&["*"], &[], |home| home, |laptop| laptop).await;
    // More than is under way to somebody who does not read.
    let much = format!("# {}\n", "much ".repeat(1024 * 1024 / 8));
    let config = pair.home.dir.path().join("alknet.toml");
    fs::write(config, much.repeat(6)).unwrap();
    let (there, nothing) = (pair.at_home(), serde_json::json!({}));
    let mut unread = soon(there.open("node/backup", &nothing)).await.unwrap();
    unread.channel.tx.end();
    let mut read = soon(there.open("node/backup", &nothing)).await.unwrap();
    read.channel.tx.end();
    let mut bytes = Vec::new();
    while let Some(chunk) = soon(read.channel.rx.recv()).await.unwrap() {
        bytes.extend_from_slice(&chunk.bytes);
    }
    soon(read.done).await.unwrap();
    assert!(Backup::open(Cursor::new(bytes)).is_ok());
    drop(unread);
}

#[tokio::test]
async fn no_backup_is_taken_between_two_vaults() {
    let kept = Kept::new().await;
    let next = Replacement::prepare(&kept.data(), None).await.unwrap();
    let take = || prepare(&kept.data(), "home", NOW, &Arc::default());
    let error = take().unwrap_err();
    assert!(matches!(error, TakeBackupError::Replacing), "{error:?}");
    next.discard().unwrap();
    take().unwrap();
}
