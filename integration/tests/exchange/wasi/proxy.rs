//! The component as the cases see it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::{Request, Response};
use integration::{Answer, Callout, Headers, Message};
use optimizer_core::bypass::Bypass;
use optimizer_core::host::Host;
use tokio::sync::oneshot;
use wasmtime_wasi_http::Error;

use super::network::{Happened, Out, Pieces, answer_head, map, pieces, watch};
use super::{Call, STEP, Wasi, elsewhere};
use crate::proxy::{Id, Proxy};

impl Proxy for Wasi {
    fn request(&mut self, headers: &Headers, end: bool) -> Id {
        let id = self.calls.len();
        let (sender, body) = pieces();
        let mut request = Request::new(body);
        let pseudo = |name| headers.get(name).unwrap_or_default();
        *request.method_mut() = pseudo(":method").parse().unwrap();
        let uri = format!("http://{}{}", pseudo(":authority"), pseudo(":path"));
        *request.uri_mut() = uri.parse().unwrap();
        *request.headers_mut() = map(headers);
        let (host, starting) = (self.host.clone(), self.starting.clone());
        let happened = self.sender.clone();
        let serve = async move {
            let look = |out| drop(happened.send(Happened::Client(id, out)));
            // The instance is made before anything is waited for.
            starting.store(id, Ordering::Relaxed);
            match host.handle(request, &id.to_string()).await {
                Ok(response) => {
                    let end = hyper::body::Body::is_end_stream(response.body());
                    look(Out::Head(answer_head(&response), end));
                    watch(response.into_body(), look).await;
                }
                Err(_) => look(Out::Broke),
            }
        };
        let call = Call {
            request: (!end).then_some(sender),
            provide: None,
            response: None,
            provider: Message::default(),
            client: Message::default(),
            annotations: BTreeMap::new(),
            cut: false,
            task: self.runtime.spawn(serve),
        };
        self.calls.push(call);
        self.settle();
        id
    }

    fn request_body(&mut self, id: Id, piece: &[u8], end: bool) {
        Self::push(&mut self.calls[id].request, piece, end);
        self.settle();
    }

    fn request_trailers(&mut self, id: Id, trailers: &Headers) {
        if let Some(request) = self.calls[id].request.take() {
            request.trailers(trailers);
        }
        self.settle();
    }

    fn client_gone(&mut self, id: Id) {
        let call = &mut self.calls[id];
        call.cut = true;
        if let Some(request) = call.request.take() {
            request.breaks();
        }
        call.task.abort();
        // The component looks now and then whether somebody is there.
        self.pass(Duration::from_millis(600));
    }

    fn response(&mut self, id: Id, headers: &Headers, end: bool) {
        let (sender, body) = pieces();
        let mut response = Response::new(body);
        *response.status_mut() = headers.get(":status").unwrap().parse().unwrap();
        *response.headers_mut() = map(headers);
        self.provide(id, Ok(response));
        self.calls[id].response = (!end).then_some(sender);
        self.settle();
    }

    fn response_body(&mut self, id: Id, piece: &[u8], end: bool) {
        Self::push(&mut self.calls[id].response, piece, end);
        self.settle();
    }

    fn response_trailers(&mut self, id: Id, trailers: &Headers) {
        if let Some(response) = self.calls[id].response.take() {
            response.trailers(trailers);
        }
        self.settle();
    }

    fn provider_reset(&mut self, id: Id) {
        match self.calls[id].response.take() {
            Some(response) => response.breaks(),
            None => self.provide(id, Err(Error::ConnectionTerminated)),
        }
        self.settle();
    }

    fn local_answer(&mut self, _: Id, _: u16) {
        panic!("nobody else answers on this host");
    }

    fn optimizer_dies(&mut self) {
        self.optimizer_is_alive.store(false, Ordering::Relaxed);
    }

    fn reroute(&mut self, _: &str) {
        panic!("nothing is routed on this host");
    }

    fn callouts(&self) -> &[Callout] {
        &self.callouts
    }

    fn answer(&mut self, callout: u32, answer: Answer) {
        let index = callout as usize - 1;
        let Some(waiting) = self.waiting[index].take() else { return };
        self.callouts[index].answered = true;
        match answer {
            Answer::Timeout => self.wait_out(&waiting),
            answer => drop(waiting.send(answer)),
        }
        self.settle();
    }

    fn time_out(&mut self, callout: u32) -> Option<Duration> {
        let index = callout as usize - 1;
        let waiting = self.waiting[index].take()?;
        self.wait_out(&waiting);
        let took = self.now() - self.callouts[index].sent_at;
        // The two clocks are some steps apart.
        Some(Duration::from_millis(50 * (took.as_secs_f64() * 20.0).round() as u64))
    }

    fn advance(&mut self, time: Duration) {
        self.pass(time);
        if time >= STEP {
            for (callout, answer) in std::mem::take(&mut self.unseen) {
                self.see(callout, answer);
            }
        }
        for (callout, waiting) in self.callouts.iter_mut().zip(&self.waiting) {
            callout.answered |= waiting.as_ref().is_none_or(|waiting| waiting.is_closed());
        }
    }

    fn provider_got(&self, id: Id) -> &Message {
        &self.calls[id].provider
    }

    fn client_got(&self, id: Id) -> &Message {
        &self.calls[id].client
    }

    fn was_cut(&self, id: Id) -> bool {
        self.calls[id].cut
    }

    fn annotation(&self, id: Id, name: &str) -> Option<String> {
        self.calls[id].annotations.get(name).cloned()
    }

    fn logs(&self) -> Vec<String> {
        self.logs.clone()
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        let set = self.counters.iter().filter(|(_, value)| **value != 0);
        set.map(|(name, value)| (name.clone(), *value)).collect()
    }

    fn is(&self) -> Host {
        Host::WasiHttp
    }

    fn reaches(&self, reason: Bypass) -> bool {
        !elsewhere::REASONS.iter().any(|(reasons, _)| reasons.contains(&reason))
    }

    fn stride(&self) -> usize {
        41
    }

    fn samples(&self, name: &str) -> Vec<u64> {
        self.samples.get(name).cloned().unwrap_or_default()
    }
}

impl Wasi {
    /// The component ends a callout by a clock of its own.
    fn wait_out(&mut self, waiting: &oneshot::Sender<Answer>) {
        while !waiting.is_closed() {
            self.advance(Duration::from_millis(1));
        }
    }

    fn pass(&mut self, time: Duration) {
        let target = self.now() + time;
        while self.now() < target {
            let step = STEP.min(target - self.now());
            let nanoseconds = u64::try_from(step.as_nanos()).unwrap();
            self.clock.fetch_add(nanoseconds, Ordering::Relaxed);
            let (began, now) = (self.began, self.now());
            self.runtime.block_on(async {
                tokio::time::advance(now.saturating_sub(began.elapsed())).await;
            });
            self.settle();
        }
    }

    fn provide(&mut self, id: Id, response: Result<Response<Pieces>, Error>) {
        let provide = self.calls[id].provide.take();
        let _ = provide.expect("the provider was not asked").send(response);
    }
}
