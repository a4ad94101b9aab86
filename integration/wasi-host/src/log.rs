//! What instances write to standard error, line by line, each with the call that it is about.

use std::sync::{Arc, Mutex};

use hyper::body::Bytes;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Takes a call's name and a line about it. Outside of calls, the name is empty.
pub type Log = dyn Fn(&str, &str) + Send + Sync;

/// The standard error of one instance.
#[derive(Clone)]
pub struct Tagged {
    /// The call that the instance serves.
    pub call: Arc<Mutex<String>>,
    pub log: Arc<Log>,
}

impl IsTerminal for Tagged {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Tagged {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Lines { of: self.clone(), rest: String::new() })
    }
}

struct Lines {
    of: Tagged,
    /// A line that has not ended.
    rest: String,
}

#[async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.rest.push_str(&String::from_utf8_lossy(&bytes));
        let call = self.of.call.lock().map(|call| call.clone()).unwrap_or_default();
        while let Some((line, rest)) = self.rest.split_once('\n') {
            (self.of.log)(&call, line);
            self.rest = rest.to_owned();
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 * 1024)
    }
}
