//! The breaker: a failing optimizer is left alone, by every call and every worker.

use std::time::Duration;

use integration::{Answer, SharedData};

use crate::proxy::{OPTIMIZER, Proxy, Setup, on_every_host};
use crate::script::{Script, assert_outcome};

/// How long the breaker stays open unless configured.
const OPEN: Duration = Duration::from_secs(10);
/// Long enough for a tick.
const TICK: Duration = Duration::from_millis(25);
/// After so long a worker looks at what others know.
const SYNC: Duration = Duration::from_millis(100);

/// Two failures in a row open it; one hook asks.
fn setup() -> Setup {
    Setup::default().with("hooks.response", false).with("breaker.failures", 2)
}

fn transitions(proxy: &dyn Proxy) -> [u64; 4] {
    ["opened", "probing", "reopened", "closed"].map(|transition| {
        let name = format!("optimizer_breaker_transitions.transition.{transition}");
        proxy.counters().get(&name).copied().unwrap_or(0)
    })
}

/// Whether the gauge says that it is open.
fn is_open(proxy: &dyn Proxy) -> bool {
    proxy.counters().contains_key("optimizer_breaker_open")
}

fn fail(proxy: &mut dyn Proxy, times: usize) {
    for _ in 0..times {
        assert_eq!(Script::chat().play(proxy).outcome, "bypassed:optimizer_unreachable");
    }
}

