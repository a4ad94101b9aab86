//! Calls to the optimizer.

use futures_lite::future;
use optimizer_core::callout::{Callout, Outcome};
use optimizer_core::forward::Target;
use optimizer_core::headers::Headers;
use wasip2::http::types::Method;

use crate::http;
use crate::io::{Reader, beside, sleep};

/// Makes a call; it ends with its time-out at the latest, whatever the optimizer does. The host is told of none: wasmtime
/// keeps `request-options` for as long as the instance lives.
pub async fn send(optimizer: &Target, callout: &Callout) -> Outcome {
    let too_late = async {
        sleep(callout.timeout).await;
        Outcome::Timeout
    };
    future::or(exchange(optimizer, callout), too_late).await
}

async fn exchange(optimizer: &Target, callout: &Callout) -> Outcome {
    let pairs: Vec<_> =
        callout.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let headers = Headers::new(&pairs);
    let real = callout.headers.iter().filter(|(name, _)| !name.starts_with(':'));
    let list = real.map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
    let fields = http::fields(list.chain([http::content_length(callout.body.len())]).collect());
    let path = String::from_utf8_lossy(headers.get(":path").unwrap_or_default());
    let Ok(sent) = http::send(optimizer, &Method::Post, &path, fields, true) else {
        return Outcome::DispatchFailed;
    };
    let upload = async {
        // If it takes no more of it, it has answered or is gone.
        if let Some(body) = sent.body
            && body.write(&callout.body).await.is_ok()
        {
            body.finish(None);
        }
    };
    beside(answer(sent.answer, callout.max_answer_bytes), upload).await
}

async fn answer(future: wasip2::http::types::FutureIncomingResponse, most: usize) -> Outcome {
    let response = match http::answered(future).await {
        Ok(response) => response,
        Err(error) if http::is_timeout(&error) => return Outcome::Timeout,
        Err(_) => return Outcome::Unreachable,
    };
    let status = response.status();
    let Some(mut reader) = response.consume().ok().and_then(Reader::new) else {
        return Outcome::Reset;
    };
    let mut body = Vec::new();
    loop {
        match reader.read().await {
            Ok(Some(chunk)) if body.len().saturating_add(chunk.len()) > most => {
                return Outcome::TooLarge;
            }
            Ok(Some(chunk)) => body.extend(chunk),
            Ok(None) => return Outcome::Answer { status, body: body.into() },
            Err(_) => return Outcome::Reset,
        }
    }
}
