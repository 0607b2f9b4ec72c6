//! The file: what it says, how it is read and written.

use alknet_core::storage::hex32;
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, Read, Write},
};

/// The newest format of a backup that this release reads, and the one that it
/// writes.
pub const FORMAT: u32 = 1;

/// What the first line begins with; the format follows.
const MAGIC: &[u8] = b"alknet-backup ";
/// Longest first line: the magic, a number of ten digits, and its end.
const MAGIC_BYTES_MAX: usize = MAGIC.len() + 11;
/// Longest second line.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Largest of the files beside the database.
pub(super) const SMALL_BYTES_MAX: u64 = 4 << 20;
/// Bytes of the digest in hexadecimal, and the end of its line.
const DIGEST_BYTES: usize = 65;
/// Bytes moved at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// The database: last, since it is the only large one.
pub(super) const DATABASE: &str = "alknet.db";
/// What may stand before it.
pub(super) const SMALL: [&str; 3] = ["alknet.toml", "port", "vault.json"];

/// What a restore needs beside the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Needs {
    /// The node's words: its keys are not in the backup.
    Words,
    /// The passphrase that wraps the keys in the backup; or the words.
    Passphrase,
}

/// What a backup says about itself, in its second line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHeader {
    /// The format of the file.
    pub format: u32,
    /// Whose backup it is: the node's public key, 64 hexadecimal digits.
    pub node_id: String,
    /// What the node called itself.
    pub name: String,
    /// The release that made it.
    pub release: String,
    /// When, as RFC 3339 text.
    pub taken_at: String,
    /// The format of the database.
    pub store_format: u32,
    /// What a restore needs.
    pub needs: Needs,
    /// Whether a key file is to wrap the restored vault, as it did here.
    pub key_file: bool,
    /// What follows, in this order.
    pub files: Vec<BackupFile>,
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFile {
    /// Its name in the data directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// Why something is no backup that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// It does not begin as one.
    #[error("this is no backup of a node")]
    NotABackup,
    /// A newer release made it.
    #[error("the backup has format {found}, newest known is {known}")]
    TooNew {
        /// Its format.
        found: u32,
        /// The newest that this release reads.
        known: u32,
    },
    /// It ends too early.
    #[error("the backup is cut short")]
    Truncated,
    /// Its parts contradict each other, or were changed.
    #[error("the backup is damaged: {0}")]
    Damaged(&'static str),
    /// It cannot be read, or what is in it cannot be written.
    #[error("failed to {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl BackupError {
    fn reading(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Io {
                what: "read the backup",
                source,
            },
        }
    }

    fn writing(source: io::Error) -> Self {
        Self::Io {
            what: "write",
            source,
        }
    }

    /// Whether the disk is full.
    #[must_use]
    pub fn is_no_room(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_no_room(source))
    }
}

/// Whether the disk, or what one may use of it, is full.
pub(super) fn is_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

impl BackupHeader {
    /// The first two lines.
    pub(super) fn to_lines(&self) -> Vec<u8> {
        let mut lines = MAGIC.to_vec();
        lines.extend(format!("{}\n", self.format).into_bytes());
        lines.extend(serde_json::to_vec(self).unwrap_or_default());
        lines.push(b'\n');
        lines
    }

    /// How long the whole backup is.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let files: u64 = self.files.iter().map(|file| file.bytes).sum();
        self.to_lines().len() as u64 + files + DIGEST_BYTES as u64
    }

    /// Only files that are known, each at most once, the database last.
    fn check(&self) -> Result<(), BackupError> {
        let Some((last, small)) = self.files.split_last() else {
            return Err(BackupError::Damaged("it names no files"));
        };
        if last.name != DATABASE {
            return Err(BackupError::Damaged("it has no database"));
        }
        for (at, file) in small.iter().enumerate() {
            let is_twice = small[..at].iter().any(|other| other.name == file.name);
            if is_twice || !SMALL.contains(&file.name.as_str()) || file.bytes > SMALL_BYTES_MAX {
                return Err(BackupError::Damaged("it names a file that no backup has"));
            }
        }
        let has_vault = small.iter().any(|file| file.name == "vault.json");
        if has_vault != (self.needs == Needs::Passphrase) {
            return Err(BackupError::Damaged(
                "it contradicts itself about the vault",
            ));
        }
        if hex32::decode(&self.node_id).is_none() {
            return Err(BackupError::Damaged("it names no node"));
        }
        // No sum of lengths runs over.
        match last.bytes <= i64::MAX as u64 {
            true => Ok(()),
            false => Err(BackupError::Damaged("it states an impossible length")),
        }
    }
}

