//! What etcd's errors mean: whether to ask again, whether a write may have happened, and what to tell the caller.

use etcd_client::Error;
use tonic::Code;

use crate::error::StoreError;

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// No leader, no quorum, no connection, no answer in time, too many requests: ask again, elsewhere.
    Unavailable,
    /// The quota's alarm is raised.
    NoSpace,
    /// The request has too many octets.
    TooLarge,
    /// The transaction has too many steps.
    TooManySteps,
    /// The revision is no longer kept.
    Compacted,
    /// The lease is gone.
    LeaseMissing,
    /// A lease of this number is there already.
    LeaseExists,
    /// The token is of before a change of users or roles: log in again, then ask again.
    StaleToken,
    /// Not allowed or not understood.
    Refused,
    /// The member's data are damaged.
    Corrupt,
    /// The answer is older than earlier ones.
    WentBack,
}

/// One failure of one attempt, or of a call.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) class: Class,
    /// Whether the request may have been carried out, or may yet be.
    pub(super) ambiguous: bool,
    pub(super) reason: String,
}

/// Words of etcd's errors (`api/v3rpc/rpctypes/error.go`); the codes alone do not tell them apart.
const WORDS: &[(&str, Class, bool)] = &[
    ("no leader", Class::Unavailable, false),
    ("not leader", Class::Unavailable, false),
    ("too many requests", Class::Unavailable, false),
    ("server stopped", Class::Unavailable, true),
    ("leader changed", Class::Unavailable, true),
    ("timed out", Class::Unavailable, true),
    ("database space exceeded", Class::NoSpace, false),
    ("request is too large", Class::TooLarge, false),
    ("message larger than max", Class::TooLarge, false),
    ("too many operations", Class::TooManySteps, false),
    ("has been compacted", Class::Compacted, false),
    ("requested lease not found", Class::LeaseMissing, false),
    ("lease already exists", Class::LeaseExists, false),
    ("revision of auth store is old", Class::StaleToken, false),
    ("invalid auth token", Class::StaleToken, false),
    ("corrupt", Class::Corrupt, false),
    // Nothing was sent.
    ("tcp connect error", Class::Unavailable, false),
    ("Connection refused", Class::Unavailable, false),
    ("deadline has elapsed", Class::Unavailable, true),
];

impl Fault {
    pub(super) fn new(class: Class, ambiguous: bool, reason: impl Into<String>) -> Self {
        Self {
            class,
            ambiguous,
            reason: reason.into(),
        }
    }

    /// A member that did not answer in time.
    pub(super) fn timeout(endpoint: &str) -> Self {
        Self::new(
            Class::Unavailable,
            true,
            format!("{endpoint} did not answer in time"),
        )
    }

    /// What the client's error means.
    pub(super) fn of(error: &Error) -> Self {
        let reason = words(error);
        for (word, class, ambiguous) in WORDS {
            if reason.contains(word) {
                return Self::new(*class, *ambiguous, reason);
            }
        }
        let class = match error {
            Error::GRpcStatus(status) => match status.code() {
                Code::InvalidArgument
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::FailedPrecondition
                | Code::Unimplemented
                | Code::OutOfRange
                | Code::NotFound
                | Code::AlreadyExists => Class::Refused,
                Code::DataLoss => Class::Corrupt,
                Code::Ok
                | Code::Cancelled
                | Code::Unknown
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::Aborted
                | Code::Internal
                | Code::Unavailable => Class::Unavailable,
            },
            Error::InvalidArgs(_)
            | Error::InvalidUri(_)
            | Error::Utf8Error(_)
            | Error::InvalidMetadataValue(_)
            | Error::ElectError(_)
            | Error::EndpointsNotManaged => Class::Refused,
            Error::LeaseKeepAliveError(text) if text == "lease not found" => Class::LeaseMissing,
            Error::IoError(_)
            | Error::TransportError(_)
            | Error::WatchError(_)
            | Error::LeaseKeepAliveError(_)
            | Error::EndpointError(_)
            | Error::Internal(_) => Class::Unavailable,
        };
        Self::new(class, class == Class::Unavailable, reason)
    }

