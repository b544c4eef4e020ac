//! Two thousand users at once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

#[test]
fn two_thousand_users_log_in_at_once_and_pass_traffic() -> rig::Result<()> {
    let report = rig::load::users(2000, 15)?;
    println!("{report}");
    assert_eq!(report.sessions, 2000);
    Ok(())
}