/// A backup that is being read: header first, then file by file.
pub struct Backup<R> {
    source: R,
    header: BackupHeader,
    hasher: blake3::Hasher,
    /// The file that comes next.
    next: usize,
}

impl<R> std::fmt::Debug for Backup<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backup")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl<R: Read> Backup<R> {
    /// Reads the first two lines.
    ///
    /// # Errors
    ///
    /// [`BackupError`]: it is no backup, of a newer release, or damaged.
    pub fn open(mut source: R) -> Result<Self, BackupError> {
        let mut hasher = blake3::Hasher::new();
        let first = read_line(&mut source, MAGIC_BYTES_MAX, &mut hasher)?;
        let format = first.strip_prefix(MAGIC).ok_or(BackupError::NotABackup)?;
        let format = std::str::from_utf8(format).ok();
        let format: u32 = format
            .and_then(|digits| digits.parse().ok())
            .ok_or(BackupError::NotABackup)?;
        if format > FORMAT {
            return Err(BackupError::TooNew {
                found: format,
                known: FORMAT,
            });
        }
        let second = match read_line(&mut source, HEADER_BYTES_MAX, &mut hasher) {
            Err(BackupError::NotABackup) => Err(BackupError::Damaged("its header has no end")),
            read => read,
        }?;
        let header: BackupHeader = serde_json::from_slice(&second)
            .map_err(|_| BackupError::Damaged("its header is not understood"))?;
        header.check()?;
        Ok(Self {
            source,
            header,
            hasher,
            next: 0,
        })
    }

    /// What it says about itself; not to be believed before
    /// [`Backup::finish`].
    pub fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// Copies the next file to `to` and returns its entry; `None` after the
    /// last one. `moved` is told how many bytes were copied, again and again.
    ///
    /// # Errors
    ///
    /// [`BackupError`]: the backup is cut short, or one of the two ends cannot
    /// be used.
    pub fn copy_next(
        &mut self,
        to: &mut dyn Write,
        moved: &mut dyn FnMut(u64),
    ) -> Result<Option<BackupFile>, BackupError> {
        let Some(file) = self.header.files.get(self.next).cloned() else {
            return Ok(None);
        };
        self.next += 1;
        let mut left = file.bytes;
        let mut chunk = vec![0; CHUNK_BYTES.min(usize::try_from(left).unwrap_or(CHUNK_BYTES))];
        while left > 0 {
            let len = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let part = &mut chunk[..len];
            self.source.read_exact(part).map_err(BackupError::reading)?;
            self.hasher.update(part);
            to.write_all(part).map_err(BackupError::writing)?;
            left -= len as u64;
            moved(len as u64);
        }
        Ok(Some(file))
    }

    /// The entry of the file that [`Backup::copy_next`] copies next.
    pub fn peek(&self) -> Option<&BackupFile> {
        self.header.files.get(self.next)
    }

    /// Reads the digest behind the last file, and that nothing follows.
    ///
    /// # Errors
    ///
    /// [`BackupError::Damaged`] if a byte was changed since it was made.
    pub fn finish(mut self) -> Result<BackupHeader, BackupError> {
        let mut stated = [0; DIGEST_BYTES];
        self.source
            .read_exact(&mut stated)
            .map_err(BackupError::reading)?;
        if stated != digest_line(&self.hasher) {
            return Err(BackupError::Damaged("its checksum does not match"));
        }
        match self.source.read(&mut [0]).map_err(BackupError::reading)? {
            0 => Ok(self.header),
            _ => Err(BackupError::Damaged("something follows its end")),
        }
    }
}

/// Reads up to the end of a line, which is left out; byte by byte, since what
/// follows is not ours to take.
fn read_line(
    source: &mut impl Read,
    bytes_max: usize,
    hasher: &mut blake3::Hasher,
) -> Result<Vec<u8>, BackupError> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        match source.read_exact(&mut byte) {
            Ok(()) => {}
            // Shorter than any first line: who knows what it is.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let is_begun = !line.is_empty()
                    && (MAGIC.starts_with(&line) || line[0] == b'{' || line.starts_with(MAGIC));
                return Err(match is_begun {
                    true => BackupError::Truncated,
                    false => BackupError::NotABackup,
                });
            }
            Err(error) => return Err(BackupError::reading(error)),
        }
        hasher.update(&byte);
        if byte == *b"\n" {
            return Ok(line);
        }
        if line.len() == bytes_max {
            return Err(BackupError::NotABackup);
        }
        line.push(byte[0]);
    }
}

