//! The contract that every back end keeps, as tests.
