//! Identities and addresses of users in log lines: shown as a short keyed hash unless the operator asked for them.
//!
//! The hash is the same for one identity during one run of the daemon, so that lines can be matched with each other,
//! and differs between runs, so that it cannot be looked up in a table.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static REDACT: AtomicBool = AtomicBool::new(true);
static HASHER: OnceLock<RandomState> = OnceLock::new();

/// Switches the redaction of the whole process.
pub fn set_redaction(on: bool) {
    REDACT.store(on, Ordering::Relaxed);
}

/// Wraps a value that names a user.
pub struct Redacted<T>(pub T);

impl<T: fmt::Display> fmt::Display for Redacted<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if REDACT.load(Ordering::Relaxed) {
            let hash = HASHER.get_or_init(RandomState::new).hash_one(self.0.to_string());
            write!(formatter, "~{:08x}", hash >> 32)
        } else {
            // Control characters of a peer's identity never reach a terminal.
            for character in self.0.to_string().chars().take(256) {
                if character.is_control() {
                    write!(formatter, "{}", character.escape_default())?;
                } else {
                    write!(formatter, "{character}")?;
                }
            }
            Ok(())
        }
    }
}

impl<T: fmt::Display> fmt::Debug for Redacted<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test, because the switch belongs to the process.
    #[test]
    fn identities_are_hidden_until_the_operator_asks_for_them() {
        let hidden = Redacted("alice@example.org").to_string();
        assert!(hidden.starts_with('~') && !hidden.contains("alice"), "{hidden}");
        assert_eq!(
            hidden,
            Redacted("alice@example.org").to_string(),
            "stable within a run"
        );
        assert_ne!(hidden, Redacted("bob@example.org").to_string());
        set_redaction(false);
        assert_eq!(Redacted("alice").to_string(), "alice");
        assert_eq!(Redacted("a\u{1b}[31m\nb").to_string(), "a\\u{1b}[31m\\nb");
        set_redaction(true);
    }
}
