//! Doing something inside a named network namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Runs `work` on a helper thread that has entered the namespace `name` (under /var/run/netns), or directly for `None`.
///
/// Sockets and TUN devices opened there stay there; the thread ends afterwards, so no thread of ours changes its own.
pub(crate) fn within<T: Send>(
    name: Option<&str>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let Some(name) = name else { return work() };
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not the name of a network namespace",
        ));
    }
    let file = File::open(format!("/var/run/netns/{name}"))
        .map_err(|e| io::Error::new(e.kind(), format!("network namespace {name}: {e}")))?;
    std::thread::scope(|scope| {
        let helper = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, move || {
                // SAFETY: plain system call on a descriptor that we own; it changes this helper thread alone.
                super::check(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) })?;
                work()
            })?;
        helper
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the namespace helper panicked")))
    })
}
