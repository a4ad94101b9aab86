//! Short circuits: who is answered from the cache, and how.

use std::time::Duration;

use optimizer_core::host::Host;
use serde_json::json;

use crate::proxy::{Proxy, Setup, on_every_host};
use crate::script::{Script, Seen, assert_outcome};

const CACHED: &str = r#"{"id":"cached","choices":[{"index":0}]}"#;

fn assert_hit(seen: &Seen) {
    assert_eq!(seen.outcome, "hit");
    assert_eq!(seen.client.status(), Some(200));
    assert_eq!(seen.client.header("content-type"), Some("application/json"));
    assert_eq!(seen.client.text(), seen.served(CACHED));
    assert!(seen.provider.headers.is_none(), "the provider was contacted");
    assert_eq!(seen.counted["optimizer_exchanges.outcome.hit.reason.none"], 1);
    assert_eq!(seen.response, "none");
}

fn assert_refused(seen: &Seen, script: &Script, reason: &str) {
    seen.assert_untouched(script);
    assert_eq!(seen.outcome, format!("bypassed:{reason}"));
}

fn hit() -> Script {
    Script::chat().hit(CACHED)
}

/// A call that the provider accepts, and so proves the caller's credentials.
fn prove(proxy: &mut dyn Proxy, script: Script) {
    assert_eq!(script.unchanged().play(proxy).outcome, "unchanged");
}

