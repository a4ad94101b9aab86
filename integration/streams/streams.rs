//! The core's assemblers and replays on standard input and output, so that other
//! languages' SDKs can be set against them.
//!
//! ```text
//! streams assemble ENDPOINT [--split N]   an event stream in, the plain body out
//! streams replay ENDPOINT [--usage]       the plain body in, an event stream out
//! ```
//! `--split N` hands the stream over in pieces of N bytes. Where there is no
//! result, the exit code is 3, and what is wrong stands on standard error.

use std::io::{Read, Write};
use std::process::ExitCode;

use optimizer_core::dialect::Dialect;
use optimizer_core::json::Object;
use optimizer_core::stream::{Assembler, replay};

const MAX_BYTES: usize = 64 << 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match *arguments {
        ["assemble", endpoint] => assemble(endpoint, MAX_BYTES),
        ["assemble", endpoint, "--split", size] => match size.parse() {
            Ok(size) if size > 0 => assemble(endpoint, size),
            _ => Err("--split takes a number of bytes".to_owned()),
        },
        ["replay", endpoint] => replayed(endpoint, false),
        ["replay", endpoint, "--usage"] => replayed(endpoint, true),
        _ => {
            eprintln!("streams assemble ENDPOINT [--split N] | replay ENDPOINT [--usage]");
            return ExitCode::from(2);
        }
    };
    let written =
        result.and_then(|out| std::io::stdout().write_all(&out).map_err(|error| error.to_string()));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(3)
        }
    }
}

fn dialect(endpoint: &str) -> Result<Dialect, String> {
    Dialect::from_endpoint(endpoint).ok_or_else(|| format!("unknown endpoint {endpoint}"))
}

fn input() -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn assemble(endpoint: &str, size: usize) -> Result<Vec<u8>, String> {
    let mut assembler = Assembler::new(dialect(endpoint)?, MAX_BYTES);
    for piece in input()?.chunks(size) {
        assembler.push(piece);
    }
    assembler.finish().map_err(|error| format!("{error:?}"))
}

fn replayed(endpoint: &str, include_usage: bool) -> Result<Vec<u8>, String> {
    let body = input()?;
    let body = Object::parse(&body).map_err(|error| format!("{error:?}"))?;
    replay(dialect(endpoint)?, &body, include_usage).ok_or_else(|| "WrongShape".to_owned())
}
