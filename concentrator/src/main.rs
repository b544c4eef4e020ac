//! `concentrator --config FILE`: the daemon's command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use concentrator::config::Config;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A multi-tenant IPsec VPN concentrator.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// The configuration file (TOML). Every field has a default; `--print-defaults` shows them.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the file and exit: 0 when it is right.
    #[arg(long)]
    check: bool,
    /// Write the configuration with all defaults to standard output and exit.
    #[arg(long)]
    print_defaults: bool,
    /// Watch the daemon that started this process: its own use only.
    #[arg(long, hide = true)]
    witness: bool,
    /// What is logged, in place of `log.filter`: `info`, `debug`, `info,concentrator=debug`.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

fn main() -> ExitCode {
    match start(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("concentrator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> anyhow::Result<()> {
    if arguments.witness {
        return concentrator::cluster::witness::watch();
    }
    let mut config = match &arguments.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    if let Some(filter) = arguments.log {
        config.log.filter = filter;
    }
    let problems = config.problems();
    anyhow::ensure!(problems.is_empty(), "{}", problems.join("; "));
    if arguments.print_defaults {
        use std::io::Write as _;
        let defaults = Config {
            // Only those who run a cluster are shown its settings.
            cluster: config.cluster.map(|_| concentrator::config::Cluster::default()),
            ..Config::default()
        };
        std::io::stdout().write_all(toml::to_string(&defaults)?.as_bytes())?;
        return Ok(());
    }
    if arguments.check {
        eprintln!("the configuration is right");
        return Ok(());
    }
    concentrator::daemon::run(config, arguments.config)
}
