//! Pools that several nodes use: the leases of a share are read when it becomes this node's.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use store::{Limits, Revision, StoreError, Txn};
use tokio::time::Instant;

use super::book::Listed;
use super::{LEASES, Pool, PoolError, Record, Share};

/// An exhausted share is read again at most so often.
const READ_AGAIN: Duration = Duration::from_secs(10);

/// The key of a lease, such that keys are in the order of the addresses: every group has all its digits.
pub(super) fn key(tenant: &str, address: IpAddr) -> String {
    let address = match address {
        IpAddr::V4(v4) => v4.octets().map(|octet| format!("{octet:03}")).join("."),
        IpAddr::V6(v6) => v6.segments().map(|group| format!("{group:04x}")).join(":"),
    };
    format!("{LEASES}{tenant}/{address}")
}

/// An address of a key, with or without all its digits.
pub(crate) fn parse_address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let mut octets = text.split('.').map(|octet| octet.parse::<u8>().ok());
    let address = Ipv4Addr::new(octets.next()??, octets.next()??, octets.next()??, octets.next()??);
    octets.next().is_none().then_some(IpAddr::V4(address))
}

impl Pool {
    /// Forgets a share: it is another node's, or is about to be read anew.
    pub(crate) fn forget_share(&self, share: Share) {
        self.book().forget_share(share);
    }

    /// The store's revisions begin again: what is in use stays so, everything else is read when it is needed.
    pub(crate) fn store_went_back(&self) {
        self.book().store_went_back();
    }

    /// Reads the leases of a share unless they are known.
    pub(super) async fn make_loaded(&self, share: Share) -> Result<(), StoreError> {
        if self.book().is_loaded(share) {
            return Ok(());
        }
        let _one = self.loading.lock().await;
        if self.book().is_loaded(share) {
            return Ok(());
        }
        self.read_share(share).await.map(drop)
    }

    /// Reads the leases of a share. Returns how many there are.
    ///
    /// # Errors
    /// When the store cannot be read; what was known stays.
    pub(crate) async fn refresh(&self, share: Share) -> Result<usize, StoreError> {
        let _one = self.loading.lock().await;
        self.read_share(share).await
    }

    /// Reads the leases of a share again because it has no free address, unless that was done a short while ago.
    pub(super) async fn refresh_exhausted(&self, share: Share) -> Result<(), StoreError> {
        let mut last = self.loading.lock().await;
        if last.is_some_and(|last| last.elapsed() < READ_AGAIN) {
            return Ok(());
        }
        self.read_share(share).await?;
        *last = Some(Instant::now());
        Ok(())
    }

    async fn read_share(&self, share: Share) -> Result<usize, StoreError> {
        let block = self.block(share);
        let (mut listed, mut at) = (Vec::new(), None::<Revision>);
        if let Some(block) = block {
            let prefix = format!("{LEASES}{}/", self.tenant);
            let last = key(&self.tenant, block.end());
            // A list begins behind a key: shortened by its last digit, that lies before the first.
            let mut after = key(&self.tenant, block.start());
            after.pop();
            'pages: loop {
                let (page, revision) = self.store.range(&prefix, Some(&after), Limits::RANGE).await?;
                // Later pages may hold newer entries; what is missing is judged by the first.
                at.get_or_insert(revision);
                let Some((end, _)) = page.last() else { break };
                after = end.clone();
                for (key, entry) in &page {
                    if *key > last {
                        break 'pages;
                    }
                    listed.extend(self.listed(share, key, &entry.value, entry.revision));
                }
            }
        }
        let count = listed.len();
        let mut book = self.book();
        // The pool may have been configured anew meanwhile: then it is read again when it is needed.
        if share.block(&book.config().range) == block {
            book.merge(share, &listed, at.unwrap_or(Revision::MAX));
        }
        Ok(count)
    }

    fn listed(&self, share: Share, key: &str, value: &[u8], revision: Revision) -> Option<Listed> {
        let address = key.rsplit_once('/').and_then(|(_, text)| parse_address(text))?;
        let record = serde_json::from_slice::<Record>(value)
            .map_err(|error| tracing::warn!(key, %error, "an address lease cannot be read"))
            .ok()?;
        Some(Listed {
            address,
            // A record of a pool that is gone binds nobody.
            in_use: record.in_use && record.pool == self.name,
            ours: record.slot == Some(share.index),
            owner: record.owner,
            revision,
        })
    }

    /// Frees every lease of a share that was in use before this node got it and has not been claimed since.
    ///
    /// # Errors
    /// When the store cannot write them down: they are free all the same.
    pub(crate) async fn sweep_share(&self, share: Share, fence: &Txn) -> Result<usize, PoolError> {
        self.sweep(Some(share), fence).await
    }
}

#[cfg(test)]
mod tests;