fn digest_line(hasher: &blake3::Hasher) -> [u8; DIGEST_BYTES] {
    let mut line = [b'\n'; DIGEST_BYTES];
    line[..DIGEST_BYTES - 1].copy_from_slice(hasher.finalize().to_hex().as_bytes());
    line
}

/// Yields a whole backup, byte by byte, from its parts.
pub(super) struct Parts {
    /// What is in memory: header and small files.
    head: io::Cursor<Vec<u8>>,
    database: io::Take<File>,
    hasher: blake3::Hasher,
    /// The digest, once everything else was read.
    digest: Option<io::Cursor<[u8; DIGEST_BYTES]>>,
}

impl Parts {
    /// `header` tells the length of each.
    pub(super) fn new(header: &BackupHeader, small: &[Vec<u8>], database: File) -> Self {
        let mut head = header.to_lines();
        head.extend(small.iter().flatten());
        let bytes = header.files.last().map_or(0, |file| file.bytes);
        Self {
            head: io::Cursor::new(head),
            database: database.take(bytes),
            hasher: blake3::Hasher::new(),
            digest: None,
        }
    }
}

impl Read for Parts {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if let Some(digest) = &mut self.digest {
            return digest.read(into);
        }
        let mut read = self.head.read(into)?;
        if read == 0 {
            read = self.database.read(into)?;
        }
        if read > 0 {
            self.hasher.update(&into[..read]);
            return Ok(read);
        }
        if self.database.limit() > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let digest = self
            .digest
            .insert(io::Cursor::new(digest_line(&self.hasher)));
        digest.read(into)
    }
}

/// Copies a backup, with the vault put into it; checks it on the way. `moved`
/// is told how many bytes were copied.
///
/// # Errors
///
/// [`BackupError`] of either end. What was written so far is no backup then.
pub fn rewrite(
    from: impl Read,
    vault: &[u8],
    to: &mut dyn Write,
    moved: &mut dyn FnMut(u64),
) -> Result<BackupHeader, BackupError> {
    let mut backup = Backup::open(from)?;
    let mut header = backup.header().clone();
    if header.needs != Needs::Words {
        return Err(BackupError::Damaged("it holds a vault already"));
    }
    header.needs = Needs::Passphrase;
    let database = header.files.len() - 1;
    let entry = BackupFile {
        name: "vault.json".into(),
        bytes: vault.len() as u64,
    };
    header.files.insert(database, entry);
    let mut hashing = Hashing {
        to,
        hasher: blake3::Hasher::new(),
    };
    let write = |hashing: &mut Hashing<'_>, bytes: &[u8]| {
        hashing.write_all(bytes).map_err(BackupError::writing)
    };
    write(&mut hashing, &header.to_lines())?;
    while let Some(next) = backup.peek() {
        if next.name == DATABASE {
            write(&mut hashing, vault)?;
        }
        backup.copy_next(&mut hashing, moved)?;
    }
    backup.finish()?;
    let digest = digest_line(&hashing.hasher);
    hashing
        .to
        .write_all(&digest)
        .map_err(BackupError::writing)?;
    Ok(header)
}

struct Hashing<'a> {
    to: &'a mut dyn Write,
    hasher: blake3::Hasher,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// What the fuzzer calls: reads `bytes` as a backup to its end, with the
/// digest that belongs to them appended if `sealed`. Answers with the header
/// and how many bytes its files had.
#[doc(hidden)]
#[must_use]
pub fn fuzz_backup(bytes: &[u8], sealed: bool) -> Option<(BackupHeader, u64)> {
    let mut whole = bytes.to_vec();
    if sealed {
        let mut hasher = blake3::Hasher::new();
        hasher.update(bytes);
        whole.extend(digest_line(&hasher));
    }
    let mut backup = Backup::open(whole.as_slice()).ok()?;
    let mut total = 0;
    let mut count = |moved| total += moved;
    while backup
        .copy_next(&mut io::sink(), &mut count)
        .ok()?
        .is_some()
    {}
    Some((backup.finish().ok()?, total))
}
