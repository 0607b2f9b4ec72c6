//! What was acknowledged, and what is left of it in a database.

use rusqlite::{Connection, OpenFlags};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// What was acknowledged: lines of a kind and what it is about.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(BTreeMap<String, BTreeSet<String>>);

/// Where what of a kind is told: the rows, and the events that go with them.
struct Kind {
    name: &'static str,
    rows: &'static str,
    events: Option<&'static str>,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "peer",
        rows: "SELECT id FROM peers",
        events: Some("'peer/added', 'peer/joined'"),
    },
    Kind {
        name: "invite",
        rows: "SELECT id FROM invites",
        events: Some("'invite/created'"),
    },
    Kind {
        name: "revoked",
        rows: "SELECT id FROM invites WHERE revoked = 1",
        events: Some("'invite/revoked'"),
    },
    Kind {
        name: "grant",
        rows: "SELECT peer || ' ' || target FROM grants",
        events: None,
    },
    Kind {
        name: "key",
        rows: "SELECT id FROM api_keys",
        events: Some("'key/created'"),
    },
    Kind {
        name: "credential",
        rows: "SELECT provider || '/' || account FROM credentials",
        events: Some("'credential/put'"),
    },
    Kind {
        name: "call",
        rows: "SELECT key FROM idempotency WHERE outcome IS NOT NULL",
        events: None,
    },
];

/// Operations whose change is recorded beside the call, in its transaction.
const CHANGES: &str = "'peers/add', 'peers/grant', 'invites/create', 'invites/revoke',
    'keys/create', 'credentials/put'";

impl Ledger {
    pub(super) fn add(&mut self, line: &str) {
        let (kind, about) = line.split_once(' ').unwrap();
        // A call is kept with its answer, which the database has sealed up in
        // a form of its own: the node is asked for it.
        let about = match kind {
            "call" => about.split_once(' ').map_or(about, |(key, _)| key),
            _ => about,
        };
        let abouts = self.0.entry(kind.to_owned()).or_default();
        abouts.insert(about.to_owned());
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (kind, abouts) in &other.0 {
            let own = self.0.entry(kind.clone()).or_default();
            own.extend(abouts.iter().cloned());
        }
    }

    /// How many of a kind.
    pub(super) fn count(&self, kind: &str) -> usize {
        self.0.get(kind).map_or(0, BTreeSet::len)
    }

    pub(super) fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    /// What is missing in a data directory that nobody uses, or contradicts
    /// itself there. The directory stays as it is: a copy is looked at, since
    /// opening a database mends it.
    pub(super) fn missing_from(&self, data: &Path) -> Vec<String> {
        let copy = in_memory();
        for name in ["alknet.db", "alknet.db-wal"] {
            let (from, to) = (data.join(name), copy.path().join(name));
            if from.exists() {
                fs::copy(from, to).unwrap();
            }
        }
        self.missing_from_database(&copy.path().join("alknet.db"))
    }

    /// The same of a database, which is opened.
    pub(super) fn missing_from_database(&self, database: &Path) -> Vec<String> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
        match Connection::open_with_flags(database, flags) {
            Ok(connection) => self
                .missing_in(&connection)
                .unwrap_or_else(|error| vec![format!("it cannot be read: {error}")]),
            Err(error) => vec![format!("it does not open: {error}")],
        }
    }

    fn missing_in(&self, c: &Connection) -> rusqlite::Result<Vec<String>> {
        let mut found = damages(c)?;
        let none = BTreeSet::new();
        for kind in KINDS {
            let there = texts(c, kind.rows)?;
            let noted = self.0.get(kind.name).unwrap_or(&none);
            for about in noted.difference(&there) {
                let name = kind.name;
                found.push(format!("{name} {about} was acknowledged and is lost"));
            }
            let Some(kinds) = kind.events else { continue };
            let told = texts(
                c,
                &format!(
                    "SELECT json_extract(payload, '$.about') FROM _honker_stream
                        WHERE topic = 'alknet' AND key IN ({kinds})"
                ),
            )?;
            for about in there.difference(&told) {
                found.push(format!("{} {about} without its event", kind.name));
            }
            for about in told.difference(&there) {
                found.push(format!("an event without its {} {about}", kind.name));
            }
        }
        // Events and changes in the audit log name the call that made them.
        let recorded = |column: &str, conditions: &str| {
            let sql = format!("SELECT {column} FROM audit WHERE outcome = 'ok' {conditions}");
            texts(c, &sql)
        };
        let changes = recorded(
            "parent_id",
            &format!(
                "AND parent_id IS NOT NULL AND operation IN ({CHANGES}) AND coalesce(detail, '') <> 'nothing changed'"
            ),
        )?;
        let told = texts(
            c,
            "SELECT json_extract(payload, '$.call_id') FROM _honker_stream
                WHERE topic = 'alknet' AND json_extract(payload, '$.caller') <> 'host'",
        )?;
        for call in changes.difference(&told) {
            found.push(format!("a change without its event, in call {call}"));
        }
        for call in told.difference(&recorded("coalesce(parent_id, call_id)", "")?) {
            found.push(format!("an event without its audit row, of call {call}"));
        }
        Ok(found)
    }
}

fn damages(c: &Connection) -> rusqlite::Result<Vec<String>> {
    let integrity: String = c.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    let sql = "SELECT count(*) FROM pragma_foreign_key_check";
    let dangling: i64 = c.query_row(sql, [], |row| row.get(0))?;
    let mut found = Vec::new();
    if integrity != "ok" {
        found.push(format!("damaged: {integrity}"));
    }
    if dangling != 0 {
        found.push(format!("{dangling} references dangle"));
    }
    Ok(found)
}

fn texts(c: &Connection, sql: &str) -> rusqlite::Result<BTreeSet<String>> {
    c.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

/// A directory whose files wait for no disk.
pub(super) fn in_memory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    made.unwrap()
}
