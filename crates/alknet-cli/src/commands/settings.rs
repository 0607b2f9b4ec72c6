//! Writes single settings into `alknet.toml` without touching the rest of it:
//! people keep comments there.

use crate::{
    failure::Failure,
    node_access::{self, Config, ConfigError, Findings},
};
use std::{io::Write, os::unix::fs::OpenOptionsExt, path::Path};

/// Reads the configuration; a file that is missing is the default.
pub(crate) fn load(path: &Path) -> Result<Config, Failure> {
    if !path.exists() {
        return Ok(Config::default());
    }
    Config::load(path).map_err(|error| bad(&error))
}

/// Reads the configuration, and checks that this machine can do what it says.
pub(crate) fn load_checked(path: &Path, dir: &Path) -> Result<Config, Failure> {
    let config = load(path)?;
    match node_access::check_config(&config, dir) {
        Ok(()) => Ok(config),
        Err(Findings { message, hint }) => {
            Err(Failure::new(crate::Exit::FAILED, "CONFIG", message).hint_if(hint))
        }
    }
}

/// What is told about a configuration that cannot be used.
pub(crate) fn bad(error: &ConfigError) -> Failure {
    let message = crate::node_access::sentence(error);
    Failure::new(crate::Exit::FAILED, "CONFIG", message).hint_if(error.hint())
}

/// Sets `name`.
pub(crate) fn store_name(path: &Path, name: &str) -> Result<(), Failure> {
    edit(path, |text| with_root_key(text, "name", &quoted(name)))
}

/// Sets `network.relays`.
pub(crate) fn store_relays(path: &Path, relays: &[String]) -> Result<(), Failure> {
    let list: Vec<String> = relays.iter().map(|relay| quoted(relay)).collect();
    edit(path, |text| {
        with_table_key(text, "network", "relays", &format!("[{}]", list.join(", ")))
    })
}

fn edit(path: &Path, change: impl FnOnce(&str) -> String) -> Result<(), Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Failure::io("read", path, &error)),
    };
    let text = change(&text);
    // A file that a person shaped in a way this does not understand stays.
    Config::parse(&text, path).map_err(|error| bad(&error))?;
    let temporary = path.with_extension("toml.new");
    let written = || -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    written().map_err(|error| Failure::io("write", path, &error))
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Root keys stand before the first table.
fn with_root_key(text: &str, key: &str, value: &str) -> String {
    format!("{key} = {value}\n{text}")
}

/// Behind the table's header, or in a new table at the end.
fn with_table_key(text: &str, table: &str, key: &str, value: &str) -> String {
    let header = format!("[{table}]");
    let is_header = |line: &str| line.split('#').next().unwrap_or_default().trim() == header;
    if !text.lines().any(is_header) {
        let gap = if text.is_empty() { "" } else { "\n" };
        let end = if text.is_empty() || text.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        return format!("{text}{end}{gap}{header}\n{key} = {value}\n");
    }
    let is_key = |line: &str| {
        line.split('=')
            .next()
            .is_some_and(|found| found.trim() == key)
    };
    let mut edited = String::new();
    let mut inside = false;
    for line in text.lines() {
        // The value that it had; one over several lines breaks the file, and
        // then it is left as it is.
        if inside && is_key(line) {
            continue;
        }
        edited.push_str(line);
        edited.push('\n');
        if line.trim_start().starts_with('[') {
            inside = is_header(line);
        }
        if is_header(line) {
            edited.push_str(&format!("{key} = {value}\n"));
        }
    }
    edited
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn comments_stay() {
        assert_eq!(
            with_table_key(
                "# mine\n[network] # yes\nport_mapping = true\n",
                "network",
                "relays",
                "[]"
            ),
            "# mine\n[network] # yes\nrelays = []\nport_mapping = true\n"
        );
        assert_eq!(
            with_table_key(
                "relays = 1\n[network]\nrelays = []\nbind = 1\n[x]\nrelays = 2\n",
                "network",
                "relays",
                "[3]"
            ),
            "relays = 1\n[network]\nrelays = [3]\nbind = 1\n[x]\nrelays = 2\n"
        );
        assert_eq!(
            with_table_key("name = \"x\"", "network", "relays", "[]"),
            "name = \"x\"\n\n[network]\nrelays = []\n"
        );
        assert_eq!(
            with_table_key("", "network", "relays", "[]"),
            "[network]\nrelays = []\n"
        );
    }

    #[test]
    fn what_is_stored_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alknet.toml");
        store_relays(&path, &["n0".into()]).unwrap();
        store_name(&path, "home").unwrap();
        let config = load(&path).unwrap();
        assert_eq!(config.name.as_deref(), Some("home"));
        assert_eq!(config.network.relays, Some(vec!["n0".to_owned()]));
    }

    #[test]
    fn a_file_that_would_break_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alknet.toml");
        let text = "network = { port_mapping = true }\n";
        std::fs::write(&path, text).unwrap();
        assert!(store_relays(&path, &["n0".into()]).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}
