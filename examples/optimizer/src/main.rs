//! A small, real optimizer that speaks Optimizer Protocol v1.
//!
//! ```text
//!  call ──► server.rs ──► optimize.rs ──► the core's strategies
//!           token, limits     │
//!           JSON errors       ├──► cache.rs      answers, by caller and request
//!                             ├──► originals.rs  texts that were cut
//!                             └──► records.rs    traces of calls
//! ```

mod cache;
mod cache_key;
mod config;
mod error;
mod optimize;
mod originals;
mod records;
mod server;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use config::Config;
use server::Server;

const USAGE: &str = "\
A reference optimizer: Optimizer Protocol v1 over HTTP.

Usage: reference-optimizer [--listen ADDRESS] [--config FILE] [--token-env NAME]

  --listen ADDRESS   where to listen (default 127.0.0.1:8088; port 0 picks a free one)
  --config FILE      the configuration, as JSON (default: as in optimizer.json beside the source)
  --token-env NAME   the environment variable with the token that callers must present
  --help             this text
";

/// How long calls under way may take once the server is to stop.
const GRACE: Duration = Duration::from_secs(5);

struct Arguments {
    listen: String,
    config: Option<PathBuf>,
    token_env: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match start().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("reference-optimizer: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn start() -> Result<(), String> {
    let Some(arguments) = arguments().map_err(|error| format!("{error}\n\n{USAGE}"))? else {
        print!("{USAGE}");
        return Ok(());
    };
    let mut config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => Config::example()?,
    };
    if let Some(name) = arguments.token_env {
        config.token = match std::env::var(&name) {
            Ok(token) if !token.is_empty() => Some(token),
            _ => return Err(format!("--token-env: {name} is not set")),
        };
    }

    let listener = TcpListener::bind(&arguments.listen)
        .await
        .map_err(|error| format!("{}: {error}", arguments.listen))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    println!("listening on http://{address}");

    let serving =
        axum::serve(listener, Server::new(config).router()).with_graceful_shutdown(stop());
    tokio::select! {
        result = serving => result.map_err(|error| error.to_string()),
        () = async { stop().await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}

/// None where only the usage was asked for.
fn arguments() -> Result<Option<Arguments>, lexopt::Error> {
    use lexopt::prelude::{Long, ValueExt};

    let mut arguments =
        Arguments { listen: String::from("127.0.0.1:8088"), config: None, token_env: None };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("listen") => arguments.listen = parser.value()?.string()?,
            Long("config") => arguments.config = Some(parser.value()?.into()),
            Long("token-env") => arguments.token_env = Some(parser.value()?.string()?),
            Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(arguments))
}

/// Returns when the process is asked to stop.
async fn stop() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
