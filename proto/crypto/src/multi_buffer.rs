//! AES-GCM by Intel's Multi-Buffer Crypto for IPsec: a batch is one call into the library.

use std::iter;

use ipsec_mb::{BATCH, GcmKey, Job};

use crate::aead::{AeadJob, AeadKey, BatchAead, TAG_LEN};
use crate::{OpenError, SealError};

impl AeadKey for GcmKey {
    fn seal(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8], tag: &mut [u8]) -> Result<(), SealError> {
        let job = Job {
            nonce: &nonce,
            aad,
            text,
            tag: tag.try_into().map_err(|_| SealError::IcvLength)?,
        };
        if self.seal_all(iter::once(job)) {
            Ok(())
        } else {
            Err(SealError::Rejected)
        }
    }

    fn open(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8], tag: &[u8]) -> Result<(), OpenError> {
        let mut tag: [u8; TAG_LEN] = tag.try_into().map_err(|_| OpenError::IcvLength)?;
        let job = Job {
            nonce: &nonce,
            aad,
            text,
            tag: &mut tag,
        };
        let mut ok = [false];
        self.open_all(iter::once(job), &mut ok);
        if ok == [true] {
            Ok(())
        } else {
            Err(OpenError::NotAuthentic)
        }
    }
}

impl BatchAead for GcmKey {
    fn seal_batch(&self, jobs: &mut [AeadJob<'_>]) -> Result<(), SealError> {
        if jobs.iter().any(|job| job.data.len() < TAG_LEN) {
            return Err(SealError::BodyLength);
        }
        for chunk in jobs.chunks_mut(BATCH) {
            if !self.seal_all(chunk.iter_mut().filter_map(job)) {
                return Err(SealError::Rejected);
            }
        }
        Ok(())
    }

    fn open_batch(&self, jobs: &mut [AeadJob<'_>], ok: &mut [bool]) {
        ok.fill(false);
        for (chunk, ok) in jobs.chunks_mut(BATCH).zip(ok.chunks_mut(BATCH)) {
            // Either may be the longer one.
            let both = chunk.len().min(ok.len());
            let chunk = chunk.get_mut(..both).unwrap_or_default();
            if chunk.iter().any(|job| job.data.len() < TAG_LEN) {
                // The library answers in the order of what it is given: then each for itself.
                for (one, ok) in chunk.iter_mut().zip(ok) {
                    self.open_all(job(one).into_iter(), std::slice::from_mut(ok));
                }
                continue;
            }
            self.open_all(chunk.iter_mut().filter_map(job), ok);
        }
    }
}

#[inline]
fn job<'a>(job: &'a mut AeadJob<'_>) -> Option<Job<'a>> {
    let (text, tag) = job.data.split_last_chunk_mut::<TAG_LEN>()?;
    Some(Job {
        nonce: &job.nonce,
        aad: job.aad.as_ref(),
        text,
        tag,
    })
}
