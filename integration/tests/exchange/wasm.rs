//! The built module in the Proxy-Wasm harness, as Envoy would run it.

use std::collections::BTreeMap;
use std::time::Duration;

use integration::{Answer, Callout, Headers, HostBuilder, Message, StreamId};
use optimizer_core::host::Host;

use crate::proxy::{Id, OPTIMIZER, Proxy, Setup};
use crate::script::{Before, Script, recorded, write_backs};

struct Wasm {
    host: integration::Host,
    /// As which the module found it out.
    is: Host,
    streams: Vec<StreamId>,
}

/// Starts the module; a trap anywhere fails the test.
pub fn start(setup: Setup) -> Result<Box<dyn Proxy>, String> {
    let builder = integration::Host::builder()
        .allow_on_headers_stop_iteration(setup.shows_held_bodies)
        .shared_data(setup.shared_data.clone());
    start_in(builder, setup, Host::Envoy)
}

/// The same as Kong's runtime would run it, behind a Lua step that prepares bodies.
pub fn start_on_kong(setup: Setup) -> Result<Box<dyn Proxy>, String> {
    let builder = integration::Host::kong().lua(setup.lua);
    start_in(builder, setup.on_kong(), Host::Kong)
}

fn start_in(builder: HostBuilder, setup: Setup, is: Host) -> Result<Box<dyn Proxy>, String> {
    let mut builder = builder.config(setup.config.to_string()).buffer_limit(setup.buffer_limit);
    builder = match setup.optimizer_is_healthy {
        true => builder.cluster(OPTIMIZER),
        false => builder.dead_cluster(OPTIMIZER),
    };
    for (name, value) in &setup.env {
        builder = builder.env(name, value);
    }
    for (path, value) in setup.properties {
        builder = builder.property(&path, value);
    }
    let host = builder.start().map_err(|error| error.to_string())?;
    Ok(Box::new(Wasm { host, is, streams: Vec::new() }))
}

impl Wasm {
    fn checked(&mut self) -> &mut integration::Host {
        if let Some(trap) = self.host.trap() {
            panic!("the module trapped: {trap}\n{:#?}", self.host.logs());
        }
        &mut self.host
    }
}

impl Drop for Wasm {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.checked();
        }
    }
}

impl Proxy for Wasm {
    fn request(&mut self, headers: &Headers, end: bool) -> Id {
        let stream = self.checked().request(headers.clone(), end);
        self.streams.push(stream);
        self.streams.len() - 1
    }

    fn request_body(&mut self, id: Id, piece: &[u8], end: bool) {
        let stream = self.streams[id];
        self.checked().request_body(stream, piece, end);
    }

    fn request_trailers(&mut self, id: Id, trailers: &Headers) {
        let stream = self.streams[id];
        self.checked().request_trailers(stream, trailers.clone());
    }

    fn client_gone(&mut self, id: Id) {
        let stream = self.streams[id];
        self.checked().client_gone(stream);
    }

    fn response(&mut self, id: Id, headers: &Headers, end: bool) {
        let stream = self.streams[id];
        self.checked().response(stream, headers.clone(), end);
    }

    fn response_body(&mut self, id: Id, piece: &[u8], end: bool) {
        let stream = self.streams[id];
        self.checked().response_body(stream, piece, end);
    }

    fn response_trailers(&mut self, id: Id, trailers: &Headers) {
        let stream = self.streams[id];
        self.checked().response_trailers(stream, trailers.clone());
    }

    fn provider_reset(&mut self, id: Id) {
        let stream = self.streams[id];
        self.checked().upstream_reset(stream);
    }

    fn local_answer(&mut self, id: Id, status: u16) {
        let stream = self.streams[id];
        self.checked().local_reply(stream, status, "other_filter", "local");
    }

    fn optimizer_dies(&mut self) {
        self.checked().set_healthy(OPTIMIZER, false);
    }

    fn reroute(&mut self, upstream: &str) {
        let name = if self.is == Host::Kong { "kong.service_id" } else { "xds.cluster_name" };
        self.checked().set_property(name, upstream);
    }

    fn is(&self) -> Host {
        self.is
    }

    fn callouts(&self) -> &[Callout] {
        self.host.callouts()
    }

    fn answer(&mut self, callout: u32, answer: Answer) {
        self.checked().answer(callout, answer);
    }

    fn advance(&mut self, time: Duration) {
        self.checked().advance(time);
    }

    fn provider_got(&self, id: Id) -> &Message {
        self.host.upstream(self.streams[id])
    }

    fn client_got(&self, id: Id) -> &Message {
        self.host.client(self.streams[id])
    }

