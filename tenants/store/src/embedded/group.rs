//! Requests of one commit: what they do to the tables, and their answers, held back until the commit.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{OptionalExtension, Transaction, params};
use tokio::sync::OwnedSemaphorePermit;

use super::worker::Lease;
use super::{Reply, Request};
use crate::error::StoreError;
use crate::types::{Entry, LeaseId, Op, Revision, Txn, TxnOutcome, WatchEvent, prefix_end};

/// An answer that waits for the commit: told whether it succeeded.
type Answer = Box<dyn FnOnce(Option<&StoreError>)>;

/// One commit in the making.
pub(super) struct Group {
    /// Revision of the last write, of this group too.
    pub(super) revision: Revision,
    /// Writes, in order.
    pub(super) events: Vec<WatchEvent>,
    /// Leases that begin with the commit.
    pub(super) granted: Vec<(LeaseId, Duration)>,
    /// Leases that end with it.
    pub(super) ended: Vec<LeaseId>,
    /// Leases that live on from it.
    pub(super) kept: Vec<LeaseId>,
    begun_at: Revision,
    answers: Vec<(Answer, OwnedSemaphorePermit)>,
}

impl Group {
    pub(super) fn new(revision: Revision) -> Self {
        Self {
            revision,
            events: Vec::new(),
            granted: Vec::new(),
            ended: Vec::new(),
            kept: Vec::new(),
            begun_at: revision,
            answers: Vec::new(),
        }
    }

    /// Number of requests.
    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    /// Runs one request. Its answer waits; an error is one of the database and fails the whole group.
    pub(super) fn run(
        &mut self,
        database: &Transaction<'_>,
        leases: &HashMap<LeaseId, Lease>,
        request: Request,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), rusqlite::Error> {
        match request {
            Request::Get { key, reply } => {
                let found = get(database, &key);
                self.hold(reply, permit, found.map(Ok))
            }
            Request::Range {
                prefix,
                after,
                limit,
                reply,
            } => {
                let found = range(database, &prefix, after.as_deref(), limit);
                let revision = self.revision;
                self.hold(reply, permit, found.map(|found| Ok((found, revision))))
            }
            Request::Keys {
                prefix,
                after,
                limit,
                reply,
            } => {
                let found = keys(database, &prefix, after.as_deref(), limit);
                let revision = self.revision;
                self.hold(reply, permit, found.map(|found| Ok((found, revision))))
            }
            Request::Txn { txn, reply } => {
                let outcome = self.txn(database, leases, txn);
                self.hold(reply, permit, outcome)
            }
            Request::Grant { ttl, reply } => {
                let lease = self.grant(database, ttl);
                self.hold(reply, permit, lease.map(Ok))
            }
            Request::KeepAlive { lease, reply } => {
                let outcome = self.known(leases, lease);
                if outcome.is_ok() {
                    self.kept.push(lease);
                }
                self.hold(reply, permit, Ok(outcome))
            }
            Request::Revoke { lease, reply } => {
                let outcome = match self.known(leases, lease) {
                    Ok(()) => self.end_lease(database, lease).map(Ok),
                    Err(error) => Ok(Err(error)),
                };
                self.hold(reply, permit, outcome)
            }
            Request::Watch { .. } => Ok(()),
        }
    }

