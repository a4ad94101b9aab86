//! Calls to the optimizer over connections that stay open.

use std::io;
use std::sync::Mutex;

use optimizer_core::callout::{Callout, Outcome};

use crate::http1::Connection;
use crate::native::locked;

/// The optimizer and the connections to it that nobody uses.
#[derive(Debug)]
pub struct Optimizer {
    port: u16,
    idle: Mutex<Vec<Connection>>,
}

impl Optimizer {
    /// The optimizer at a port of this machine.
    pub fn at(port: u16) -> Self {
        Self { port, idle: Mutex::default() }
    }

    /// Makes a call; the time-out is the callout's own.
    pub async fn call(&self, callout: &Callout) -> Outcome {
        match tokio::time::timeout(callout.timeout, self.exchange(callout)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Outcome::Unreachable,
            Err(_) => Outcome::Timeout,
        }
    }

    async fn exchange(&self, callout: &Callout) -> io::Result<Outcome> {
        let idle = locked(&self.idle).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::to(self.port).await?,
        };
        let mut message = Vec::with_capacity(512 + callout.body.len());
        let header = |name| {
            let found = callout.headers.iter().find(|(other, _)| *other == name);
            found.map_or("", |(_, value)| &**value)
        };
        message.extend(
            format!("POST {} HTTP/1.1\r\nhost: {}\r\n", header(":path"), header(":authority"))
                .as_bytes(),
        );
        for (name, value) in callout.headers.iter().filter(|(name, _)| !name.starts_with(':')) {
            message.extend(format!("{name}: {value}\r\n").as_bytes());
        }
        message.extend(format!("content-length: {}\r\n\r\n", callout.body.len()).as_bytes());
        message.extend(&callout.body);
        connection.write(&message).await?;
        let head = connection.response().await?;
        let mut body = Vec::with_capacity(callout.body.len());
        connection.body(&head, |part| body.extend_from_slice(part)).await?;
        locked(&self.idle).push(connection);
        Ok(Outcome::Answer { status: head.status, body: body.into() })
    }
}
