//! Watches that outlive the member they are on, and say so when events cannot have been complete.
//!
//! A watch asks its member whether it lives when nothing has come for a while, and goes on with the next member behind
//! the last revision it has seen. Before that it asks the cluster where it stands: one that is older than the
//! last event was restored. Events are hints, and checked:
//!
//! - Revisions rise. An event that does not is dropped when it repeats one that was seen, and else ends the watch.
//! - A key's version counts its writes. One that is left out ends the watch. (Versions of at most [`TRACKED`]
//!   keys are remembered; of others a lost event is not noticed.)
//! - Compaction ends the watch; so does a reader that falls behind by [`Limits::WATCH_BACKLOG`] events or
//!   [`BACKLOG_OCTETS`].

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Event, EventType, GetOptions, WatchOptions, WatchResponse};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::fault::{Class, Fault};
use super::members::{Counters, Members};
use super::plan::{octets_behind, signed};
use crate::error::StoreError;
use crate::types::{Limits, Revision, WatchEvent, WatchStream};

/// Octets that a reader may fall behind.
pub const BACKLOG_OCTETS: usize = 64 << 20;
/// Keys whose versions a watch remembers.
pub const TRACKED: usize = 1 << 20;
/// Longest pause between two tries to open a watch.
const PAUSE_LONGEST: Duration = Duration::from_millis(500);

/// One watch.
struct Watch {
    members: Arc<Members>,
    root: String,
    prefix: String,
    /// The next revision that has not been seen.
    from: Revision,
    tracker: Tracker,
    sender: mpsc::Sender<Result<WatchEvent, StoreError>>,
    backlog: Arc<AtomicUsize>,
}

/// A watch on a member.
struct Opened {
    member: usize,
    stream: etcd_client::WatchStream,
}

/// Why a stream is no longer read.
enum End {
    /// The reader has gone.
    Gone,
    /// Open it again.
    Broken(String),
    /// Tell the reader, and end.
    Final(StoreError),
}

