//! The library behind a safe interface.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::OnceLock;

use zeroize::Zeroize as _;

use crate::{BATCH, Job};

/// Room for an expanded key; the library wants it at a multiple of 64 octets.
#[repr(C, align(64))]
struct Expanded([u8; EXPANDED]);

/// At least `sizeof(struct gcm_key_data)`, which is checked at the first key.
const EXPANDED: usize = 1_024;

/// `struct mb_job` of the shim.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawJob {
    nonce: *const u8,
    aad: *const u8,
    aad_len: u64,
    data: *mut u8,
    len: u64,
    tag: *mut u8,
}

impl From<Job<'_>> for RawJob {
    #[inline(always)]
    fn from(job: Job<'_>) -> Self {
        Self {
            nonce: job.nonce.as_ptr(),
            aad: job.aad.as_ptr(),
            aad_len: job.aad.len() as u64,
            data: job.text.as_mut_ptr(),
            len: job.text.len() as u64,
            tag: job.tag.as_mut_ptr(),
        }
    }
}

/// The jobs of one call, as far as they are used.
type RawJobs = [MaybeUninit<RawJob>; BATCH];

#[allow(unsafe_code, reason = "the shim's functions")]
unsafe extern "C" {
    fn mb_manager() -> *mut c_void;
    fn mb_key_len() -> usize;
    fn mb_key(manager: *mut c_void, to: *mut Expanded, key: *const u8, bits: u32) -> i32;
    fn mb_seal(manager: *const c_void, key: *const Expanded, bits: u32, jobs: *const RawJob, count: usize);
    fn mb_open(
        manager: *const c_void,
        key: *const Expanded,
        bits: u32,
        jobs: *const RawJob,
        count: usize,
        ok: *mut u8,
    );
}

/// The library's table of functions, made once for the process.
#[derive(Clone, Copy)]
struct Manager(NonNull<c_void>);

// SAFETY: after it is made it is only read: the direct GCM functions keep their state in the caller's context.
#[allow(unsafe_code, reason = "see above")]
unsafe impl Send for Manager {}
// SAFETY: as for Send.
#[allow(unsafe_code, reason = "see above")]
unsafe impl Sync for Manager {}

#[allow(unsafe_code, reason = "calls the shim")]
fn manager() -> Option<Manager> {
    static MANAGER: OnceLock<Option<Manager>> = OnceLock::new();
    *MANAGER.get_or_init(|| {
        // SAFETY: takes nothing.
        let fits = unsafe { mb_key_len() } <= EXPANDED;
        if !fits {
            return None;
        }
        // SAFETY: takes nothing; gives null when the processor lacks what the library needs.
        let made = unsafe { mb_manager() };
        NonNull::new(made).map(Manager)
    })
}

/// An AES-GCM key, expanded. Zeroized when dropped.
pub struct GcmKey {
    manager: Manager,
    bits: u32,
    expanded: Box<Expanded>,
}

impl GcmKey {
    /// Expands a key of 16, 24 or 32 octets; `None` for other lengths, or on a processor without AES instructions.
    #[must_use]
    #[allow(unsafe_code, reason = "calls the shim")]
    pub fn new(key: &[u8]) -> Option<Self> {
        let bits = match key.len() {
            16 => 128,
            24 => 192,
            32 => 256,
            _ => return None,
        };
        let manager = manager()?;
        let mut expanded = Box::new(Expanded([0; EXPANDED]));
        // SAFETY: `key` has bits / 8 octets, `expanded` has the size and alignment that the library wants.
        let done = unsafe { mb_key(manager.0.as_ptr(), &raw mut *expanded, key.as_ptr(), bits) };
        (done == 1).then_some(Self {
            manager,
            bits,
            expanded,
        })
    }

    /// Encrypts every text and writes every tag. False, and nothing was touched, when there are more than [`BATCH`]
    /// jobs.
    #[must_use]
    #[inline]
    #[allow(unsafe_code, reason = "calls the shim")]
    pub fn seal_all<'a>(&self, jobs: impl Iterator<Item = Job<'a>>) -> bool {
        let mut raw: RawJobs = [const { MaybeUninit::uninit() }; BATCH];
        let Some(count) = fill(&mut raw, jobs) else {
            return false;
        };
        // SAFETY: `fill` has written the first `count` raw jobs; each points to the nonce, the associated data, the text and the tag that a
        // `Job<'a>` borrowed, and `'a` outlives this call.
        unsafe {
            mb_seal(
                self.manager.0.as_ptr(),
                &raw const *self.expanded,
                self.bits,
                raw.as_ptr().cast(),
                count,
            );
        }
        true
    }

    /// Checks every tag and decrypts in place: entry `i` of `ok` says whether job `i` was authentic. None is when there
    /// are more jobs than [`BATCH`] or than entries; entries without a job stay as they are. The text of a job that was
    /// not authentic is unspecified.
    #[inline]
    #[allow(unsafe_code, reason = "calls the shim")]
    pub fn open_all<'a>(&self, jobs: impl Iterator<Item = Job<'a>>, ok: &mut [bool]) {
        let mut raw: RawJobs = [const { MaybeUninit::uninit() }; BATCH];
        let Some(count) = fill(&mut raw, jobs).filter(|count| *count <= ok.len()) else {
            ok.fill(false);
            return;
        };
        // SAFETY: as in `seal_all`; `ok` has room for `count` entries, and the shim writes 0 or 1 to each, which are the
        // two values of a bool.
        unsafe {
            mb_open(
                self.manager.0.as_ptr(),
                &raw const *self.expanded,
                self.bits,
                raw.as_ptr().cast(),
                count,
                ok.as_mut_ptr().cast(),
            );
        }
    }

    /// As [`GcmKey::open_all`] with one job.
    #[must_use]
    #[inline]
    #[allow(unsafe_code, reason = "calls the shim")]
    pub fn open_one(&self, job: Job<'_>) -> bool {
        let raw = RawJob::from(job);
        let mut ok = false;
        // SAFETY: as in `open_all`, with one raw job and one entry.
        unsafe {
            mb_open(
                self.manager.0.as_ptr(),
                &raw const *self.expanded,
                self.bits,
                &raw const raw,
                1,
                (&raw mut ok).cast(),
            );
        }
        ok
    }

    /// Asks the processor for the expanded key, which is about to be used: many SAs have more keys than its nearer caches
    /// hold.
    #[inline]
    pub fn prefetch(&self) {
        let expanded = &raw const *self.expanded;
        for line in 0..EXPANDED / 64 {
            crate::prefetch(expanded.cast::<u8>().wrapping_add(line * 64));
        }
    }
}

impl Drop for GcmKey {
    fn drop(&mut self) {
        self.expanded.0.zeroize();
    }
}

impl std::fmt::Debug for GcmKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GcmKey({} bits, ..)", self.bits)
    }
}

/// Writes the jobs where the shim reads them: how many, or `None` when there are more than [`BATCH`].
#[inline]
fn fill<'a>(raw: &mut RawJobs, jobs: impl Iterator<Item = Job<'a>>) -> Option<usize> {
    let mut count = 0;
    for job in jobs {
        raw.get_mut(count)?.write(RawJob::from(job));
        count += 1;
    }
    Some(count)
}
