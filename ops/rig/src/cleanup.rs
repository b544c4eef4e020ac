//! What has to be taken away again, in whatever way the rig ends.
//!
//! The list is global, because a signal may arrive while any thread is anywhere.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, Once, PoisonError};

/// One thing to undo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A process, by its id.
    Process(u32),
    /// A named network namespace.
    Namespace(String),
    /// A folder of the rig's own.
    Folder(PathBuf),
}

static ITEMS: Mutex<Vec<Item>> = Mutex::new(Vec::new());
static SIGNALS: Once = Once::new();

/// The common beginning of every namespace name: says which process owns it.
pub fn prefix() -> String {
    format!("rig{}-", std::process::id())
}

/// Enters an item; it is undone on interruption, or by [`undo`].
pub fn register(item: Item) {
    watch_signals();
    ITEMS.lock().unwrap_or_else(PoisonError::into_inner).push(item);
}

/// Undoes one item now.
pub fn undo(item: &Item) {
    ITEMS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|i| i != item);
    apply(item);
}

/// Forgets an item that is gone already (a process that was waited for).
pub fn forget(item: &Item) {
    ITEMS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|i| i != item);
}

/// Undoes everything, the newest first.
pub fn undo_all() {
    let items = std::mem::take(&mut *ITEMS.lock().unwrap_or_else(PoisonError::into_inner));
    for item in items.iter().rev() {
        apply(item);
    }
}

fn apply(item: &Item) {
    match item {
        Item::Process(pid) => kill(*pid, rustix::process::Signal::KILL),
        Item::Namespace(name) => delete_namespace(name),
        Item::Folder(path) => drop(std::fs::remove_dir_all(path)),
    }
}

/// Sends a signal to one process; a process that is gone already is no error.
pub fn kill(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn delete_namespace(name: &str) {
    // A process left inside (a child of a child) would keep the namespace alive without its name.
    if let Ok(out) = Command::new("ip").args(["netns", "pids", name]).output() {
        for pid in String::from_utf8_lossy(&out.stdout)
            .split_whitespace()
            .filter_map(|p| p.parse().ok())
        {
            kill(pid, rustix::process::Signal::KILL);
        }
    }
    let _ = Command::new("ip").args(["netns", "delete", name]).output();
}

/// Removes what a rig that was killed outright has left behind.
pub fn sweep() {
    let Ok(out) = Command::new("ip").args(["netns", "list"]).output() else {
        return;
    };
    for name in String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter_map(|l| l.split_whitespace().next())
    {
        if owner(name, "rig").is_some_and(|pid| !alive(pid)) {
            delete_namespace(name);
        }
    }
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for path in entries.filter_map(|e| e.ok().map(|e| e.path())) {
        let name = path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        if owner(&name, "rig").is_some_and(|pid| !alive(pid)) {
            drop(std::fs::remove_dir_all(path));
        }
    }
}

fn owner(name: &str, start: &str) -> Option<u32> {
    name.strip_prefix(start)?.split_once('-')?.0.parse().ok()
}

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn watch_signals() {
    SIGNALS.call_once(|| {
        std::thread::spawn(|| {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                use tokio::signal::unix::{SignalKind, signal};
                let (Ok(mut int), Ok(mut term), Ok(mut hup)) = (
                    signal(SignalKind::interrupt()),
                    signal(SignalKind::terminate()),
                    signal(SignalKind::hangup()),
                ) else {
                    return;
                };
                let code =
                    tokio::select! { _ = int.recv() => 130, _ = term.recv() => 143, _ = hup.recv() => 129 };
                undo_all();
                std::process::exit(code);
            });
        });
    });
}