    /// Takes a request in that will only be told of the failure.
    pub(super) fn refuse(&mut self, request: Request, permit: OwnedSemaphorePermit) {
        fn failing<T: 'static>(reply: Reply<T>) -> Answer {
            Box::new(move |error| {
                let error = error.cloned().unwrap_or(StoreError::Unavailable {
                    reason: "not run".to_owned(),
                });
                let _ = reply.send(Err(error));
            })
        }
        let answer = match request {
            Request::Get { reply, .. } => failing(reply),
            Request::Range { reply, .. } => failing(reply),
            Request::Keys { reply, .. } => failing(reply),
            Request::Txn { reply, .. } => failing(reply),
            Request::Watch { reply, .. } => failing(reply),
            Request::Grant { reply, .. } => failing(reply),
            Request::KeepAlive { reply, .. } | Request::Revoke { reply, .. } => failing(reply),
        };
        self.answers.push((answer, permit));
    }

    /// Holds an answer back. A database error is kept for the group's failure.
    fn hold<T: 'static>(
        &mut self,
        reply: Reply<T>,
        permit: OwnedSemaphorePermit,
        outcome: Result<Result<T, StoreError>, rusqlite::Error>,
    ) -> Result<(), rusqlite::Error> {
        let (outcome, failed) = match outcome {
            Ok(outcome) => (Some(outcome), Ok(())),
            Err(error) => (None, Err(error)),
        };
        let answer: Answer = Box::new(move |error| {
            let missing = || {
                Err(StoreError::Unavailable {
                    reason: "not run".to_owned(),
                })
            };
            let outcome = match error {
                Some(error) => Err(error.clone()),
                None => outcome.unwrap_or_else(missing),
            };
            // The caller may have gone.
            let _ = reply.send(outcome);
        });
        self.answers.push((answer, permit));
        failed
    }

    /// Writes the counters, once for the group.
    pub(super) fn finish(&self, database: &Transaction<'_>) -> Result<(), rusqlite::Error> {
        if self.revision != self.begun_at {
            database
                .prepare_cached("UPDATE counter SET value = ?1 WHERE name = 'revision'")?
                .execute([signed(self.revision)])?;
        }
        Ok(())
    }

    /// Answers everybody after the commit.
    pub(super) fn answer(self) {
        self.answers
            .into_iter()
            .for_each(|(answer, _permit)| answer(None));
    }

    /// Tells everybody of the failure.
    pub(super) fn fail(self, error: &StoreError) {
        self.answers
            .into_iter()
            .for_each(|(answer, _permit)| answer(Some(error)));
    }

    fn known(&self, leases: &HashMap<LeaseId, Lease>, lease: LeaseId) -> Result<(), StoreError> {
        let granted = leases.contains_key(&lease) || self.granted.iter().any(|(id, _)| *id == lease);
        if granted && !self.ended.contains(&lease) {
            Ok(())
        } else {
            Err(StoreError::LeaseNotFound(lease))
        }
    }

    fn txn(
        &mut self,
        database: &Transaction<'_>,
        leases: &HashMap<LeaseId, Lease>,
        txn: Txn,
    ) -> Result<Result<TxnOutcome, StoreError>, rusqlite::Error> {
        for op in txn.then.iter().chain(&txn.otherwise) {
            if let Op::Put {
                lease: Some(lease), ..
            } = op
                && let Err(error) = self.known(leases, *lease)
            {
                return Ok(Err(error));
            }
        }
        let mut failed = None;
        for compare in &txn.compares {
            let found = revision_of(database, &compare.key)?;
            if !compare.expect.holds(found) {
                failed = Some(found);
                break;
            }
        }
        if failed.is_none() {
            for compare in &txn.values {
                let found = get(database, &compare.key)?;
                if found.as_ref().is_none_or(|entry| entry.value != compare.value) {
                    failed = Some(found.map(|entry| entry.revision));
                    break;
                }
            }
        }
        let ops = if failed.is_none() { txn.then } else { txn.otherwise };
        let revision = self.revision + 1;
        let events_before = self.events.len();
        for op in ops {
            self.apply(database, op, revision)?;
        }
        if self.events.len() > events_before {
            self.revision = revision;
        }
        Ok(Ok(TxnOutcome {
            committed: failed.is_none(),
            revision: self.revision,
            found: failed.flatten(),
        }))
    }

    fn apply(
        &mut self,
        database: &Transaction<'_>,
        op: Op,
        revision: Revision,
    ) -> Result<(), rusqlite::Error> {
        match op {
            Op::Put { key, value, lease } => {
                database
                    .prepare_cached(
                        "INSERT INTO kv (key, value, revision, lease) VALUES (?1, ?2, ?3, ?4)
                         ON CONFLICT (key) DO UPDATE SET value = ?2, revision = ?3, lease = ?4",
                    )?
                    .execute(params![
                        key,
                        value,
                        signed(revision),
                        lease.map(|lease| signed(lease.0))
                    ])?;
                self.events.push(WatchEvent {
                    revision,
                    key,
                    value: Some(value),
                });
            }
            Op::Delete { key } => {
                let deleted = database
                    .prepare_cached("DELETE FROM kv WHERE key = ?1")?
                    .execute([&key])?;
                if deleted > 0 {
                    self.events.push(WatchEvent {
                        revision,
                        key,
                        value: None,
                    });
                }
            }
            Op::DeletePrefix { prefix } => {
                // No prefix holds more than the tables do; keys alone are read.
                let keys = keys_under(database, &prefix)?;
                for key in keys {
                    self.apply(database, Op::Delete { key }, revision)?;
                }
            }
        }
        Ok(())
    }

    fn grant(&mut self, database: &Transaction<'_>, ttl: Duration) -> Result<LeaseId, rusqlite::Error> {
        let id: i64 = database
            .prepare_cached("UPDATE counter SET value = value + 1 WHERE name = 'lease' RETURNING value")?
            .query_row([], |row| row.get(0))?;
        let millis = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        database
            .prepare_cached("INSERT INTO lease (id, ttl_millis) VALUES (?1, ?2)")?
            .execute([id, millis])?;
        let lease = LeaseId(id.unsigned_abs());
        self.granted
            .push((lease, Duration::from_millis(millis.unsigned_abs())));
        Ok(lease)
    }

    /// Deletes a lease and its keys.
    pub(super) fn end_lease(
        &mut self,
        database: &Transaction<'_>,
        lease: LeaseId,
    ) -> Result<(), rusqlite::Error> {
        let id = signed(lease.0);
        let keys: Vec<String> = database
            .prepare_cached("DELETE FROM kv WHERE lease = ?1 RETURNING key")?
            .query_map([id], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        database
            .prepare_cached("DELETE FROM lease WHERE id = ?1")?
            .execute([id])?;
        if !keys.is_empty() {
            self.revision += 1;
        }
        let revision = self.revision;
        self.events.extend(keys.into_iter().map(|key| WatchEvent {
            revision,
            key,
            value: None,
        }));
        self.granted.retain(|(granted, _)| *granted != lease);
        self.ended.push(lease);
        Ok(())
    }
}

