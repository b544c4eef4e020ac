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
        Command::Steady(options) => loadtest::steady::steady(&options),
        Command::Stamp(options) => loadtest::plain::stamp(&options),
        Command::Echo(options) => loadtest::echo::echo(&options),
        Command::Merge(options) => loadtest::output::merge(&options),
        Command::Ctl(options) => loadtest::control::ctl(&options.socket, &options.order.join(" ")),
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