/// Begins a watch.
pub(super) async fn watch(
    members: Arc<Members>,
    root: &str,
    prefix: &str,
    from: Option<Revision>,
) -> Result<WatchStream, StoreError> {
    let (sender, receiver) = mpsc::channel(Limits::WATCH_BACKLOG + 1);
    let backlog = Arc::new(AtomicUsize::new(0));
    let mut watch = Watch {
        members,
        root: root.to_owned(),
        prefix: prefix.to_owned(),
        from: 0,
        tracker: Tracker::default(),
        sender,
        backlog: Arc::clone(&backlog),
    };
    let deadline = watch.members.deadline();
    // What is asked of the whole cluster: the member of the watch may lag behind.
    let (present, kept) = watch.stand(from.filter(|from| *from > 0), deadline).await?;
    watch.from = from.unwrap_or(present + 1);
    if !kept {
        let oldest = watch.oldest(deadline).await.unwrap_or(present);
        return Err(StoreError::Compacted { oldest });
    }
    let opened = loop {
        match watch.open().await {
            Ok(opened) => break opened,
            Err(End::Final(error)) => return Err(error),
            Err(End::Gone) => {}
            Err(End::Broken(reason)) if Instant::now() >= deadline => {
                return Err(StoreError::Unavailable { reason });
            }
            Err(End::Broken(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    tokio::spawn(watch.run(opened));
    let events = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|event| (event, receiver))
    });
    Ok(events
        .inspect(move |event| {
            if let Ok(event) = event {
                backlog.fetch_sub(octets(event), Ordering::AcqRel);
            }
        })
        .boxed())
}

impl Watch {
    async fn run(mut self, first: Opened) {
        let mut opened = Some(first);
        let mut pause = Duration::from_millis(10);
        loop {
            let end = match opened.take() {
                Some(open) => self.read(open, &mut pause).await,
                None => match self.reopen().await {
                    Ok(open) => {
                        opened = Some(open);
                        continue;
                    }
                    Err(end) => end,
                },
            };
            match end {
                End::Gone => return,
                End::Final(error) => {
                    tracing::info!(prefix = %self.prefix, %error, "a watch ended");
                    // One place is kept for this.
                    let _ = self.sender.try_send(Err(error));
                    return;
                }
                End::Broken(reason) => {
                    tracing::debug!(prefix = %self.prefix, reason, "opening a watch again");
                    tokio::select! {
                        () = self.sender.closed() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(PAUSE_LONGEST);
                }
            }
        }
    }

    /// Goes on behind the last event, if the cluster is still the one it was.
    async fn reopen(&self) -> Result<Opened, End> {
        let (present, kept) = match self.stand(Some(self.from), self.members.deadline()).await {
            Ok(stand) => stand,
            Err(error) if error.is_retryable() => return Err(End::Broken(error.to_string())),
            Err(error) => return Err(End::Final(error)),
        };
        if !kept {
            let oldest = self.oldest(self.members.deadline()).await.unwrap_or(present);
            return Err(End::Final(StoreError::Compacted { oldest }));
        }
        let opened = self.open().await?;
        Counters::count(&self.members.counters.watches_reopened);
        Ok(opened)
    }

    /// The cluster's revision, and whether everything from `from` on is still kept.
    async fn stand(&self, from: Option<Revision>, deadline: Instant) -> Result<(Revision, bool), StoreError> {
        let read = |at: Option<Revision>| {
            let mut options = GetOptions::new().with_count_only();
            if let Some(at) = at {
                options = options.with_revision(signed(at));
            }
            let key = format!("{}{}", self.root, self.prefix);
            async move {
                self.members
                    .call(deadline, |mut client| {
                        let (key, options) = (key.clone(), options.clone());
                        async move { client.get(key, Some(options)).await }
                    })
                    .await
            }
        };
        let present = read(None).await.map_err(Fault::into_error)?;
        let present = present
            .answer
            .header()
            .map_or(0, |header| header.revision().unsigned_abs());
        let Some(from) = from.filter(|from| *from <= present) else {
            return Ok((present, true));
        };
        match read(Some(from)).await {
            Ok(_) => Ok((present, true)),
            Err(fault) if fault.class == Class::Compacted => Ok((present, false)),
            Err(fault) => Err(fault.into_error()),
        }
    }

    /// The oldest revision that is kept: what a watch from before it is told.
    async fn oldest(&self, deadline: Instant) -> Option<Revision> {
        let mut opened = self.open().await.ok()?;
        let until = deadline.min(Instant::now() + self.members.settings.attempt_timeout);
        loop {
            let message = timeout_at(until, opened.stream.message()).await.ok()?.ok()??;
            if message.compact_revision() > 0 {
                return Some(message.compact_revision().unsigned_abs());
            }
        }
    }

    /// Opens the watch on the present member and waits until that says that it stands.
    async fn open(&self) -> Result<Opened, End> {
        let member = self.members.current();
        let until = Instant::now() + self.members.settings.attempt_timeout;
        let opening = async {
            let key = format!("{}{}", self.root, self.prefix);
            let options = WatchOptions::new()
                .with_range(octets_behind(key.as_bytes()))
                .with_start_revision(signed(self.from));
            let client = self.members.client(member).await?;
            let mut watches = client
                .watch_client()
                .max_decoding_message_size(super::MESSAGE_OCTETS);
            let of = |error: etcd_client::Error| Fault::of(&error);
            let mut stream = watches.watch(key, Some(options)).await.map_err(of)?;
            let first = stream.message().await.map_err(of)?;
            match first {
                Some(first) if first.canceled() => Err(Fault::new(
                    Class::Refused,
                    false,
                    first.cancel_reason().to_owned(),
                )),
                Some(first) if first.created() => Ok(Opened { member, stream }),
                Some(_) | None => Err(Fault::new(Class::Unavailable, false, "no watch was made")),
            }
        };
        let fault = match timeout_at(until, opening).await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(fault)) => fault,
            Err(_) => Fault::timeout(self.members.endpoint(member)),
        };
        self.members.leave(member);
        if fault.class == Class::StaleToken
            && let Ok(client) = self.members.client(member).await
        {
            let _ = timeout_at(until, client.refresh_token()).await;
        }
        if fault.is_transient() {
            Err(End::Broken(fault.reason))
        } else {
            Err(End::Final(fault.into_error()))
        }
    }

    /// Reads until the stream breaks, ends, or falls silent and does not answer.
    async fn read(&mut self, mut opened: Opened, pause: &mut Duration) -> End {
        let probe = self.members.settings.probe_interval;
        let patience = self.members.settings.attempt_timeout;
        let (mut heard, mut asked) = (Instant::now(), None::<Instant>);
        loop {
            let until = asked.map_or(heard + probe, |asked| asked + patience);
            let message = tokio::select! {
                () = self.sender.closed() => return End::Gone,
                message = opened.stream.message() => message,
                () = tokio::time::sleep_until(until) => {
                    if asked.is_some() {
                        self.members.leave(opened.member);
                        return End::Broken("the member fell silent".to_owned());
                    }
                    // The answer's revision is of no use: etcd before 3.4.25 sends it ahead of events.
                    if opened.stream.request_progress().await.is_err() {
                        self.members.leave(opened.member);
                        return End::Broken("the stream was closed".to_owned());
                    }
                    asked = Some(Instant::now());
                    continue;
                }
            };
            (heard, asked) = (Instant::now(), None);
            *pause = Duration::from_millis(10);
            let end = match message {
                Ok(Some(message)) => self.take(&message),
                Ok(None) => Some(End::Broken("the stream was closed".to_owned())),
                Err(error) => {
                    let fault = Fault::of(&error);
                    Some(if fault.is_transient() {
                        End::Broken(fault.reason)
                    } else {
                        End::Final(fault.into_error())
                    })
                }
            };
            match end {
                None => {}
                Some(End::Broken(reason)) => {
                    self.members.leave(opened.member);
                    return End::Broken(reason);
                }
                Some(end) => return end,
            }
        }
    }

    /// Takes the events of a message.
    fn take(&mut self, message: &WatchResponse) -> Option<End> {
        if message.compact_revision() > 0 {
            return Some(End::Final(StoreError::Compacted {
                oldest: message.compact_revision().unsigned_abs(),
            }));
        }
        if message.canceled() {
            return Some(End::Broken(format!(
                "it was cancelled: {}",
                message.cancel_reason()
            )));
        }
        // The events of a revision come in one message, so the bound moves behind all of them.
        let mut highest = self.from;
        for event in message.events() {
            if let Err(end) = self.event(event, &mut highest) {
                return Some(end);
            }
        }
        self.from = highest;
        if highest > 0 {
            self.members.note(highest - 1);
        }
        None
    }

    fn event(&mut self, event: &Event, highest: &mut Revision) -> Result<(), End> {
        let Some(kv) = event.kv() else { return Ok(()) };
        let revision = kv.mod_revision().unsigned_abs();
        let deleted = event.event_type() == EventType::Delete;
        let version = (!deleted).then(|| kv.version());
        match self.tracker.judge(kv.key(), version, revision < self.from) {
            Judgement::New => {}
            Judgement::Repeated => {
                Counters::count(&self.members.counters.events_repeated);
                return Ok(());
            }
            Judgement::Gap => {
                Counters::count(&self.members.counters.events_lost);
                return Err(End::Final(StoreError::Lagged { missed: 1 }));
            }
        }
        *highest = (*highest).max(revision + 1);
        let Some(key) = kv.key().strip_prefix(self.root.as_bytes()) else {
            return Ok(());
        };
        let Ok(key) = std::str::from_utf8(key) else {
            tracing::warn!(prefix = %self.prefix, "a key in etcd is no text");
            return Ok(());
        };
        let event = WatchEvent {
            revision,
            key: key.to_owned(),
            value: (!deleted).then(|| kv.value().to_vec()),
        };
        self.deliver(event)
    }

    fn deliver(&self, event: WatchEvent) -> Result<(), End> {
        let size = octets(&event);
        let behind = self.backlog.fetch_add(size, Ordering::AcqRel);
        // One place is kept for the error.
        if self.sender.capacity() <= 1 || behind > BACKLOG_OCTETS {
            return Err(End::Final(StoreError::Lagged { missed: 1 }));
        }
        self.sender.try_send(Ok(event)).map_err(|error| match error {
            mpsc::error::TrySendError::Closed(_) => End::Gone,
            mpsc::error::TrySendError::Full(_) => End::Final(StoreError::Lagged { missed: 1 }),
        })
    }
}

