//! `vpnctl`: the operator's command, a client of the management API like any other.
//!
//! Data goes to standard output, talk to standard error. Exit status: 0 done, 1 refused or failed, 2 wrong usage,
//! 3 the daemon cannot be reached.

mod apply;
mod attempts;
mod cli;
mod client;
mod cluster;
mod node;
mod output;
mod resources;
mod sessions;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command};
use client::Unreachable;
use output::Output;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        // `vpnctl sessions | head` ends when head has enough: that is no failure.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", client::explain(&error));
            if error.downcast_ref::<Unreachable>().is_some() {
                ExitCode::from(3)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

async fn run(mut cli: Cli) -> anyhow::Result<()> {
    let output = Output::new(cli.output);
    if let Command::Completions { shell } = cli.command {
        let mut buffer = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "vpnctl", &mut buffer);
        return output.raw(&buffer);
    }
    if let Command::Apply(arguments) = &cli.command {
        // What is wrong with the files is said before anybody is asked.
        let resources = apply::read(&arguments.files)?;
        let channel = client::connect(&cli.connection).await?;
        return apply::send(channel, resources, arguments.dry_run, &output).await;
    }
    // An answer that was asked to wait comes late.
    let patience = cli.command.patience();
    if patience > 0 {
        cli.connection.timeout_secs = cli.connection.timeout_secs.max(patience + 10);
    }
    let channel = client::connect(&cli.connection).await?;
    match cli.command {
        Command::Apply(_) | Command::Completions { .. } => Ok(()),
        Command::Get(arguments) | Command::List(arguments) => {
            resources::list(channel, &arguments, &output).await
        }
        Command::Describe(arguments) => resources::describe(channel, &arguments, &output).await,
        Command::Delete(arguments) => resources::delete(channel, &arguments, &output).await,
        Command::Sessions(arguments) => sessions::show(channel, &arguments, &output).await,
        Command::Disconnect(arguments) => sessions::disconnect(channel, &arguments, &output).await,
        Command::Rekey(arguments) => sessions::rekey(channel, &arguments, &output).await,
        Command::Attempts(arguments) => attempts::show(channel, &arguments, &output).await,
        Command::Audit(arguments) => node::audit(channel, &arguments, &output).await,
        Command::Cluster(arguments) => cluster::run(channel, &arguments.command, &output).await,
        Command::Redirect(arguments) => node::redirect(channel, &arguments, &output).await,
        Command::Status => node::status(channel, &output).await,
        Command::Reload { dry_run } => node::reload(channel, dry_run, &output).await,
        Command::Fault(arguments) => node::fault(channel, &arguments, &output).await,
    }
}
