//! Serves the component over HTTP/1.1, as `wasmtime serve` does.
//!
//! `wasi-host COMPONENT ADDRESS [--reuse] [--unchecked] [--ca FILE] [--dir HOST::GUEST] [NAME=VALUE…]`: the variables are the component's
//! environment. `--reuse`: instances serve call after call. `--unchecked`: starts with a wrong configuration too. `--ca`: servers with certificates by these
//! authorities are trusted as well. Says where it listens as `wasmtime serve` does.

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::TcpListener;
use wasi_host::{Authorities, Host, Loaded};
use wasmtime::{Error, Result};
use wasmtime_wasi::FsPerms;
use wasmtime_wasi_http::io::TokioIo;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what| arguments.next().ok_or_else(|| Error::msg(format!("missing: {what}")));
    let (component, address) = (next("the component")?, next("the address")?);
    let (mut environment, mut directories) = (Vec::new(), Vec::new());
    let (mut reuse, mut check, mut authorities) = (false, true, None);
    while let Some(argument) = arguments.next() {
        match &*argument {
            "--reuse" => reuse = true,
            "--unchecked" => check = false,
            "--ca" => {
                authorities =
                    Some(Authorities::beside_mozillas(&arguments.next().unwrap_or_default())?);
            }
            "--dir" => {
                let pair = arguments.next().unwrap_or_default();
                let pair = pair.split_once("::").map(|(a, b)| (a.to_owned(), b.to_owned()));
                directories.push(pair.ok_or_else(|| Error::msg("--dir HOST::GUEST"))?);
            }
            variable => {
                let pair = variable.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned()));
                environment.push(pair.ok_or_else(|| Error::msg(format!("{variable}?")))?);
            }
        }
    }
    let equip = move |wasi: &mut wasmtime_wasi::WasiCtxBuilder| {
        wasi.inherit_stdout().envs(&environment);
        for (host, guest) in &directories {
            let opened = wasi.preopened_dir(host, guest, FsPerms::ReadOnly);
            opened.inspect_err(|error| eprintln!("{host}: {error}")).ok();
        }
        authorities.clone().map(|authorities| Box::new(authorities) as _)
    };
    let log = |_: &str, line: &str| eprintln!("{line}");
    let host = Host::new(Loaded::load(&component)?, reuse, Box::new(equip), Box::new(log));
    if check && !host.check().await? {
        return Err(Error::msg("the configuration is refused"));
    }
    let listener = TcpListener::bind(address).await?;
    eprintln!("Serving HTTP on http://{}/", listener.local_addr()?);
    loop {
        let (client, _) = listener.accept().await?;
        let _ = client.set_nodelay(true);
        let host = host.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let host = host.clone();
                async move {
                    let answered = host.handle(request, "").await;
                    answered.inspect_err(|error| eprintln!("no answer: {error:?}"))
                }
            });
            // A client that leaves is no error of ours.
            let _ = http1::Builder::new()
                .pipeline_flush(true)
                .serve_connection(TokioIo::new(client), service)
                .await;
        });
    }
}