on_every_host! {
    fn it_opens_probes_reopens_and_closes(start) {
        let mut proxy = start(setup()).unwrap();
        fail(&mut *proxy, 2);
        assert!(is_open(&*proxy));
        assert_eq!(transitions(&*proxy), [1, 0, 0, 0]);
        assert_eq!(Script::chat().play(&mut *proxy).outcome, "bypassed:breaker_open");
        proxy.advance(OPEN);
        fail(&mut *proxy, 1);
        assert!(is_open(&*proxy));
        assert_eq!(transitions(&*proxy), [1, 1, 1, 0]);
        assert_eq!(Script::chat().play(&mut *proxy).outcome, "bypassed:breaker_open");
        proxy.advance(OPEN);
        assert_eq!(Script::chat().unchanged().play(&mut *proxy).outcome, "unchanged");
        assert!(!is_open(&*proxy));
        assert_eq!(transitions(&*proxy), [1, 2, 1, 1]);
        fail(&mut *proxy, 1);
        assert_eq!(transitions(&*proxy), [1, 2, 1, 1], "failures are counted anew");
        let told = |text| proxy.logs().iter().filter(|line| line.contains(text)).count();
        assert_eq!([told("keeps failing"), told("answers again")], [1, 1]);
    }

    fn requests_that_wait_are_let_go(start) {
        let mut proxy = start(setup()).unwrap();
        let script = Script::chat().transform(r#"{"max_tokens":3}"#);
        let ids = [(); 4].map(|()| script.send(&mut *proxy));
        let callouts: Vec<_> = proxy.pending().iter().map(|callout| callout.id).collect();
        for &callout in &callouts[..2] {
            proxy.answer(callout, Answer::Refused);
        }
        proxy.advance(TICK);
        if !proxy.can().let_go_any_time {
            for (id, &callout) in ids[2..].iter().zip(&callouts[2..]) {
                assert!(proxy.provider_got(*id).headers.is_none(), "its callout alone can end its wait");
                proxy.answer(callout, Answer::json(200, r#"{"request":{"max_tokens":3}}"#));
                assert!(proxy.provider_got(*id).text().contains("max_tokens"));
            }
            return;
        }
        for id in &ids[2..] {
            assert!(proxy.provider_got(*id).complete, "still held");
            assert_eq!(proxy.provider_got(*id).text(), script.body());
            assert_outcome(&*proxy, *id, "bypassed:breaker_open");
        }
        assert_eq!(proxy.counters()["optimizer_callouts.kind.optimize.result.abandoned"], 2);
        for &callout in &callouts[2..] {
            proxy.answer(callout, Answer::json(200, r#"{"request":{"max_tokens":3}}"#));
        }
        assert_eq!(transitions(&*proxy), [1, 0, 0, 0], "nobody listens to those any more");
        for id in ids {
            script.provide(&mut *proxy, id);
            assert!(proxy.client_got(id).complete);
        }
    }

    fn answers_that_wait_are_let_go(start) {
        let setup = setup().large_buffers().with("hooks.response", true).with("hooks.stream_response", true);
        let mut proxy = start(setup).unwrap();
        let waiting = [Script::chat().unchanged(), Script::recorded("chat_text").unchanged()];
        let ids = waiting.each_ref().map(|script| {
            let id = script.send(&mut *proxy);
            script.answer_callouts(&mut *proxy);
            id
        });
        for (id, script) in ids.into_iter().zip(&waiting) {
            script.provide(&mut *proxy, id);
            assert_eq!(proxy.client_got(id).headers.is_none(), proxy.can().hold_response, "it waits");
        }
        if !proxy.can().hold_response {
            assert!(proxy.pending().is_empty());
            return;
        }
        let late = proxy.pending();
        assert_eq!(late.len(), 2);
        let failing = [(); 2].map(|()| Script::chat().send(&mut *proxy));
        for callout in proxy.pending().iter().skip(2) {
            proxy.answer(callout.id, Answer::Refused);
        }
        proxy.advance(TICK);
        for (id, script) in ids.into_iter().zip(&waiting) {
            assert!(proxy.client_got(id).complete, "still held");
            assert_eq!(proxy.client_got(id).body(), script.provider.pieces.concat());
            assert_eq!(proxy.annotation(id, "optimizer_response").unwrap(), "bypassed:breaker_open");
        }
        for callout in late {
            proxy.answer(callout.id, Answer::json(200, r#"{"response":{"id":"2"},"decisions":[{"kind":"k"}]}"#));
        }
        assert!(failing.iter().all(|id| proxy.provider_got(*id).complete));
    }

    fn a_probe_is_waited_for(start) {
        let mut proxy = start(setup()).unwrap();
        fail(&mut *proxy, 2);
        proxy.advance(OPEN);
        let script = Script::chat().transform(r#"{"max_tokens":3}"#);
        let probe = script.send(&mut *proxy);
        let other = script.send(&mut *proxy);
        assert_outcome(&*proxy, other, "bypassed:breaker_open");
        proxy.advance(TICK);
        assert!(proxy.provider_got(probe).headers.is_none());
        script.answer_callouts(&mut *proxy);
        assert!(proxy.provider_got(probe).text().contains("max_tokens"));
        assert!(!is_open(&*proxy));
    }

    fn workers_share_it(start) {
        let shared = SharedData::default();
        let worker = || Setup { shared_data: shared.clone(), ..setup() };
        let (mut one, mut two) = (start(worker()).unwrap(), start(worker()).unwrap());
        let up = Script::chat().unchanged();
        assert_eq!(up.play(&mut *two).outcome, "unchanged");
        let waiting = up.send(&mut *two);
        fail(&mut *one, 2);
        for proxy in [&mut one, &mut two] {
            proxy.advance(SYNC);
        }
        let bypassed = up.send(&mut *two);
        if !two.can().shared_data {
            up.answer_callouts(&mut *two);
            assert!(two.provider_got(bypassed).complete);
            assert!(!is_open(&*two), "each worker finds out by itself");
            return;
        }
        assert_outcome(&*two, bypassed, "bypassed:breaker_open");
        two.advance(TICK);
        assert!(two.provider_got(waiting).complete, "what waits there is let go too");
        assert_eq!(transitions(&*two), [0; 4], "each transition is counted once");

        for proxy in [&mut one, &mut two] {
            proxy.advance(OPEN);
        }
        assert_eq!(up.play(&mut *one).outcome, "unchanged");
        assert!(!is_open(&*one));
        two.advance(SYNC);
        assert_eq!(up.play(&mut *two).outcome, "unchanged");

        let elsewhere = worker().with("optimizer.authority", "other");
        fail(&mut *one, 2);
        assert_eq!(up.play(&mut *start(elsewhere).unwrap()).outcome, "unchanged", "another optimizer");
    }

    fn what_others_share_is_not_trusted_blindly(start) {
        let shared = SharedData::default();
        let worker = || Setup { shared_data: shared.clone(), ..setup() };
        fail(&mut *start(worker()).unwrap(), 2);
        let mut other = start(worker()).unwrap();
        if other.can().shared_data {
            assert_eq!(Script::chat().play(&mut *other).outcome, "bypassed:breaker_open");
        } else {
            fail(&mut *other, 1);
        }
        for value in [&b""[..], b"x", &[0xff; 16], &[0xff; 4096]] {
            let key = format!("optimizer.breaker.{OPTIMIZER}/{OPTIMIZER}");
            shared.set(key.into_bytes(), value.to_vec(), 0).unwrap();
            let seen = Script::chat().unchanged().play(&mut *start(worker()).unwrap());
            assert_eq!(seen.outcome, "unchanged", "{value:?}");
        }
    }
}
