//! The format of the file: whose it is, how new, and how it gets newer.

use rusqlite::{Connection, Transaction, TransactionBehavior};

/// `alkn`: tells our files from those of other programs
/// (<https://www.sqlite.org/pragma.html#pragma_application_id>).
pub(crate) const APPLICATION_ID: i32 = i32::from_be_bytes(*b"alkn");

/// The migration at index `n` leads from format `n` to format `n + 1`. What
/// has been released is never edited.
pub(crate) const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_identities_audit_calls.sql"),
    include_str!("../migrations/0002_places_networks_records.sql"),
    include_str!("../migrations/0003_keys_credentials_bans.sql"),
];

/// What a file says about itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing was ever written to it.
    Empty,
    /// Ours, in this format.
    Format(u32),
    /// Of another program.
    Foreign,
}

/// Reads whose file this is, without writing to it.
pub(crate) fn identify(connection: &Connection) -> rusqlite::Result<Found> {
    let application: i32 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok(match (application, tables, version) {
        (0, 0, 0) => Found::Empty,
        (APPLICATION_ID, _, version) => {
            u32::try_from(version).map_or(Found::Foreign, Found::Format)
        }
        _ => Found::Foreign,
    })
}

/// A migration that failed; its transaction was rolled back.
#[derive(Debug)]
pub(crate) struct MigrationFailed {
    /// The format that it was to lead to.
    pub(crate) format: u32,
    pub(crate) source: rusqlite::Error,
}

/// Runs the migrations that `from` lacks, each in one transaction.
pub(crate) fn migrate(
    connection: &mut Connection,
    from: u32,
    migrations: &[&str],
) -> Result<(), MigrationFailed> {
    // A table is rebuilt by dropping the old one, which would cascade. The
    // switch does nothing inside a transaction, so it is turned outside.
    let switch = |connection: &Connection, on: bool| {
        connection
            .pragma_update(None, "foreign_keys", on)
            .map_err(|source| MigrationFailed {
                format: from,
                source,
            })
    };
    switch(connection, false)?;
    for (format, sql) in (1..).zip(migrations).skip(from as usize) {
        migrate_once(connection, format, sql)
            .map_err(|source| MigrationFailed { format, source })?;
        tracing::info!(format, "store migrated");
    }
    switch(connection, true)
}

fn migrate_once(connection: &mut Connection, format: u32, sql: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(sql)?;
    check_references(&transaction)?;
    // Both live in the file's first page, so they are part of the transaction.
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", format)?;
    transaction.commit()
}

fn check_references(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let dangling: i64 =
        transaction.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| {
            row.get(0)
        })?;
    if dangling == 0 {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY);
    Err(rusqlite::Error::SqliteFailure(
        code,
        Some(format!("{dangling} dangling references")),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(connection: &Connection) -> Found {
        identify(connection).unwrap()
    }

    #[test]
    fn a_failing_migration_leaves_the_format_before() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, 0, &["CREATE TABLE a (x)"]).unwrap();
        let steps = [
            "CREATE TABLE a (x)",
            "CREATE TABLE b (x); INSERT INTO c VALUES (1)",
        ];
        let failed = migrate(&mut connection, 1, &steps).unwrap_err();
        assert_eq!(failed.format, 2);
        assert_eq!(format(&connection), Found::Format(1));
        assert!(connection.prepare("SELECT * FROM b").is_err());
    }

    #[test]
    fn a_migration_that_leaves_dangling_references_fails() {
        let mut connection = Connection::open_in_memory().unwrap();
        let steps = [
            "CREATE TABLE a (x PRIMARY KEY); CREATE TABLE b (x REFERENCES a); INSERT INTO a VALUES (1); INSERT INTO b VALUES (1);",
            "DELETE FROM a",
        ];
        let failed = migrate(&mut connection, 0, &steps).unwrap_err();
        assert_eq!(failed.format, 2);
        let rows: i64 = connection
            .query_row("SELECT count(*) FROM a", [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, 1);
    }

    #[test]
    fn only_what_is_missing_runs() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert_eq!(format(&connection), Found::Empty);
        migrate(&mut connection, 0, &["CREATE TABLE a (x)"]).unwrap();
        migrate(
            &mut connection,
            1,
            &["CREATE TABLE a (x)", "CREATE TABLE b (x)"],
        )
        .unwrap();
        assert_eq!(format(&connection), Found::Format(2));
        let enforced: bool = connection
            .pragma_query_value(None, "foreign_keys", |row| row.get(0))
            .unwrap();
        assert!(enforced);
    }

    #[test]
    fn tables_without_our_mark_are_foreign() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE a (x)").unwrap();
        assert_eq!(format(&connection), Found::Foreign);
        connection.pragma_update(None, "application_id", 7).unwrap();
        assert_eq!(format(&connection), Found::Foreign);
    }
}
