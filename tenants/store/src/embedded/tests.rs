//! Tests of what is the embedded back end's own.
