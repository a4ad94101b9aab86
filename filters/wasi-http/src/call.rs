//! One call: the client's request, the provider's answer, and the exchange between them.

use std::borrow::Cow;

use bytes::Bytes;
use optimizer_core::callout::Callout;
use optimizer_core::effect::{Effect, Flow, Side};
use optimizer_core::event::{Body, Event, RequestHead, ResponseHead};
use optimizer_core::exchange::Exchange;
use optimizer_core::forward::{Unanswered, has_body};
use wasip2::http::types::{
    Fields, FutureIncomingResponse, IncomingRequest, Method, ResponseOutparam,
};

use crate::callout;
use crate::http::{self, Head};
use crate::io::{Broken, Reader, Writer};
use crate::vm::{Vm, now};

/// Serves a call to its end, and then sends what waits.
pub async fn serve(vm: &Vm, request: IncomingRequest, out: ResponseOutparam) {
    let mut call = Call::new(vm, &request);
    call.run(&request, out).await;
    call.feed(Event::Closed);
    vm.trace(|| "Closed".to_owned());
    drop(call);
    drop(request);
    vm.drain().await;
}

struct Call<'v> {
    vm: &'v Vm,
    /// The provider's name in the core.
    upstream: String,
    exchange: Exchange,
    method: Method,
    request: Message,
    response: Message,
    /// What the exchange waits for.
    callout: Option<Callout>,
    /// The answer in the provider's place.
    hit: Option<Hit>,
}

/// One message of the exchange.
struct Message {
    flow: Flow,
    /// The headers that go on.
    fields: Fields,
    /// The body that goes on in place of the one that was held.
    body: Option<Bytes>,
}

struct Hit {
    headers: Vec<(&'static str, Cow<'static, str>)>,
    body: Bytes,
}

impl<'v> Call<'v> {
    fn new(vm: &'v Vm, request: &IncomingRequest) -> Self {
        let message = || Message { flow: Flow::Pass, fields: Fields::new(), body: None };
        Self {
            vm,
            upstream: vm.provider.authority.clone(),
            exchange: Exchange::new(),
            method: request.method(),
            request: message(),
            response: message(),
            callout: None,
            hit: None,
        }
    }

