//! The command `loadtest`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use loadtest::cli::{Cli, Command};

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let done = match command {
        Command::Connect(options) => loadtest::run::connect(&options),
        Command::Tunnel(options) => loadtest::tunnel::tunnel(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // Nobody is left to tell if standard error is closed.
            drop(writeln!(std::io::stderr(), "loadtest: {error:#}"));
            ExitCode::from(2)
        }
    }
}