/// What an event says about those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    New,
    /// It has been seen.
    Repeated,
    /// One before it has not.
    Gap,
}

/// Versions of keys, by a hash with a secret of this watch.
#[derive(Default)]
struct Tracker {
    versions: HashMap<u64, i64>,
    hasher: RandomState,
}

impl Tracker {
    /// Judges an event: a write with the key's version, or a deletion; `late`: its revision does not rise.
    fn judge(&mut self, key: &[u8], version: Option<i64>, late: bool) -> Judgement {
        let hash = self.hasher.hash_one(key);
        let known = self.versions.get(&hash).copied();
        match (known, version) {
            (Some(known), Some(version)) if late && known < version => Judgement::Gap,
            _ if late => Judgement::Repeated,
            // A deletion in between, which begins the count anew, would have been an event too.
            (Some(known), Some(version)) if version != known + 1 => Judgement::Gap,
            (_, None) => {
                self.versions.remove(&hash);
                Judgement::New
            }
            (known, Some(version)) => {
                if known.is_some() || self.versions.len() < TRACKED {
                    self.versions.insert(hash, version);
                }
                Judgement::New
            }
        }
    }
}

fn octets(event: &WatchEvent) -> usize {
    event.key.len() + event.value.as_ref().map_or(0, Vec::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_repeated_events_are_told_apart() {
        let mut tracker = Tracker::default();
        let mut judge = |version, late| tracker.judge(b"a", version, late);
        assert_eq!(
            judge(Some(5), false),
            Judgement::New,
            "it was there before the watch"
        );
        assert_eq!(judge(Some(6), false), Judgement::New);
        assert_eq!(judge(Some(6), true), Judgement::Repeated);
        assert_eq!(judge(Some(5), true), Judgement::Repeated);
        assert_eq!(judge(Some(8), false), Judgement::Gap, "7 was lost");
        assert_eq!(judge(Some(7), true), Judgement::Gap, "and comes too late");
        assert_eq!(judge(None, true), Judgement::Repeated);
        assert_eq!(judge(Some(1), false), Judgement::Gap, "a deletion was lost");
        assert_eq!(judge(Some(7), false), Judgement::New);
        assert_eq!(judge(None, false), Judgement::New);
        assert_eq!(judge(Some(1), false), Judgement::New, "made anew");
        assert_eq!(tracker.judge(b"b", Some(1), false), Judgement::New);
    }
}
