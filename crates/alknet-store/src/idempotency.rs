//! Outcomes of keyed calls.

use crate::{Store, fault::Fault};
use alknet_core::storage::{Begin, IdempotencyScope, IdempotencyStore, StoreError, Timestamp};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, named_params};

#[async_trait]
impl IdempotencyStore for Store {
    async fn begin(
        &self,
        scope: &IdempotencyScope,
        input_hash: [u8; 32],
        run: u64,
        now: Timestamp,
    ) -> Result<Begin, StoreError> {
        let scope = scope.clone();
        let begun = self.write(move |connection| {
            if let Some(found) = find(connection, &scope)? {
                return Ok(found.state(input_hash, run));
            }
            start(connection, &scope, input_hash, run, now)?;
            Ok::<_, Fault>(Begin::Fresh)
        });
        Ok(begun.await?)
    }

    async fn finish(&self, scope: &IdempotencyScope, outcome: Vec<u8>) -> Result<(), StoreError> {
        let scope = scope.clone();
        let finished = self.write(move |connection| {
            let sql = "UPDATE idempotency SET outcome = :outcome WHERE caller = :caller
                AND originator = :originator AND operation = :operation AND key = :key";
            connection.prepare_cached(sql)?.execute(named_params! {
                ":outcome": outcome,
                ":caller": scope.caller,
                ":originator": scope.originator,
                ":operation": scope.operation,
                ":key": scope.key,
            })?;
            Ok::<_, Fault>(())
        });
        Ok(finished.await?)
    }

    async fn count(&self, caller: &str) -> Result<u64, StoreError> {
        let caller = caller.to_owned();
        let counted = self.read(move |connection| {
            let sql = "SELECT count(*) FROM idempotency WHERE caller = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            let rows: i64 = statement.query_row([caller], |row| row.get(0))?;
            Ok::<_, Fault>(rows.cast_unsigned())
        });
        Ok(counted.await?)
    }

    async fn abandon(&self, scope: &IdempotencyScope) -> Result<(), StoreError> {
        let scope = scope.clone();
        let abandoned = self.write(move |connection| {
            let sql = "DELETE FROM idempotency WHERE caller = ?1
                AND originator = ?2 AND operation = ?3 AND key = ?4";
            connection.prepare_cached(sql)?.execute([
                scope.caller,
                scope.originator,
                scope.operation,
                scope.key,
            ])?;
            Ok::<_, Fault>(())
        });
        Ok(abandoned.await?)
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        let pruned = self.write(move |connection| {
            let rows = connection.execute("DELETE FROM idempotency WHERE at < ?1", [before.0])?;
            Ok::<_, Fault>(rows as u64)
        });
        Ok(pruned.await?)
    }
}

/// A start that was recorded.
struct Started {
    input_hash: [u8; 32],
    run: u64,
    outcome: Option<Vec<u8>>,
}

impl Started {
    fn state(self, input_hash: [u8; 32], run: u64) -> Begin {
        match self.outcome {
            _ if self.input_hash != input_hash => Begin::OtherInput,
            Some(outcome) => Begin::Done(outcome),
            None if self.run == run => Begin::Running,
            None => Begin::Unknown,
        }
    }
}

fn find(connection: &Connection, scope: &IdempotencyScope) -> rusqlite::Result<Option<Started>> {
    let sql = "SELECT input_hash, run, outcome FROM idempotency WHERE caller = ?1
        AND originator = ?2 AND operation = ?3 AND key = ?4";
    let key = [
        &scope.caller,
        &scope.originator,
        &scope.operation,
        &scope.key,
    ];
    let started = connection.prepare_cached(sql)?.query_row(key, |row| {
        let run: i64 = row.get(1)?;
        Ok(Started {
            input_hash: row.get(0)?,
            run: run.cast_unsigned(),
            outcome: row.get(2)?,
        })
    });
    started.optional()
}

fn start(
    connection: &Connection,
    scope: &IdempotencyScope,
    input_hash: [u8; 32],
    run: u64,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO idempotency (caller, originator, operation, key, input_hash, run, at)
        VALUES (:caller, :originator, :operation, :key, :input_hash, :run, :at)";
    connection.prepare_cached(sql)?.execute(named_params! {
        ":caller": scope.caller,
        ":originator": scope.originator,
        ":operation": scope.operation,
        ":key": scope.key,
        ":input_hash": input_hash,
        ":run": run.cast_signed(),
        ":at": now.0,
    })?;
    Ok(())
}
