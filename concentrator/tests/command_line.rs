//! The binary's command line: what operators and unit files rely on.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::{Command, Output};

fn concentrator(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_concentrator"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn check_says_whether_a_file_is_right() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("concentrator.toml");
    let path = path.to_str().unwrap();
    std::fs::write(path, "[listen]\naddresses = [\"192.0.2.1\"]\n").unwrap();
    assert!(concentrator(&["--config", path, "--check"]).status.success());
    std::fs::write(path, "[listen]\naddress = \"192.0.2.1\"\n").unwrap();
    let output = concentrator(&["--config", path, "--check"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("unknown field") && text.contains("address"),
        "{text}"
    );
    assert!(output.stdout.is_empty());
    let output = concentrator(&["--config", "/nonexistent/concentrator.toml", "--check"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_printed_defaults_are_a_file_that_is_right() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("concentrator.toml");
    let output = concentrator(&["--print-defaults"]);
    assert!(output.status.success());
    std::fs::write(&path, output.stdout).unwrap();
    assert!(
        concentrator(&["--config", path.to_str().unwrap(), "--check"])
            .status
            .success()
    );
}
