//! `cargo xtask`: the checks of the house that the compiler does not make.
//!
//! - `layers`: who may import whom, from `cargo metadata`.
//! - `quotes`: every RFC citation is well formed, quotes a sentence that stands in that RFC, and has its test.
//! - `licences`: every dependency's licence is one that we may ship.

mod layers;
mod licences;
mod quotes;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The checks of the house.
#[derive(Parser)]
#[command(name = "xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the import rules between crates.
    Layers,
    /// Check the licences of all dependencies.
    Licences,
    /// Check the RFC citations in the sources.
    Quotes {
        /// Folder with the RFC texts (rfc7296.txt, …): checks the wording too.
        #[arg(long)]
        rfcs: Option<PathBuf>,
        /// With --rfcs: record the quotations found there as verified.
        #[arg(long, requires = "rfcs")]
        bless: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Layers => layers::check(),
        Command::Licences => licences::check(),
        Command::Quotes { rfcs, bless } => quotes::check(rfcs.as_deref(), bless),
    };
    match outcome {
        Ok(summary) => {
            eprintln!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
