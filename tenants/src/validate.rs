//! From the external model to the internal one: every wrong field is named, with the reason and what is allowed.
//!
//! A resource is checked by itself first ([`tenant`](self::tenant()), [`connection`](self::connection()),
//! [`pool`](self::pool()), [`credential`](self::credential())), then with everything that it refers to
//! (`references`).

mod connection;
mod credential;
mod pool;
pub(crate) mod references;
mod tenant;

pub use connection::connection;
pub(crate) use credential::context as credential_context;
pub use credential::credential;
pub(crate) use pool::excluded_ranges;
pub use pool::pool;
pub use tenant::tenant;

use std::fmt;
use std::str::FromStr;

/// Longest description, in characters.
const MAX_DESCRIPTION: usize = 200;
/// Most entries of a list in a resource.
const MAX_LIST: usize = 256;

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, like `lifetimes.child_secs` or `remote_ids[2]`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
    /// What is allowed; empty when the reason says it.
    pub allowed: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.reason)?;
        if self.allowed.is_empty() {
            Ok(())
        } else {
            write!(f, "; allowed: {}", self.allowed)
        }
    }
}

/// Everything wrong with a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Violations {
    /// At least one, in the order of the checks.
    pub list: Vec<Violation>,
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.list.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{violation}")?;
        }
        Ok(())
    }
}

impl Violations {
    /// One wrong field.
    pub fn one(field: impl Into<String>, reason: impl Into<String>, allowed: impl Into<String>) -> Self {
        let violation = Violation {
            field: field.into(),
            reason: reason.into(),
            allowed: allowed.into(),
        };
        Self {
            list: vec![violation],
        }
    }

    /// The same with something in front of every field.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        for violation in &mut self.list {
            violation.field = format!("{prefix}{}", violation.field);
        }
        self
    }

    /// `Ok` when nothing is wrong.
    ///
    /// # Errors
    /// Itself, when something is.
    pub fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.list.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }
}

/// Collects violations while a resource is read.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    pub(crate) violations: Violations,
}

impl Checker {
    pub(crate) fn refuse(
        &mut self,
        field: impl Into<String>,
        reason: impl Into<String>,
        allowed: impl Into<String>,
    ) {
        self.violations.list.push(Violation {
            field: field.into(),
            reason: reason.into(),
            allowed: allowed.into(),
        });
    }

    /// A resource's name.
    pub(crate) fn name(&mut self, field: &str, name: &str, dots: bool) {
        let allowed = if dots {
            "lower-case letters, digits, '-' and '.', beginning with a letter or digit, at most 63 characters"
        } else {
            "lower-case letters, digits and '-', beginning with a letter, at most 63 characters"
        };
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || (dots && b == b'.');
        let first = name.bytes().next();
        let good_start = first.is_some_and(|b| b.is_ascii_lowercase() || (dots && b.is_ascii_digit()));
        if name.is_empty() {
            self.refuse(field, "is missing", allowed);
        } else if !good_start || name.len() > 63 || !name.bytes().all(plain) {
            self.refuse(field, format!("\"{name}\" is not a name"), allowed);
        }
    }

    pub(crate) fn description(&mut self, text: &str) -> String {
        if text.chars().count() > MAX_DESCRIPTION {
            self.refuse(
                "description",
                "is too long",
                format!("at most {MAX_DESCRIPTION} characters"),
            );
        }
        text.to_owned()
    }

    /// A number with a default for 0.
    pub(crate) fn number(&mut self, field: &str, value: u32, default: u32, range: (u32, u32)) -> u32 {
        if value == 0 {
            return default;
        }
        if !(range.0..=range.1).contains(&value) {
            self.refuse(
                field,
                format!("is {value}"),
                format!("{} to {}", range.0, range.1),
            );
        }
        value
    }

    /// A list of texts, each parsed; one that fails or comes twice is refused by its index.
    pub(crate) fn list<T>(&mut self, field: &str, texts: &[String], allowed: &str) -> Vec<T>
    where
        T: FromStr + PartialEq,
        T::Err: fmt::Display,
    {
        self.count(field, texts.len());
        let mut parsed: Vec<T> = Vec::with_capacity(texts.len().min(MAX_LIST));
        for (index, text) in texts.iter().enumerate().take(MAX_LIST) {
            match text.trim().parse::<T>() {
                Ok(value) if parsed.contains(&value) => {
                    self.refuse(format!("{field}[{index}]"), format!("\"{text}\" comes twice"), "");
                }
                Ok(value) => parsed.push(value),
                Err(error) => self.refuse(
                    format!("{field}[{index}]"),
                    format!("\"{text}\": {error}"),
                    allowed,
                ),
            }
        }
        parsed
    }

    /// A list of names of other resources, without repetition.
    pub(crate) fn names(&mut self, field: &str, names: &[String]) -> Vec<String> {
        self.count(field, names.len());
        for (index, name) in names.iter().enumerate().take(MAX_LIST) {
            self.name(&format!("{field}[{index}]"), name, true);
            if names.iter().take(index).any(|earlier| earlier == name) {
                self.refuse(format!("{field}[{index}]"), format!("\"{name}\" comes twice"), "");
            }
        }
        names.to_vec()
    }

    /// A field that makes no sense together with another one.
    pub(crate) fn unused(&mut self, field: &str, used: bool, why: &str) {
        if used {
            self.refuse(field, format!("makes no sense {why}"), "leave it out");
        }
    }

    pub(crate) fn count(&mut self, field: &str, count: usize) {
        if count > MAX_LIST {
            self.refuse(
                field,
                format!("has {count} entries"),
                format!("at most {MAX_LIST}"),
            );
        }
    }

    pub(crate) fn finish<T>(self, value: T) -> Result<T, Violations> {
        self.violations.into_result(value)
    }
}

#[cfg(test)]
mod tests;
