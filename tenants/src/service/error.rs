//! Errors as gRPC statuses: the code for programs, the message for people.

use store::StoreError;
use tonic::Status;

use crate::{BackendError, RegistryError};

/// The status of a refused change.
pub(super) fn of_registry(error: &RegistryError) -> Status {
    let text = error.to_string();
    match error {
        RegistryError::Invalid(_) => Status::invalid_argument(text),
        RegistryError::NotFound(_) => Status::not_found(text),
        RegistryError::AlreadyExists(_) => Status::already_exists(text),
        RegistryError::Version { .. } | RegistryError::Busy => Status::aborted(text),
        RegistryError::InUse(_) => Status::failed_precondition(text),
        RegistryError::Limit { .. } => Status::resource_exhausted(text),
        RegistryError::Store(error) => of_store(error),
        RegistryError::Encode(_) => Status::internal(text),
    }
}

fn of_store(error: &StoreError) -> Status {
    if error.is_retryable() {
        Status::unavailable(format!("the store: {error}; try again"))
    } else {
        Status::internal(format!("the store: {error}"))
    }
}

/// The status of what the daemon could not do.
pub(super) fn of_backend(error: &BackendError) -> Status {
    let text = error.to_string();
    match error {
        BackendError::NotFound(_) => Status::not_found(text),
        BackendError::Refused(_) => Status::failed_precondition(text),
        BackendError::Invalid(_) => Status::invalid_argument(text),
        BackendError::Unavailable(_) => Status::unavailable(text),
    }
}