on_every_host! {
    fn a_proven_caller_is_answered_and_the_provider_never_contacted(start) {
        let mut proxy = start(Setup::default()).unwrap();
        assert_refused(&hit().play(&mut *proxy), &hit(), "hit_unproven");
        // The refused hit went to the provider, which said 200: now the caller is proven.
        assert_hit(&hit().play(&mut *proxy));
        assert_hit(&hit().header("x-other", "1").in_pieces_of(9).play(&mut *proxy));
    }

    fn a_key_proves_nothing_for_another_key_endpoint_or_provider(start) {
        let mut proxy = start(Setup::default()).unwrap();
        prove(&mut *proxy, Script::chat());
        for other in [
            hit().set("authorization", "Bearer other"),
            hit().header("x-api-key", "more"),
            hit().without("authorization"),
            hit().set(":path", "/v1/completions").hit(CACHED),
        ] {
            assert_eq!(other.play(&mut *proxy).outcome, "bypassed:hit_unproven");
        }
        let shared = Setup::default();
        let mut here = start(shared.clone()).unwrap();
        prove(&mut *here, Script::chat());
        let mut elsewhere = shared.clone();
        elsewhere.properties.insert("xds.cluster_name".to_owned(), b"other".to_vec());
        let mut elsewhere = start(elsewhere).unwrap();
        assert_refused(&hit().play(&mut *elsewhere), &hit(), "hit_unproven");
        let mut worker = start(shared).unwrap();
        if worker.can().shared_data {
            assert_hit(&hit().play(&mut *worker));
        } else {
            assert_refused(&hit().play(&mut *worker), &hit(), "hit_unproven");
            assert_hit(&hit().play(&mut *here));
        }
    }

    fn callers_without_credentials_are_one_caller(start) {
        let mut proxy = start(Setup::default()).unwrap();
        prove(&mut *proxy, Script::chat().without("authorization"));
        assert_hit(&hit().without("authorization").play(&mut *proxy));
    }

    fn only_a_2xx_of_the_provider_proves(start) {
        for status in ["301", "400", "429", "500"] {
            let mut proxy = start(Setup::default()).unwrap();
            Script::chat().provider_header(":status", status).unchanged().play(&mut *proxy);
            assert_eq!(hit().play(&mut *proxy).outcome, "bypassed:hit_unproven", "{status}");
        }
        for other in [Script::chat().set(":method", "PUT"), Script::chat().set("content-type", "text/plain")] {
            let mut proxy = start(Setup::default()).unwrap();
            other.play(&mut *proxy);
            assert_eq!(hit().play(&mut *proxy).outcome, "bypassed:hit_unproven", "no such call");
        }
        let mut proxy = start(Setup::default()).unwrap();
        let script = Script::chat().unchanged();
        let local = script.send(&mut *proxy);
        script.answer_callouts(&mut *proxy);
        proxy.local_answer(local, 200);
        if proxy.is() == Host::Kong {
            // A call stays with the service that it was routed to.
            assert_eq!(hit().play(&mut *proxy).outcome, "bypassed:hit_unproven");
            return;
        }
        let rerouted = script.send(&mut *proxy);
        script.answer_callouts(&mut *proxy);
        proxy.reroute("elsewhere");
        script.provide(&mut *proxy, rerouted);
        script.answer_callouts(&mut *proxy);
        for upstream in ["elsewhere", "llm"] {
            let shared = hit();
            proxy.reroute(upstream);
            let id = shared.send(&mut *proxy);
            shared.answer_callouts(&mut *proxy);
            assert_outcome(&*proxy, id, "bypassed:hit_unproven");
        }
    }

    fn a_bypassed_call_proves_too(start) {
        let mut proxy = start(Setup::default()).unwrap();
        Script::chat().header("x-anyray-optimize", "off").play(&mut *proxy);
        assert_hit(&hit().play(&mut *proxy));
    }

    fn a_refused_key_is_unproven_again(start) {
        for status in ["401", "403"] {
            let mut proxy = start(Setup::default()).unwrap();
            prove(&mut *proxy, Script::chat());
            Script::chat().provider_header(":status", status).unchanged().play(&mut *proxy);
            assert_eq!(hit().play(&mut *proxy).outcome, "bypassed:hit_unproven", "{status}");
        }
    }

    fn a_proof_runs_out_and_a_hit_does_not_renew_it(start) {
        let mut proxy = start(Setup::default().with("cache.proof_seconds", 10)).unwrap();
        prove(&mut *proxy, Script::chat());
        proxy.advance(Duration::from_secs(8));
        assert_hit(&hit().play(&mut *proxy));
        proxy.advance(Duration::from_secs(3));
        assert_eq!(hit().play(&mut *proxy).outcome, "bypassed:hit_unproven");
    }

    fn who_else_may_be_served(start) {
        let authenticated = Setup::default()
            .with("cache.serve", "authenticated")
            .with("attribution", json!({"user": {"header": "x-user"}}));
        let mut proxy = start(authenticated).unwrap();
        assert_eq!(hit().play(&mut *proxy).outcome, "bypassed:hit_unproven");
        assert_eq!(
            hit().header("x-anyray-metadata", r#"{"user":"me"}"#).play(&mut *proxy).outcome,
            "bypassed:hit_unproven",
            "what a client claims authenticates nobody"
        );
        assert_hit(&hit().header("x-user", "ann").play(&mut *proxy));

        let mut proxy = start(Setup::default().serves_anyone()).unwrap();
        assert_hit(&hit().play(&mut *proxy));
    }

    fn a_hit_without_a_usable_body_is_no_hit(start) {
        let mut proxy = start(Setup::default().serves_anyone()).unwrap();
        for cached in ["null", "{}", "[]", "\"x\"", r#"{"error":{"message":"m"}}"#] {
            let answer = format!(r#"{{"request":{{"max_tokens":1}},"cacheHit":true,"cachedResponse":{cached}}}"#);
            let seen = Script::chat().optimize(answer).play(&mut *proxy);
            assert_eq!(seen.outcome, "transformed", "{cached}");
        }
        let seen = Script::chat().optimize(r#"{"request":{"max_tokens":1},"cacheHit":false,"cachedResponse":{"id":"x"}}"#);
        assert_eq!(seen.play(&mut *proxy).outcome, "transformed");
    }

    fn with_the_cache_off_the_optimizer_is_told_so(start) {
        let mut proxy = start(Setup::default().serves_anyone().with("hooks.cache", false)).unwrap();
        let seen = hit().play(&mut *proxy);
        assert_eq!(seen.asked("/v1/optimize")["capabilities"], json!({"canShortCircuit": false}));
        assert_eq!(seen.outcome, "unchanged");
    }

    fn the_scope_is_the_callers_and_a_client_cannot_set_it(start) {
        let scope = |setup: Setup, script: Script| {
            let seen = script.unchanged().play(&mut *start(setup).unwrap());
            seen.asked("/v1/optimize")["metadata"]["cacheScope"].clone()
        };
        let base = scope(Setup::default(), Script::chat());
        assert!(base.as_str().is_some_and(|s| s.len() == 32 && s.bytes().all(|b| b.is_ascii_hexdigit())));
        assert_ne!(base, scope(Setup::default(), Script::chat().set("authorization", "Bearer b")));
        let claim = Script::chat().header("x-anyray-metadata", r#"{"cacheScope":"mine"}"#);
        assert_eq!(base, scope(Setup::default(), claim));
        assert_eq!(scope(Setup::default().with("cache.scope", "shared"), Script::chat()), json!(null));
        let team = Setup::default()
            .with("attribution", json!({"team": {"header": "x-team"}}))
            .with("cache.scope", "team");
        let by_team = |key: &str| Script::chat().header("x-team", "t").set("authorization", key);
        assert_eq!(scope(team.clone(), by_team("a")), scope(team, by_team("b")));
    }
}
