//! What must hold of an exchange.

use std::time::Duration;

use optimizer_core::callout::Callout;
use optimizer_core::effect::{Flow, Side};
use optimizer_core::json::Object;

use super::lane::Lane;
use super::{Proof, Proxy, TOKEN};
use crate::script::Fields;

/// The headers that the core may change in a request, and in an answer.
const OURS_IN_REQUESTS: [&[u8]; 2] = [b"content-length", b"accept-encoding"];
const OURS_IN_ANSWERS: [&[u8]; 7] = [
    b"x-anyray-optimization",
    b"content-length",
    b"etag",
    b"content-digest",
    b"digest",
    b"content-md5",
    b"repr-digest",
];

impl Proxy {
    /// Nothing is held for nothing: who holds a whole message waits for a callout.
    pub(super) fn check_held(&self) {
        for (index, stream) in self.streams.iter().enumerate() {
            let waits = || self.waiting.iter().any(|waiting| waiting.stream == Some(index));
            let held = |lane: &Lane| lane.flow == Flow::Hold && lane.begun && lane.shown;
            if !stream.over && !stream.answered {
                assert!(!held(&stream.request) || waits(), "a request held for nothing");
            }
            assert!(
                stream.over || !held(&stream.response) || waits(),
                "an answer held for nothing"
            );
        }
    }

    /// Both bodies came to their end and every callout to its outcome.
    pub(super) fn check_done(&self, stream: usize) {
        let stream = &self.streams[stream];
        if stream.over {
            return;
        }
        assert!(stream.answered || stream.request.complete, "a request held for ever");
        assert!(!stream.response.begun || stream.response.complete, "an answer held for ever");
    }

    /// What went on is what came, unless somebody said otherwise.
    pub(super) fn check_passed(&self, index: usize) {
        let stream = &self.streams[index];
        let said = |name| stream.annotations.get(name).map(String::as_str);
        let annotates = self.adapter.plan().can().annotate;
        for (lane, ours, note) in [
            (&stream.request, &OURS_IN_REQUESTS[..], "optimizer_outcome"),
            (&stream.response, &OURS_IN_ANSWERS[..], "optimizer_response"),
        ] {
            if annotates {
                assert_eq!(lane.replaced, said(note) == Some("transformed"), "{note}");
            }
            if !lane.replaced {
                assert!(lane.original.starts_with(&lane.passed), "bytes changed");
                assert!(!lane.complete || lane.original == lane.passed, "bytes lost");
            }
            let Some(out) = &lane.out else { continue };
            let changed_by_us = |name: &[u8]| {
                let ours = ours.iter().any(|ours| name.eq_ignore_ascii_case(ours));
                ours || name.to_ascii_lowercase().starts_with(b"x-anyray-")
            };
            let others = |fields: &Fields| -> Fields {
                fields.iter().filter(|(name, _)| !changed_by_us(name)).cloned().collect()
            };
            assert_eq!(others(out), others(&lane.original_headers), "headers changed");
        }
        let to_provider = stream.request.out.iter().flatten();
        for (name, value) in to_provider {
            let text = String::from_utf8_lossy(value);
            // A name that is not UTF-8 cannot be taken out.
            let ours = name.to_ascii_lowercase().starts_with(b"x-anyray-");
            assert!(!ours || std::str::from_utf8(name).is_err(), "x-anyray-* to the provider");
            let by_client = stream.request.original_headers.iter().any(|(_, v)| v == value);
            assert!(by_client || !text.contains(TOKEN), "the optimizer's token to the provider");
        }
    }

    /// A new body is made of members of the old one and members of the optimizer's.
    pub(super) fn check_replaced(&mut self, index: usize, side: Side) {
        let advice = self.streams[index].advice.clone();
        let lane = self.lane(index, side);
        let name = if side == Side::Request { "request" } else { "response" };
        // A stream is told anew event by event.
        let Ok(new) = Object::parse(&lane.held) else {
            assert!(side == Side::Response, "no object to the provider");
            return;
        };
        let old = Object::parse(&lane.original).expect("an object before");
        let advice = Object::parse(&advice).expect("an object of the optimizer");
        let advice = advice.get(name).expect("advice");
        let advice = Object::parse(advice.as_bytes()).expect("advice that is an object");
        for member in new.members() {
            let known = [&old, &advice].iter().any(|o| o.get(&member.name) == Some(member.value));
            assert!(known, "{} of nobody", member.name);
        }
    }

    /// What the provider's status says about the caller's credentials.
    pub(super) fn learn(&mut self, index: usize, status: &[u8]) {
        let outcome = self.streams[index].annotations.get("optimizer_outcome");
        let is_json_post = outcome.is_some_and(|outcome| {
            !matches!(&**outcome, "bypassed:method" | "bypassed:request_content_type")
        });
        let proof = self.proof(index);
        match status {
            [b'2', _, _] => {
                self.proven.insert(proof, self.now);
            }
            b"401" | b"403" if is_json_post => {
                self.proven.remove(&proof);
            }
            _ => {}
        }
    }

    fn proof(&self, stream: usize) -> Proof {
        let stream = &self.streams[stream];
        let endpoint = stream.dialect.map(|dialect| dialect.endpoint());
        (endpoint, stream.upstream.clone(), stream.credentials.clone())
    }

    /// A hit goes to those only who may have it.
    pub(super) fn check_served(&mut self, index: usize) {
        assert!(self.streams[index].request.out.is_none(), "served after the provider was asked");
        assert!(!std::mem::replace(&mut self.streams[index].served, true), "served twice");
        if matches!(self.config["cache"]["serve"].as_str(), Some("anyone" | "authenticated")) {
            return;
        }
        let lasts = self.config["cache"]["proof_seconds"].as_u64().unwrap_or(300);
        let proven = self.proven.get(&self.proof(index));
        let fresh = proven.is_some_and(|at| self.now - *at < Duration::from_secs(lasts));
        assert!(fresh, "a hit for credentials that nobody proved");
    }

    /// What goes to the optimizer.
    pub(super) fn check_callout(&self, stream: Option<usize>, callout: &Callout) {
        serde_json::from_slice::<&serde_json::value::RawValue>(&callout.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", callout.body));
        for (name, value) in &callout.headers {
            let valid = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
            assert!(value.bytes().all(valid), "{name}: {value:?}");
            let expected = self.adapter.plan().upstream();
            assert!(!expected.is_empty() && !matches!(*name, "x-api-key" | "api-key" | "cookie"));
            if *name == "authorization" {
                let token = self.config["optimizer"]["token"].as_str().unwrap_or(TOKEN);
                assert_eq!(*value, format!("Bearer {token}"));
            }
        }
        if let Some(index) = stream {
            let others = self.waiting.iter().any(|waiting| waiting.stream == Some(index));
            assert!(!others, "two callouts of one exchange");
        }
    }

    /// Each exchange is counted once.
    pub(super) fn check_counts(&self) {
        let counted = |family: &str| -> u64 {
            let all = self.report.measured.iter();
            all.filter(|(name, _)| name.starts_with(family)).map(|(_, counts)| counts[0]).sum()
        };
        let exchanges = self.streams.iter().filter(|stream| stream.dialect.is_some()).count();
        assert_eq!(counted("optimizer_exchanges."), exchanges as u64);
        assert!(counted("optimizer_responses.") <= exchanges as u64);
        assert!(counted("optimizer_records.") <= 2 * exchanges as u64);
        let served = self.streams.iter().filter(|stream| stream.served).count();
        assert_eq!(counted("optimizer_exchanges.outcome.hit."), served as u64);
    }
}
