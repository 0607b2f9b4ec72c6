//! The data directory: what lies where, and who may read it.

use alknet_core::storage::hex32;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Read, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// More than the owner's key in hexadecimal digits and the end of its line.
const OWNER_KEY_BYTES_MAX: usize = 128;

/// Where a node keeps what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir(PathBuf);

/// Why a file of the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// Group or others may read what only the owner may.
    #[error("`{}` can be read by others (mode {mode:03o})", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file is not what it should be.
    #[error("`{}` is damaged: {reason}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system said no.
    #[error("failed to use `{}`", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl DataDirError {
    /// The command that helps.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            DataDirError::Exposed { path, .. } => Some(format!("chmod go= {}", path.display())),
            _ => None,
        }
    }
}

/// What a running node tells the command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// Its process.
    pub pid: u32,
    /// Its public key.
    pub node_id: String,
    /// How it calls itself.
    pub name: String,
    /// Its release.
    pub version: String,
    /// UDP sockets it listens on.
    pub sockets: Vec<SocketAddr>,
    /// Addresses at which it can be reached.
    pub addresses: Vec<SocketAddr>,
    /// Relays it uses.
    pub relays: Vec<String>,
    /// URL of the HTTP gateway.
    pub http: Option<String>,
    /// Address of the SSH server.
    pub ssh: Option<String>,
}

impl DataDir {
    /// The directory at `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `alknet.toml`
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.0.join("alknet.toml")
    }

    /// `alknet.db`
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.0.join("alknet.db")
    }

    /// `owner.key`
    #[must_use]
    pub fn owner_key(&self) -> PathBuf {
        self.0.join("owner.key")
    }

    /// `runtime.json`
    #[must_use]
    pub fn runtime_file(&self) -> PathBuf {
        self.0.join("runtime.json")
    }

    /// `relay-cert.pem`: the certificate that this node's relay made for itself.
    #[must_use]
    pub fn relay_certificate(&self) -> PathBuf {
        self.0.join("relay-cert.pem")
    }

    /// `relay-key.pem`: its key.
    #[must_use]
    pub fn relay_key(&self) -> PathBuf {
        self.0.join("relay-key.pem")
    }

    /// Keeps one of these two.
    pub(crate) fn write_relay(&self, path: &Path, text: &str) -> Result<(), DataDirError> {
        write_private(path, text.as_bytes())
    }

    fn port_file(&self) -> PathBuf {
        self.0.join("port")
    }

    /// Makes the directory for its owner alone; on disk when it returns.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Io`] if it cannot be made.
    pub fn create(&self) -> Result<(), DataDirError> {
        let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let missing: Vec<_> = self.0.ancestors().take_while(missing).collect();
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0);
        // A name is on disk when the directory that holds it is.
        let kept = made.and_then(|()| missing.into_iter().try_for_each(sync_parent));
        kept.map_err(|source| DataDirError::Io {
            path: self.0.clone(),
            source,
        })
    }

    /// Refuses files with keys that others may read.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Exposed`] that names the file.
    pub fn check_modes(&self) -> Result<(), DataDirError> {
        for name in [
            "owner.key",
            "vault.json",
            "vault.key",
            "alknet.db",
            "alknet.db-wal",
            "relay-key.pem",
        ] {
            check_mode(&self.0.join(name))?;
        }
        Ok(())
    }

    /// Keeps the owner's secret key.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Io`] if it cannot be written.
    pub fn write_owner_key(&self, secret: &[u8; 32]) -> Result<(), DataDirError> {
        let mut text = Zeroizing::new(String::with_capacity(OWNER_KEY_BYTES_MAX));
        text.push_str(&Zeroizing::new(hex32::encode(secret)));
        text.push('\n');
        write_private(&self.owner_key(), text.as_bytes())
    }

    /// Reads the owner's secret key.
    ///
    /// # Errors
    ///
    /// [`DataDirError`] if it is missing, exposed or damaged.
    pub fn read_owner_key(&self) -> Result<Zeroizing<[u8; 32]>, DataDirError> {
        let path = self.owner_key();
        let failed = |source| DataDirError::Io {
            path: path.clone(),
            source,
        };
        let file = fs::File::open(&path).map_err(failed)?;
        // Of the file that is read, whatever the name stands for by then.
        refuse_exposed(&path, &file.metadata().map_err(failed)?)?;
        // Room for all of it: a text that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(OWNER_KEY_BYTES_MAX));
        let read = file
            .take(OWNER_KEY_BYTES_MAX as u64)
            .read_to_string(&mut text);
        read.map_err(failed)?;
        let key = hex32::decode(text.trim()).map(Zeroizing::new);
        key.ok_or_else(|| DataDirError::Damaged {
            path,
            reason: "not 64 hexadecimal digits".into(),
        })
    }

    /// The port picked at an earlier start.
    #[must_use]
    pub fn kept_port(&self) -> Option<u16> {
        fs::read_to_string(self.port_file())
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Whether a node has been started here.
    #[must_use]
    pub fn has_run(&self) -> bool {
        self.port_file().exists() || self.runtime_file().exists()
    }

    /// Keeps the port for later starts.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Io`] if it cannot be written.
    pub fn keep_port(&self, port: u16) -> Result<(), DataDirError> {
        write_private(&self.port_file(), format!("{port}\n").as_bytes())
    }

    /// What the running node wrote, if one is running or was killed.
    #[must_use]
    pub fn runtime(&self) -> Option<Runtime> {
        serde_json::from_slice(&fs::read(self.runtime_file()).ok()?).ok()
    }

    pub(crate) fn write_runtime(&self, runtime: &Runtime) -> Result<(), DataDirError> {
        let text = serde_json::to_vec_pretty(runtime).unwrap_or_default();
        write_private(&self.runtime_file(), &text)
    }

    pub(crate) fn remove_runtime(&self) {
        // A file left behind is told from a running node by its lock.
        let _ = fs::remove_file(self.runtime_file());
    }
}

fn check_mode(path: &Path) -> Result<(), DataDirError> {
    let Ok(found) = fs::metadata(path) else {
        return Ok(());
    };
    refuse_exposed(path, &found)
}

fn refuse_exposed(path: &Path, found: &fs::Metadata) -> Result<(), DataDirError> {
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(DataDirError::Exposed {
            path: path.into(),
            mode,
        })
    }
}

/// Writes a file for its owner alone, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &[u8]) -> Result<(), DataDirError> {
    let failed = |source| DataDirError::Io {
        path: path.into(),
        source,
    };
    let temporary = path.with_extension("new");
    // Left behind by a crash: its mode is not known to be ours.
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(text)
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)?;
    sync_parent(path).map_err(failed)
}

/// Has the disk keep the name of `path`.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
