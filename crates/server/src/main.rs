//! The `drawbridge` binary: one command, one function.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use drawbridge::cli::{Cli, CliCommand};
use drawbridge::config::{self, Config, ConfigErrors};
use drawbridge::dev::Dev;
use drawbridge::subcommands::{
    DONE, ExitStatus, REFUSED, UNREADABLE, check_config, check_redis, explain, init, publish, shell, tail,
    token,
};
use drawbridge::{log, serve};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let status = match Cli::parse().command {
        CliCommand::Serve(args) => match args.path() {
            Some(file) => run_loaded(config::load(file), Some(file.to_owned()), |_| None),
            None => run_loaded(config::from_environment(), None, |_| None),
        },
        CliCommand::Dev { redis, listen, admin_listen } => {
            run_loaded(dev(redis.as_deref(), listen, admin_listen), None, |config| {
                let secret = config.auth.hmac_secrets.first()?;
                Some(Dev::new(secret.expose(), redis.as_deref()))
            })
        }
        CliCommand::Token(args) => printed(|out, err| token::run(&args, out, err)),
        CliCommand::Init { file } => printed(|out, err| init::run(&file, out, err)),
        CliCommand::Explain(args) => printed(|out, err| explain::run(&args, out, err)),
        CliCommand::Tail(args) => printed(|out, err| tail::run(&args, out, err)),
        CliCommand::Publish(args) => printed(|out, err| publish::run(&args, out, err)),
        CliCommand::Completions { shell } => printed(|out, _| shell::completions(shell, out)),
        CliCommand::Man { command } => printed(|out, err| shell::man(command.as_deref(), out, err)),
        CliCommand::CheckRedis(config) => printed(|out, err| check_redis::run(config.path(), out, err)),
        CliCommand::CheckConfig(config) => printed(|out, err| check_config::run(config.path(), out, err)),
    };
    ExitCode::from(status)
}

/// Runs a command with standard output and error; a closed pipe is not an error.
fn printed(command: impl FnOnce(&mut dyn Write, &mut dyn Write) -> io::Result<ExitStatus>) -> ExitStatus {
    command(&mut io::stdout(), &mut io::stderr()).unwrap_or(REFUSED)
}

fn dev(
    redis: Option<&str>,
    listen: Option<String>,
    admin_listen: Option<String>,
) -> Result<Config, ConfigErrors> {
    let mut config = config::dev(redis)?;
    if let Some(listen) = listen {
        config.listen = listen;
    }
    if let (Some(listen), Some(admin)) = (admin_listen, &mut config.admin) {
        admin.listen = listen;
    }
    Ok(config)
}

fn run_loaded(
    loaded: Result<Config, ConfigErrors>,
    file: Option<PathBuf>,
    dev: impl FnOnce(&Config) -> Option<Dev>,
) -> ExitStatus {
    let config = match loaded {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return if errors.unreadable { UNREADABLE } else { REFUSED };
        }
    };
    log::start();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let dev = dev(&config);
    match serve::run(config, file, dev) {
        Ok(()) => DONE,
        Err(error) => {
            eprintln!("drawbridge: {}", log::escaped(&error.to_string()));
            REFUSED
        }
    }
}
