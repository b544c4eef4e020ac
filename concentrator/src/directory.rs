//! Who is there: sessions by number, by user and by tenant, and the events that watchers get.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::broadcast;

use crate::session::Session;

/// Events that a slow watcher may be behind before it starts again with the whole list.
const EVENTS: usize = 1_024;

/// A change of the directory.
#[derive(Clone)]
pub enum Change {
    /// A session came up.
    Added(Arc<Session>),
    /// Something of it changed.
    Changed(Arc<Session>),
    /// It is gone, and why.
    Removed(Arc<Session>, String),
}

#[derive(Default)]
struct Inner {
    by_id: BTreeMap<u64, Arc<Session>>,
    by_user: HashMap<(String, String), Vec<u64>>,
}

/// The directory of the node.
pub struct Directory {
    inner: RwLock<Inner>,
    events: broadcast::Sender<Change>,
}

impl Directory {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            inner: RwLock::default(),
            events: broadcast::Sender::new(EVENTS),
        }
    }

    /// Adds a session.
    pub fn add(&self, session: Arc<Session>) {
        let mut inner = self.write();
        inner
            .by_user
            .entry(user(&session))
            .or_default()
            .push(session.facts.id);
        inner.by_id.insert(session.facts.id, Arc::clone(&session));
        drop(inner);
        let _ = self.events.send(Change::Added(session));
    }

    /// Tells the watchers that something changed.
    pub fn changed(&self, session: &Arc<Session>) {
        if self.events.receiver_count() > 0 {
            let _ = self.events.send(Change::Changed(Arc::clone(session)));
        }
    }

    /// Removes a session; `None` when it was gone already.
    pub fn remove(&self, id: u64, reason: &str) -> Option<Arc<Session>> {
        self.remove_where(id, reason, |_| true)
    }

    /// Removes this very session, and not another one of its number: one that was restored from its record after it had
    /// gone. False when it is not there.
    pub fn remove_exactly(&self, session: &Arc<Session>, reason: &str) -> bool {
        let same = |present: &Arc<Session>| Arc::ptr_eq(present, session);
        self.remove_where(session.facts.id, reason, same).is_some()
    }

    fn remove_where(
        &self,
        id: u64,
        reason: &str,
        fits: impl FnOnce(&Arc<Session>) -> bool,
    ) -> Option<Arc<Session>> {
        let mut inner = self.write();
        if !inner.by_id.get(&id).is_some_and(fits) {
            return None;
        }
        let session = inner.by_id.remove(&id)?;
        let key = user(&session);
        if let Some(ids) = inner.by_user.get_mut(&key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                inner.by_user.remove(&key);
            }
        }
        drop(inner);
        let _ = self
            .events
            .send(Change::Removed(Arc::clone(&session), reason.to_owned()));
        Some(session)
    }

    /// One session.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Arc<Session>> {
        self.read().by_id.get(&id).cloned()
    }

    /// Sessions of one user of one tenant, oldest first.
    #[must_use]
    pub fn of_user(&self, tenant: &str, peer_id: &str) -> Vec<Arc<Session>> {
        let inner = self.read();
        let ids = inner.by_user.get(&(tenant.to_owned(), peer_id.to_owned()));
        ids.into_iter()
            .flatten()
            .filter_map(|id| inner.by_id.get(id).cloned())
            .collect()
    }

    /// At most `limit` sessions after the one with the number `after`, in the order of their numbers.
    #[must_use]
    pub fn page(&self, after: Option<u64>, limit: usize) -> Vec<Arc<Session>> {
        let first = after.map_or(0, |after| after.saturating_add(1));
        self.read()
            .by_id
            .range(first..)
            .take(limit)
            .map(|(_, session)| Arc::clone(session))
            .collect()
    }

    /// All sessions of a tenant.
    #[must_use]
    pub fn of_tenant(&self, tenant: &str) -> Vec<Arc<Session>> {
        self.read()
            .by_id
            .values()
            .filter(|session| session.facts.tenant == tenant)
            .cloned()
            .collect()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes from here on.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Change> {
        self.events.subscribe()
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}

fn user(session: &Session) -> (String, String) {
    (session.facts.tenant.clone(), session.facts.peer_id.clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::session::{Facts, Standing};

    fn session(id: u64, tenant: &str, peer: &str) -> Arc<Session> {
        let address = "192.0.2.1:500".parse().unwrap();
        Session::new(
            Facts {
                id,
                slot: 0,
                tenant: tenant.into(),
                connection: "c".into(),
                peer_id: peer.into(),
                local_id: "gw".into(),
                virtual_addresses: vec![],
                leases: vec![],
                worker: 0,
                domain: 1,
                established_secs: 0,
                ike_lifetime_secs: 0,
            },
            Standing {
                spi_i: String::new(),
                spi_r: String::new(),
                suite: String::new(),
                local: address,
                remote: address,
                nat_local: false,
                nat_remote: false,
                state: "established",
                keyed: SystemTime::now(),
                born: 0,
            },
        )
    }

    #[test]
    fn two_tenants_have_users_of_one_name_each_for_itself() {
        let directory = Directory::new();
        directory.add(session(1, "a", "alice"));
        directory.add(session(2, "b", "alice"));
        directory.add(session(3, "a", "alice"));
        let ids: Vec<u64> = directory
            .of_user("a", "alice")
            .iter()
            .map(|found| found.facts.id)
            .collect();
        assert_eq!(ids, vec![1, 3]);
        directory.remove(1, "gone").unwrap();
        assert!(directory.remove(1, "gone").is_none());
        assert_eq!(directory.of_user("a", "alice").len(), 1);
        assert_eq!(directory.of_tenant("b").len(), 1);
    }

    #[test]
    fn whoever_goes_late_does_not_take_its_successor_along() {
        let directory = Directory::new();
        let (old, new) = (session(1, "a", "alice"), session(1, "a", "alice"));
        directory.add(Arc::clone(&old));
        assert!(directory.remove_exactly(&old, "moved"));
        directory.add(Arc::clone(&new));
        assert!(!directory.remove_exactly(&old, "moved, said late"));
        assert!(Arc::ptr_eq(&directory.get(1).unwrap(), &new));
        assert_eq!(directory.of_user("a", "alice").len(), 1);
        assert!(directory.remove_exactly(&new, "gone"));
        assert!(directory.is_empty());
    }

    #[test]
    fn pages_follow_each_other() {
        let directory = Directory::new();
        for id in [5, 1, 9, 7] {
            directory.add(session(id, "a", "x"));
        }
        let ids = |after, limit| -> Vec<u64> {
            directory
                .page(after, limit)
                .iter()
                .map(|found| found.facts.id)
                .collect()
        };
        assert_eq!(ids(None, 2), vec![1, 5]);
        assert_eq!(ids(Some(5), 2), vec![7, 9]);
        assert_eq!(ids(Some(9), 2), Vec::<u64>::new());
    }

    #[tokio::test]
    async fn watchers_see_changes_in_order() {
        let directory = Directory::new();
        let mut watch = directory.watch();
        let one = session(1, "a", "x");
        directory.add(Arc::clone(&one));
        directory.changed(&one);
        directory.remove(1, "peer left");
        assert!(matches!(watch.recv().await.unwrap(), Change::Added(_)));
        assert!(matches!(watch.recv().await.unwrap(), Change::Changed(_)));
        assert!(matches!(watch.recv().await.unwrap(), Change::Removed(_, reason) if reason == "peer left"));
    }
}