    fn was_cut(&self, id: Id) -> bool {
        self.host.was_cut(self.streams[id])
    }

    fn annotation(&self, id: Id, name: &str) -> Option<String> {
        self.host.filter_state(self.streams[id], name)
    }

    fn logs(&self) -> Vec<String> {
        self.host.logs().iter().map(|line| line.text.clone()).collect()
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        self.host.metrics().nonzero()
    }

    fn samples(&self, name: &str) -> Vec<u64> {
        self.host.metrics().samples(name).to_vec()
    }
}

#[test]
fn memory_does_not_grow_with_the_number_of_calls() {
    let body = format!(r#"{{"model":"m","messages":[],"x":"{}"}}"#, "x".repeat(1 << 20));
    let call = Script::chat_with(&body).provider_body(&body).eligible().review(r#"{"id":"2"}"#);
    assert_memory_is_steady(Setup::default().large_buffers(), 30, |proxy| {
        assert_eq!(call.play(proxy).response, "transformed");
        assert_eq!(write_backs(proxy).len(), 1);
    });
}

#[test]
fn memory_does_not_grow_with_the_number_of_streams() {
    let long = format!(": {}\n\n", "x".repeat(1000)).repeat(1000);
    let long = [long.as_bytes(), &recorded("chat_text")].concat();
    let long = Script::recorded("chat_text").streams(long).in_pieces_of(10_000);
    let names = ["chat_text", "completions_text", "responses_text", "anthropic_text"];
    let short = names.map(|name| Script::recorded(name).in_pieces_of(100));
    for held in [false, true] {
        let setup = Setup::default()
            .large_buffers()
            .with("hooks.stream_response", held)
            .with("hooks.record", true)
            .with("record.content", true);
        assert_memory_is_steady(setup, 40, |proxy| {
            let outcome = if held { "transformed" } else { "bypassed:response_stream" };
            for call in short.iter().chain([&long]) {
                let call = call.clone().eligible().review(r#"{"id":"2"}"#);
                assert_eq!(call.play(proxy).response, outcome);
                let id = call.send(proxy);
                call.answer_callouts(proxy);
                proxy.response(id, &call.provider.headers, false);
                proxy.response_body(id, &call.provider.pieces[0], false);
                proxy.client_gone(id);
            }
            assert_eq!(write_backs(proxy).len(), 5);
        });
    }
}

#[test]
fn an_answer_that_is_only_read_is_through_before_anything_is_made_of_it() {
    let setup = Setup::default();
    let mut proxy = wasm_on_envoy(&setup);
    let call = Script::recorded("chat_text").eligible().in_pieces_of(100);
    let id = call.send(&mut proxy);
    call.answer_callouts(&mut proxy);
    proxy.advance(Duration::from_secs(1));
    let before = proxy.host.usage().host_calls.clone();
    proxy.response(id, &call.provider.headers, false);
    proxy.response_body(id, &call.provider.pieces[0], false);
    let after = &proxy.host.usage().host_calls;
    let since = after.iter().filter(|&(name, count)| before.get(name) != Some(count));
    let expected = [
        "proxy_get_buffer_bytes",
        "proxy_get_current_time_nanoseconds",
        "proxy_get_header_map_pairs",
        "proxy_get_property",
    ];
    assert_eq!(since.map(|(&name, _)| name).collect::<Vec<_>>(), expected);

    proxy.advance(Duration::from_secs(5));
    for (index, piece) in call.provider.pieces.iter().enumerate().skip(1) {
        proxy.response_body(id, piece, index + 1 == call.provider.pieces.len());
    }
    let first_token = "gen_ai_server_time_to_first_token_us.operation.chat";
    assert_eq!(proxy.host.metrics().samples(first_token), [1_000_000], "when it came");
    let tokens = "gen_ai_client_token_usage.operation.chat.type.output";
    assert_eq!(proxy.host.metrics().samples(tokens).len(), 1);
}

#[test]
fn the_upstream_is_asked_for_again_where_a_proof_depends_on_it() {
    for (serve, asked) in [("proven", 3), ("anyone", 2)] {
        let mut setup = Setup::default();
        setup.config["cache"]["serve"] = serve.into();
        let mut proxy = wasm_on_envoy(&setup);
        let before = properties_read(&proxy);
        Script::recorded("chat_text").play(&mut proxy);
        assert_eq!(properties_read(&proxy) - before, asked, "{serve}");
    }
}

fn properties_read(proxy: &Wasm) -> u64 {
    proxy.host.usage().host_calls.get("proxy_get_property").copied().unwrap_or(0)
}

#[test]
fn a_body_that_the_host_does_not_show_goes_on_untouched() {
    let large = format!(r#"{{"model":"m","messages":[],"user":"{}"}}"#, "u".repeat(20_000));
    let shorter = r#"{"model":"m","messages":[]}"#;
    for call in [Script::chat(), Script::chat_with(large).transform(shorter)] {
        let is_shown_once = !call.answers.is_empty();
        let mut proxy = wasm_on_envoy(&Setup::default());
        let before = Before::of(&proxy);
        proxy.host.show_bodies(is_shown_once);
        let id = call.send(&mut proxy);
        assert_eq!(proxy.pending().len(), usize::from(is_shown_once));
        proxy.host.show_bodies(false);
        call.answer_callouts(&mut proxy);
        proxy.host.show_bodies(true);
        call.provide(&mut proxy, id);
        let seen = before.seen(&proxy, id);
        assert_eq!(seen.outcome, "bypassed:request_unreadable");
        seen.assert_untouched(&call);
    }
}

#[test]
fn a_large_body_is_not_read_again_where_nothing_can_become_of_it() {
    let large = format!(r#"{{"model":"m","messages":[],"user":"{}"}}"#, "u".repeat(20_000));
    let call = Script::chat_with(large);
    let read = |answer: Answer| {
        let mut proxy = wasm_on_envoy(&Setup::default());
        call.send(&mut proxy);
        let before = proxy.host.usage().bytes_in;
        let call = call.clone().on("/v1/optimize", answer);
        call.answer_callouts(&mut proxy);
        proxy.host.usage().bytes_in - before > 20_000
    };
    assert!(read(Answer::json(200, r#"{"request":{}}"#)));
    assert!(!read(Answer::Refused));
    assert!(!read(Answer::json(500, r#"{"request":{}}"#)));
}

#[test]
fn an_answer_that_the_host_does_not_show_goes_on_untouched() {
    let reviewed = Script::chat().unchanged().eligible().review(r#"{"id":"2"}"#);
    for (call, hidden) in [(reviewed, 0), (Script::recorded("chat_text").eligible(), 1)] {
        let call = call.in_pieces_of(100);
        let mut proxy = wasm_on_envoy(&Setup::default());
        let before = Before::of(&proxy);
        let id = call.send(&mut proxy);
        call.answer_callouts(&mut proxy);
        proxy.response(id, &call.provider.headers, false);
        let last = call.provider.pieces.len() - 1;
        for (index, piece) in call.provider.pieces.iter().enumerate() {
            proxy.host.show_bodies(index != hidden && hidden != 0);
            proxy.response_body(id, piece, index == last);
        }
        let seen = before.seen(&proxy, id);
        seen.assert_untouched_answer(&call);
        let unwritten = "optimizer_write_backs.outcome.bypassed.reason.response_unreadable";
        assert_eq!(seen.counted.get(unwritten), Some(&1), "{:?}", seen.counted);
    }
}

#[test]
fn who_leaves_an_answer_before_anything_is_made_of_it_is_counted() {
    let mut proxy = wasm_on_envoy(&Setup::default());
    let call = Script::recorded("chat_text").eligible().in_pieces_of(100);
    let id = call.send(&mut proxy);
    call.answer_callouts(&mut proxy);
    proxy.response(id, &call.provider.headers, false);
    proxy.client_gone(id);
    let incomplete = "optimizer_answers.outcome.bypassed.reason.stream_incomplete";
    assert_eq!(proxy.host.metrics().value(incomplete), 1);
    let streams = "optimizer_responses.outcome.bypassed.reason.response_stream";
    assert_eq!(proxy.host.metrics().value(streams), 1);
}

fn wasm_on_envoy(setup: &Setup) -> Wasm {
    let builder = integration::Host::builder().config(setup.config.to_string()).cluster(OPTIMIZER);
    let host = builder.buffer_limit(setup.buffer_limit).start().unwrap();
    Wasm { host, is: Host::Envoy, streams: Vec::new() }
}

/// Plays so many rounds, and wants the VM to need no more memory than after a few of them.
fn assert_memory_is_steady(setup: Setup, rounds: usize, mut round: impl FnMut(&mut dyn Proxy)) {
    let mut proxy = wasm_on_envoy(&setup);
    let mut sizes = Vec::new();
    for _ in 0..rounds {
        round(&mut proxy);
        sizes.push(proxy.host.memory_size());
    }
    assert_eq!(sizes[10], sizes[rounds - 1], "{sizes:?}");
}
