//! The native proxy as the cases see it.

use std::collections::BTreeMap;
use std::time::Duration;

use integration::{Answer, Callout, Headers, Message};
use optimizer_core::effect::Side;
use optimizer_core::event::{Event, RequestHead};
use optimizer_core::exchange::Exchange;
use optimizer_core::host::Host;

use super::lane::Lane;
use super::{Call, Native};
use crate::proxy::{Id, Proxy};

impl Proxy for Native {
    fn request(&mut self, headers: &Headers, end: bool) -> Id {
        let id = self.calls.len();
        let mut call = Call {
            exchange: Exchange::new(),
            request: Lane::new("the provider"),
            response: Lane::new("the client"),
            annotations: BTreeMap::new(),
            answered: false,
            cut: false,
            over: false,
        };
        call.request.headers = headers.clone();
        call.request.ended = end;
        self.calls.push(call);
        let fields: Vec<_> = headers.iter().map(|(n, v)| (n.as_bytes(), v)).collect();
        let upstream = self.vm.setup.properties.get("xds.cluster_name").cloned();
        let wanted = self.vm.adapter.plan().properties().iter();
        let properties: Vec<_> =
            wanted.map(|path| self.vm.setup.properties.get(&path.join(".")).cloned()).collect();
        self.feed(
            id,
            Event::RequestHeaders(RequestHead {
                headers: optimizer_core::headers::Headers::new(&fields),
                truncated: false,
                upstream: upstream.as_deref(),
                properties: &properties,
                end_of_stream: end,
            }),
        );
        id
    }

    fn request_body(&mut self, id: Id, piece: &[u8], end: bool) {
        self.piece(id, Side::Request, piece, end, None);
    }

    fn request_trailers(&mut self, id: Id, trailers: &Headers) {
        self.piece(id, Side::Request, b"", false, Some(trailers));
    }

    fn client_gone(&mut self, id: Id) {
        self.calls[id].cut = true;
        self.close(id);
    }

    fn response(&mut self, id: Id, headers: &Headers, end: bool) {
        self.answer_headers(id, headers, end, true);
    }

    fn response_body(&mut self, id: Id, piece: &[u8], end: bool) {
        self.piece(id, Side::Response, piece, end, None);
    }

    fn response_trailers(&mut self, id: Id, trailers: &Headers) {
        self.piece(id, Side::Response, b"", false, Some(trailers));
    }

    fn provider_reset(&mut self, id: Id) {
        match self.calls[id].response.headers.is_empty() {
            true => self.local_answer(id, 503),
            false => self.client_gone(id),
        }
    }

    fn local_answer(&mut self, id: Id, status: u16) {
        let mut headers = Headers::from([("content-type", "text/plain"), ("content-length", "5")]);
        headers.add(":status", status.to_string().as_bytes());
        self.answer_locally(id, headers, b"local");
    }

    fn optimizer_dies(&mut self) {
        self.vm.setup.optimizer_is_healthy = false;
    }

    fn reroute(&mut self, upstream: &str) {
        let properties = &mut self.vm.setup.properties;
        properties.insert("xds.cluster_name".to_owned(), upstream.as_bytes().to_vec());
    }

    fn is(&self) -> Host {
        self.vm.adapter.plan().host()
    }

    fn callouts(&self) -> &[Callout] {
        &self.vm.callouts
    }

    fn answer(&mut self, callout: u32, answer: Answer) {
        let index = callout as usize - 1;
        match (&answer, self.vm.callouts[index].deadline()) {
            (Answer::Timeout, Some(deadline)) => {
                let wait = deadline.saturating_sub(self.vm.now);
                self.advance(wait);
            }
            _ => self.deliver(index, answer),
        }
    }

    fn advance(&mut self, time: Duration) {
        let target = self.vm.now + time;
        loop {
            let overdue = self.vm.overdue();
            let next = self.tick.into_iter().chain(overdue.map(|(due, _)| due)).min();
            let Some(due) = next.filter(|due| *due <= target) else {
                self.vm.now = target;
                return;
            };
            self.vm.now = due;
            match overdue {
                Some((deadline, index)) if deadline == due => self.deliver(index, Answer::Timeout),
                _ => self.tick(),
            }
        }
    }

    fn provider_got(&self, id: Id) -> &Message {
        &self.calls[id].request.out
    }

    fn client_got(&self, id: Id) -> &Message {
        &self.calls[id].response.out
    }

    fn was_cut(&self, id: Id) -> bool {
        self.calls[id].cut
    }

    fn annotation(&self, id: Id, name: &str) -> Option<String> {
        self.calls[id].annotations.get(name).cloned()
    }

    fn logs(&self) -> Vec<String> {
        self.vm.logs.clone()
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        self.vm.counters()
    }

    fn samples(&self, name: &str) -> Vec<u64> {
        self.vm.samples(name)
    }
}
