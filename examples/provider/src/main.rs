//! A deterministic LLM API, OpenAI- and Anthropic-shaped, streamed and not.
//!
//! The same request always gets the same answer, byte for byte. `GET
//! /demo/calls` shows how often it was called and what it received last.

mod anthropic;
mod dialect;
mod journal;
mod openai;
mod reply;
mod responses;
mod server;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "\
demo-provider: a deterministic LLM API, OpenAI- and Anthropic-shaped

  --listen ADDR:PORT   where to listen (127.0.0.1:8089; port 0 picks a free one)
  --chunk-ms N         time for each piece of an answer, streamed or not (30)
  --help               this text

POST …/v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses and
/v1/messages under any prefix. Any key is accepted unless it begins with \"bad\".
GET /demo/calls shows what was received, POST /demo/reset forgets it.
";

struct Options {
    listen: SocketAddr,
    chunk: Duration,
}

/// Reads the command line; `None` where the usage was asked for.
fn options(mut args: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options {
        listen: SocketAddr::from(([127, 0, 0, 1], 8089)),
        chunk: Duration::from_millis(30),
    };
    while let Some(name) = args.next() {
        if name == "--help" {
            return Ok(None);
        }
        let value = args.next().ok_or(format!("{name}: value missing"))?;
        match name.as_str() {
            "--listen" => {
                options.listen = value.parse().map_err(|e| format!("{name} {value}: {e}"))?;
            }
            "--chunk-ms" => {
                let ms = value.parse().map_err(|e| format!("{name} {value}: {e}"))?;
                options.chunk = Duration::from_millis(ms);
            }
            _ => return Err(format!("{name}: unknown option, try --help")),
        }
    }
    Ok(Some(options))
}

async fn run(options: Options) -> std::io::Result<()> {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let listener = TcpListener::bind(options.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, server::router(options.chunk))
        .with_graceful_shutdown(async move {
            tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
        })
        .await
}

#[tokio::main]
async fn main() -> ExitCode {
    match options(std::env::args().skip(1)) {
        Ok(None) => print!("{USAGE}"),
        Ok(Some(options)) => {
            if let Err(error) = run(options).await {
                eprintln!("demo-provider: {error}");
                return ExitCode::FAILURE;
            }
        }
        Err(message) => {
            eprintln!("demo-provider: {message}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Option<Options>, String> {
        options(args.iter().map(ToString::to_string))
    }

    #[test]
    fn reads_the_command_line() {
        let given = parse(&["--listen", "127.0.0.1:0", "--chunk-ms", "5"]).unwrap().unwrap();
        assert_eq!(given.listen.port(), 0);
        assert_eq!(given.chunk, Duration::from_millis(5));
        assert!(parse(&["--help"]).unwrap().is_none());
        for wrong in [&["--listen"][..], &["--listen", "x"], &["--port", "1"]] {
            assert!(parse(wrong).err().unwrap().starts_with(wrong[0]));
        }
    }
}
