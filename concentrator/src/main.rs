//! The command line of the daemon.
fn main() {}