    /// Hands in one event and carries out what follows from it.
    fn feed(&mut self, event: Event<'_>) {
        let mut effects = Vec::new();
        self.exchange.handle(&mut self.vm.adapter.borrow_mut(), now(), event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Flow(side, flow) => self.message(side).flow = flow,
                Effect::SetHeader(side, name, value) => {
                    let _ = self.message(side).fields.set(name, &[value.as_bytes().to_vec()]);
                }
                Effect::RemoveHeader(side, name) => {
                    let _ = self.message(side).fields.delete(&name);
                }
                Effect::ReplaceBody(side, body) => self.message(side).body = Some(body),
                Effect::Callout(callout) => self.callout = Some(callout),
                Effect::Respond { headers, body } => self.hit = Some(Hit { headers, body }),
                effect => self.vm.carry_out(&effect),
            }
        }
    }

    fn message(&mut self, side: Side) -> &mut Message {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }

    async fn run(&mut self, request: &IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_else(|| "/".to_owned());
        let authority = request.authority().unwrap_or_default();
        let method = http::method_name(&self.method);
        let pseudo = [(":method", method), (":path", &*path), (":authority", &*authority)];
        let head = Head::new(pseudo, &request.headers());
        if !head.fits() {
            let (status, text) = Unanswered::RequestTooLarge.answer();
            return http::answer(out, status, text).await;
        }
        self.request.fields = head.forwarded();
        let upstream = self.upstream.clone();
        let length = head.read(|headers| {
            self.vm.begin(headers.get("x-request-id"));
            self.feed(Event::RequestHeaders(RequestHead {
                headers,
                truncated: false,
                upstream: Some(upstream.as_bytes()),
                properties: &[],
                end_of_stream: false,
            }));
            headers.content_length()
        });
        let Some(mut reader) = request.consume().ok().and_then(Reader::new) else { return };
        let mut body = self.hold(Side::Request, &mut reader).await;
        if let Some(Hit { headers, body }) = self.hit.take() {
            return serve_hit(out, &headers, &body).await;
        }
        if reader.is_broken() {
            // There is nobody to forward it for.
            return;
        }
        // Without a length, only the first bytes tell whether there is a body.
        if body.is_empty() && length.is_none_or(|length| length == 0) {
            match reader.read().await {
                Ok(first) => body = first.unwrap_or_default().into(),
                Err(Broken) => return,
            }
        }
        let has_body = !body.is_empty() || length.is_some_and(|length| length > 0);
        let fields = std::mem::replace(&mut self.request.fields, Fields::new());
        let path = self.vm.provider.path(&path);
        match http::send(&self.vm.provider, &self.method, &path, fields, has_body) {
            Err(_) => self.refuse(out, Unanswered::Unreachable).await,
            Ok(sent) => {
                let upload = async {
                    match sent.body {
                        Some(writer) => upload(body, reader, writer).await,
                        None => Ok(()),
                    }
                };
                self.forward(sent.answer, upload, out).await;
            }
        }
    }

    /// Keeps a message as long as the core wants it held. What goes on first of its body.
    async fn hold(&mut self, side: Side, reader: &mut Reader) -> Bytes {
        let mut held = Vec::new();
        while self.message(side).flow == Flow::Hold {
            match reader.read().await {
                Ok(Some(chunk)) => {
                    held.extend(chunk);
                    self.feed(Event::body(side, Body::Held(held.len())));
                }
                Ok(None) => {
                    let whole = Bytes::from(held);
                    self.feed(Event::body(side, Body::Whole((&*whole).into())));
                    while let Some(callout) = self.callout.take() {
                        let outcome = callout::send(&self.vm.optimizer, &callout).await;
                        self.feed(Event::CalloutDone(callout.id, outcome));
                    }
                    return self.message(side).body.take().unwrap_or(whole);
                }
                // What came of it goes on, to break off in the same place.
                Err(Broken) => break,
            }
        }
        held.into()
    }

    /// Waits for the provider's answer while the request goes to it.
    async fn forward(
        &mut self,
        answer: FutureIncomingResponse,
        upload: impl Future<Output = Result<(), Broken>>,
        out: ResponseOutparam,
    ) {
        let client_gone = async {
            if upload.await.is_ok() {
                futures_lite::future::pending().await
            }
        };
        futures_lite::future::or(self.answer(answer, out), client_gone).await;
    }

    async fn answer(&mut self, answer: FutureIncomingResponse, out: ResponseOutparam) {
        let response = match http::answered(answer).await {
            Ok(response) => response,
            Err(error) => {
                let why = match http::is_timeout(&error) {
                    true => Unanswered::Timeout,
                    false => Unanswered::Unreachable,
                };
                return self.refuse(out, why).await;
            }
        };
        let status = response.status();
        let head = Head::of_answer(status, &response.headers());
        if !head.fits() {
            return self.refuse(out, Unanswered::AnswerTooLarge).await;
        }
        let has_body = has_body(http::method_name(&self.method), status);
        self.head(&head, true, !has_body);
        let Some(mut reader) = response.consume().ok().and_then(Reader::new) else { return };
        let held = match has_body {
            true => self.hold(Side::Response, &mut reader).await,
            false => Bytes::new(),
        };
        let fields = std::mem::replace(&mut self.response.fields, Fields::new());
        if let Some(writer) = http::respond(out, status, fields, has_body) {
            // Whoever left: there is nothing to be done about it.
            let _ = self.relay(held, reader, writer).await;
        }
    }

    /// The head of an answer has arrived.
    fn head(&mut self, head: &Head, from_provider: bool, end_of_stream: bool) {
        self.response.fields = head.forwarded();
        let upstream = self.upstream.clone();
        head.read(|headers| {
            self.feed(Event::ResponseHeaders(ResponseHead {
                headers,
                upstream: Some(upstream.as_bytes()),
                from_provider,
                end_of_stream,
            }));
        });
    }

    /// Passes the answer's body on, chunk by chunk.
    async fn relay(
        &mut self,
        held: Bytes,
        mut reader: Reader,
        writer: Writer,
    ) -> Result<(), Broken> {
        let mut next = Some(held).filter(|held| !held.is_empty());
        loop {
            let chunk = match next.take() {
                Some(held) => held,
                None => match read_for(&writer, &mut reader).await? {
                    Some(chunk) => chunk.into(),
                    None => break,
                },
            };
            if self.response.flow == Flow::Copy {
                self.feed(Event::ResponseBody(Body::Chunk(&chunk)));
            }
            writer.write(&chunk).await?;
        }
        if self.response.flow == Flow::Copy {
            self.feed(Event::ResponseBody(Body::End));
        }
        writer.finish(reader.trailers().await);
        Ok(())
    }

    /// There is no answer of the provider's.
    async fn refuse(&mut self, out: ResponseOutparam, why: Unanswered) {
        let (status, text) = why.answer();
        self.head(&Head::of_answer(status, &http::text_fields(text)), false, false);
        let fields = std::mem::replace(&mut self.response.fields, Fields::new());
        if let Some(writer) = http::respond(out, status, fields, true)
            && writer.write(text.as_bytes()).await.is_ok()
        {
            writer.finish(None);
        }
    }
}

/// The next bytes for somebody who is still there to take them: where they come slowly,
/// nothing else would show that nobody is.
async fn read_for(writer: &Writer, reader: &mut Reader) -> Result<Option<Vec<u8>>, Broken> {
    let gone = async {
        writer.gone().await;
        Err(Broken)
    };
    futures_lite::future::or(reader.read(), gone).await
}

/// Passes the request's body on, chunk by chunk.
///
/// # Errors
/// The client broke off. A provider that takes no more has an answer, or is gone.
async fn upload(body: Bytes, mut reader: Reader, writer: Writer) -> Result<(), Broken> {
    let mut next = body;
    loop {
        if writer.write(&next).await.is_err() {
            return Ok(());
        }
        match reader.read().await? {
            Some(chunk) => next = chunk.into(),
            None => break,
        }
    }
    writer.finish(reader.trailers().await);
    Ok(())
}

async fn serve_hit(
    out: ResponseOutparam,
    headers: &[(&'static str, Cow<'static, str>)],
    body: &Bytes,
) {
    let list = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
    let fields = http::fields(list.chain([http::content_length(body.len())]).collect());
    if let Some(writer) = http::respond(out, 200, fields, true)
        && writer.write(body).await.is_ok()
    {
        writer.finish(None);
    }
}