/// SQLite's integers are signed; revisions and lease ids stay far below 2^63.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn get(database: &Transaction<'_>, key: &str) -> Result<Option<Entry>, rusqlite::Error> {
    database
        .prepare_cached("SELECT value, revision FROM kv WHERE key = ?1")?
        .query_row([key], |row| {
            Ok(Entry {
                value: row.get(0)?,
                revision: row.get::<_, i64>(1)?.unsigned_abs(),
            })
        })
        .optional()
}

fn revision_of(database: &Transaction<'_>, key: &str) -> Result<Option<Revision>, rusqlite::Error> {
    database
        .prepare_cached("SELECT revision FROM kv WHERE key = ?1")?
        .query_row([key], |row| row.get::<_, i64>(0))
        .optional()
        .map(|revision| revision.map(i64::unsigned_abs))
}

fn range(
    database: &Transaction<'_>,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, Entry)>, rusqlite::Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    database
        .prepare_cached(
            "SELECT key, value, revision FROM kv
             WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) AND key > ?3 ORDER BY key LIMIT ?4",
        )?
        .query_map(
            params![prefix, prefix_end(prefix), after.unwrap_or_default(), limit],
            |row| {
                let revision = row.get::<_, i64>(2)?.unsigned_abs();
                Ok((
                    row.get(0)?,
                    Entry {
                        value: row.get(1)?,
                        revision,
                    },
                ))
            },
        )?
        .collect()
}

fn keys(
    database: &Transaction<'_>,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, Revision)>, rusqlite::Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    database
        .prepare_cached(
            "SELECT key, revision FROM kv
             WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) AND key > ?3 ORDER BY key LIMIT ?4",
        )?
        .query_map(
            params![prefix, prefix_end(prefix), after.unwrap_or_default(), limit],
            |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())),
        )?
        .collect()
}

fn keys_under(database: &Transaction<'_>, prefix: &str) -> Result<Vec<String>, rusqlite::Error> {
    database
        .prepare_cached("SELECT key FROM kv WHERE key >= ?1 AND (?2 IS NULL OR key < ?2) ORDER BY key")?
        .query_map(params![prefix, prefix_end(prefix)], |row| row.get(0))?
        .collect()
}
