//! Many exchanges, of which most go wrong somewhere: the module needs no more memory after all of
//! them than after the first tenth.

use std::time::Duration;

use integration::{Answer, Headers, Host};
use serde_json::json;

use crate::calls::{
    advice, answer, answer_one, check, host, provide, request, review, send, settle, stream,
};

/// How many kinds of request and of answer there are.
const REQUESTS: usize = 11;
const ANSWERS: usize = 7;
const SIZES: [usize; 4] = [300, 3_000, 30_000, 300_000];

/// One exchange, wrong in the `n`th way.
fn exchange(host: &mut Host, n: usize) {
    let size = SIZES[n % SIZES.len()];
    let streamed = n.is_multiple_of(3);
    let members = if streamed { r#","stream":true"# } else { "" };
    let body = request(size, members);
    let id = send(host, &body);
    match n % REQUESTS {
        0 | 1 => answer_one(host, advice(&body)),
        2 => answer_one(host, advice(&body.replace('x', "X"))),
        3 => answer_one(host, Answer::Timeout),
        4 => answer_one(host, Answer::Refused),
        5 => answer_one(host, Answer::Reset),
        6 => answer_one(host, Answer::json(200, "[".repeat(size))),
        7 => answer_one(host, Answer::json(500, &body)),
        8 => answer_one(host, Answer::json(200, r#"{"request":{"messages":null}}"#)),
        9 => host.client_gone(id),
        _ => {
            let hit = answer(size);
            let hit = format!(r#"{{"cacheHit":true,"cachedResponse":{hit},"request":{body}}}"#);
            answer_one(host, Answer::json(200, hit));
        }
    }
    if !host.upstream(id).complete {
        host.client_gone(id);
        return settle(host);
    }
    match n % ANSWERS {
        0 if streamed => provide(host, id, "text/event-stream", &stream(size), true),
        1 if streamed => provide(host, id, "text/event-stream", &stream(size), false),
        0 => provide(host, id, "application/json", &answer(size), true),
        1 => {
            provide(host, id, "application/json", &answer(size), true);
            answer_one(host, review(&answer(size).replace('y', "Y")));
        }
        2 => provide(host, id, "application/json", &answer(size), false),
        3 => provide(host, id, "application/json", &"[".repeat(size), true),
        4 => host.response(id, Headers::from([(":status", "500")]), true),
        5 => host.client_gone(id),
        _ => host.upstream_reset(id),
    }
    answer_one(host, Answer::Refused);
    if !host.is_over(id) {
        host.client_gone(id);
    }
    settle(host);
}

fn many(exchanges: usize) {
    let mut host = host(json!({
        "hooks": {"stream_response": true, "record": true},
        "record": {"content": true},
        "breaker": {"failures": 0},
        "optimizer": {"upstream": "optimizer"},
        "decisions_header": "always",
    }));
    let mut early = 0;
    for n in 0..exchanges {
        exchange(&mut host, n);
        host.forget();
        if n == exchanges / 10 {
            early = host.memory_size();
        }
    }
    host.advance(Duration::from_secs(10));
    check(&host);
    assert_eq!(host.memory_size(), early, "after {exchanges} exchanges");
}

#[test]
fn three_thousand_exchanges() {
    many(3_000);
}

#[test]
#[ignore = "takes minutes; `make test-all` runs it"]
fn a_hundred_thousand_exchanges() {
    many(100_000);
}
