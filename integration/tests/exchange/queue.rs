//! What waits for the optimizer is bounded: in number, in bytes, and by the breaker.

use std::time::Duration;

use integration::Answer;
use optimizer_core::bypass::Bypass;
use serde_json::json;

use crate::proxy::{Setup, on_every_host};
use crate::reasons::{counted, large, quiet, sized};
use crate::script::{Script, recorded, records, write_backs};

/// A write-back and a record of each call.
fn both() -> Setup {
    quiet().with("hooks.record", true)
}

/// A stream of at least so many bytes.
fn padded(bytes: usize) -> Vec<u8> {
    [format!(": {}\n\n", "x".repeat(bytes)).as_bytes(), &recorded("chat_text")].concat()
}

on_every_host! {
    fn the_oldest_records_go_first_and_are_counted(start) {
        let mut proxy = start(quiet().with("hooks.record", true)).unwrap();
        for id in 0..300 {
            Script::chat().header("x-request-id", format!("r-{id}")).unchanged().play(&mut *proxy);
        }
        assert_eq!(counted(&*proxy, "records", Bypass::QueueFull), 44);
        assert_eq!(proxy.counters()["optimizer_records.outcome.queued.reason.none"], 300);
        let records = records(&mut *proxy);
        let ids: Vec<_> = records.iter().map(|record| record["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids, (44..300).map(|id| format!("r-{id}")).collect::<Vec<_>>());
    }

    fn records_and_write_backs_share_the_queue(start) {
        let mut proxy = start(both()).unwrap();
        for _ in 0..150 {
            Script::recorded("anthropic_text").eligible().play(&mut *proxy);
        }
        assert_eq!(counted(&*proxy, "records", Bypass::QueueFull), 22);
        assert_eq!(counted(&*proxy, "write_backs", Bypass::QueueFull), 22);
        write_backs(&mut *proxy);
        assert_eq!(proxy.counters()["optimizer_callouts.kind.record.result.ok"], 128);
        assert_eq!(proxy.counters()["optimizer_callouts.kind.cache.result.ok"], 128);
    }

    fn what_waits_counts_against_the_budget(start) {
        let setup = both().with("record.content", true).with("limits.total_bytes", 1 << 20);
        let mut proxy = start(setup).unwrap();
        let script = Script::chat_with(sized(200_000)).eligible();
        for _ in 0..2 {
            assert_eq!(script.play(&mut *proxy).outcome, "unchanged");
        }
        // 800,000 bytes wait by now, and the request itself is kept for its record.
        let seen = script.play(&mut *proxy);
        seen.assert_untouched(&script);
        assert_eq!(counted(&*proxy, "records", Bypass::OverTotalBytes), 1, "{:?}", proxy.counters());
        let more = script.play(&mut *proxy);
        more.assert_untouched(&script);
        assert_eq!(more.outcome, "bypassed:over_total_bytes");
        assert_eq!(records(&mut *proxy).len(), 2 + 1, "calls without their bodies are still recorded");
        for _ in 0..10 {
            assert_eq!(script.play(&mut *proxy).outcome, "unchanged", "the budget is free again");
            assert_eq!(records(&mut *proxy).len(), 1);
        }
    }

    fn copies_of_streams_count_against_the_budget(start) {
        let setup = Setup::default().with("limits.total_bytes", 1 << 20);
        let mut proxy = start(setup).unwrap();
        let stream = padded(700_000);
        let script = Script::recorded("chat_text").eligible();
        let ids = [(); 2].map(|()| {
            let id = script.send(&mut *proxy);
            script.answer_callouts(&mut *proxy);
            proxy.response(id, &script.provider.headers, false);
            id
        });
        for piece in stream.chunks(50_000) {
            for id in ids {
                proxy.response_body(id, piece, false);
            }
        }
        for id in ids {
            proxy.response_body(id, b"", true);
            assert!(proxy.client_got(id).body() == stream, "the stream itself is never touched");
        }
        assert_eq!(counted(&*proxy, "write_backs", Bypass::OverTotalBytes), 1, "one copy was dropped");
        assert_eq!(write_backs(&mut *proxy).len(), 1);
        for _ in 0..5 {
            script.clone().streams(&stream).play(&mut *proxy);
            assert_eq!(write_backs(&mut *proxy).len(), 1, "the budget is free again");
        }
    }

    fn a_dropped_copy_is_given_back_while_the_stream_goes_on(start) {
        for (setup, reason) in [
            (quiet().with("limits.total_bytes", 1 << 20), Bypass::OverTotalBytes),
            (quiet().with("limits.total_bytes", 1 << 20).with("limits.response_bytes", 900_000), Bypass::ResponseTooLarge),
        ] {
            let mut proxy = start(setup).unwrap();
            let script = Script::recorded("chat_text").unchanged();
            let id = script.send(&mut *proxy);
            script.answer_callouts(&mut *proxy);
            proxy.response(id, &script.provider.headers, false);
            for _ in 0..30 {
                proxy.response_body(id, format!(": {}\n\n", "x".repeat(50_000)).as_bytes(), false);
            }
            let other = Script::chat_with(sized(700_000)).unchanged();
            assert_eq!(other.play(&mut *proxy).outcome, "unchanged", "{} still holds its copy", reason.name());
            proxy.response_body(id, b"", true);
            let name = format!("optimizer_answers.outcome.bypassed.reason.{}", reason.name());
            assert_eq!(proxy.counters().get(&name), Some(&1));
        }
    }

    fn streams_that_end_in_any_way_give_their_budget_back(start) {
        let held = large().with("hooks.stream_response", true).with("limits.total_bytes", 2 << 20);
        let stream = padded(900_000);
        for setup in [held.clone(), held.with("hooks.stream_response", false)] {
            let mut proxy = start(setup).unwrap();
            let script = Script::recorded("chat_text").eligible().review(r#"{"id":"other"}"#).streams(&stream);
            for _ in 0..6 {
                let id = script.send(&mut *proxy);
                script.answer_callouts(&mut *proxy);
                proxy.response(id, &script.provider.headers, false);
                proxy.response_body(id, &stream, false);
                proxy.client_gone(id);
                let id = script.send(&mut *proxy);
                script.answer_callouts(&mut *proxy);
                proxy.response(id, &script.provider.headers, false);
                proxy.response_body(id, &stream, true);
                proxy.client_gone(id);
                script.clone().streams(recorded("chat_error")).play(&mut *proxy);
                write_backs(&mut *proxy);
            }
            script.play(&mut *proxy);
            assert_eq!(write_backs(&mut *proxy).len(), 1, "{:?}", proxy.counters());
        }
    }

    fn nothing_is_queued_while_the_breaker_is_open(start) {
        let mut proxy = start(both().with("breaker.failures", 1)).unwrap();
        Script::chat().play(&mut *proxy);
        Script::chat().eligible().play(&mut *proxy);
        assert_eq!(counted(&*proxy, "exchanges", Bypass::BreakerOpen), 1);
        assert_eq!(counted(&*proxy, "records", Bypass::BreakerOpen), 2, "{:?}", proxy.counters());
        assert!(records(&mut *proxy).is_empty());

        proxy.advance(Duration::from_secs(10));
        Script::chat().eligible().play(&mut *proxy);
        assert_eq!(records(&mut *proxy).len(), 1);

        // The optimizer goes away while this one is answered.
        let script = Script::recorded("chat_text").eligible();
        let id = script.send(&mut *proxy);
        script.answer_callouts(&mut *proxy);
        Script::chat().play(&mut *proxy);
        script.provide(&mut *proxy, id);
        assert_eq!(counted(&*proxy, "write_backs", Bypass::BreakerOpen), 1);
        assert!(write_backs(&mut *proxy).is_empty());
    }

    fn records_that_fail_do_not_open_the_breaker(start) {
        let mut proxy = start(both().with("breaker.failures", 1)).unwrap();
        for _ in 0..5 {
            assert_eq!(Script::chat().eligible().play(&mut *proxy).outcome, "unchanged");
            for _ in 0..2 {
                proxy.advance(Duration::from_secs(1));
                for callout in proxy.pending() {
                    proxy.answer(callout.id, Answer::Refused);
                }
            }
        }
        assert_eq!(proxy.counters()["optimizer_callouts.kind.record.result.unreachable"], 5);
        assert_eq!(proxy.counters()["optimizer_callouts.kind.cache.result.unreachable"], 5);
    }

    fn a_burst_of_records_leaves_bit_by_bit(start) {
        let mut proxy = start(quiet().with("hooks.record", true)).unwrap();
        for _ in 0..100 {
            Script::recorded("anthropic_text").unchanged().play(&mut *proxy);
        }
        proxy.advance(Duration::from_millis(10));
        let most = proxy.can().background_callouts;
        assert_eq!(proxy.pending().len(), most.min(8), "so many at a time");
        proxy.advance(Duration::from_millis(500));
        assert_eq!(proxy.pending().len(), most, "so many under way");
        assert_eq!(records(&mut *proxy).len(), 100 - most);
        assert_eq!(json!(proxy.counters()["optimizer_callouts.kind.record.result.ok"]), 100);
    }
}