    /// Whether asking again, perhaps elsewhere, can help within the call.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self.class, Class::Unavailable | Class::StaleToken)
    }

    /// What the caller of a read, or of something that can be repeated, is told.
    pub(super) fn into_error(self) -> StoreError {
        let reason = self.reason;
        match self.class {
            Class::Unavailable | Class::StaleToken => StoreError::Unavailable { reason },
            Class::NoSpace => StoreError::NoSpace { reason },
            Class::TooLarge => StoreError::TooLarge {
                what: "request, for the members' --max-request-bytes",
                size: 0,
                limit: 0,
            },
            Class::TooManySteps => StoreError::TooLarge {
                what: "transaction, for the members' --max-txn-ops",
                size: 0,
                limit: 0,
            },
            Class::Compacted => StoreError::Compacted { oldest: 0 },
            Class::LeaseMissing | Class::LeaseExists | Class::Refused => StoreError::Refused { reason },
            Class::Corrupt => StoreError::Corrupt {
                path: "of etcd".to_owned(),
                reason,
            },
            Class::WentBack => StoreError::WentBack { reason },
        }
    }

    /// What the caller of a write is told that was given up.
    pub(super) fn into_write_error(self) -> StoreError {
        if self.ambiguous && self.class != Class::WentBack {
            StoreError::Indeterminate { reason: self.reason }
        } else {
            self.into_error()
        }
    }
}

/// The error with what lies below it: tonic's own texts say only "transport error".
fn words(error: &Error) -> String {
    let (mut text, mut source): (_, Option<&dyn std::error::Error>) = match error {
        Error::GRpcStatus(status) => (status.message().to_owned(), std::error::Error::source(status)),
        Error::TransportError(inner) => (error.to_string(), std::error::Error::source(inner)),
        Error::InvalidArgs(_)
        | Error::InvalidUri(_)
        | Error::IoError(_)
        | Error::WatchError(_)
        | Error::Utf8Error(_)
        | Error::LeaseKeepAliveError(_)
        | Error::ElectError(_)
        | Error::InvalidMetadataValue(_)
        | Error::EndpointError(_)
        | Error::EndpointsNotManaged
        | Error::Internal(_) => (error.to_string(), None),
    };
    // Chains are short; the bound is for one that loops.
    for _ in 0..8 {
        let Some(inner) = source else { break };
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use tonic::Status;

    use super::*;

    fn of(code: Code, message: &str) -> Fault {
        Fault::of(&Error::GRpcStatus(Status::new(code, message)))
    }

    #[test]
    fn errors_say_whether_to_retry() {
        let retry = |code, message| of(code, message).into_write_error().is_retryable();
        assert!(retry(Code::Unavailable, "etcdserver: no leader"));
        assert!(retry(Code::ResourceExhausted, "etcdserver: too many requests"));
        assert!(!retry(
            Code::ResourceExhausted,
            "etcdserver: mvcc: database space exceeded"
        ));
        assert!(!retry(Code::InvalidArgument, "etcdserver: request is too large"));
        assert!(!retry(
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted"
        ));
        assert!(!retry(Code::PermissionDenied, "etcdserver: permission denied"));
        assert!(!retry(
            Code::InvalidArgument,
            "etcdserver: authentication failed, invalid user ID or password"
        ));
    }

    #[test]
    fn a_write_that_may_have_happened_is_told_so() {
        let timed_out = of(
            Code::Unavailable,
            "etcdserver: request timed out, possibly due to previous leader failure",
        );
        assert!(timed_out.is_transient() && timed_out.ambiguous);
        assert!(matches!(
            timed_out.clone().into_write_error(),
            StoreError::Indeterminate { .. }
        ));
        assert!(
            timed_out.into_error().is_retryable(),
            "a read can simply be repeated"
        );
        assert!(!of(Code::Unavailable, "etcdserver: no leader").ambiguous);
        assert!(of(Code::Unknown, "transport error").ambiguous);
        assert!(!of(Code::Unavailable, "tcp connect error: Connection refused").ambiguous);
    }
}
