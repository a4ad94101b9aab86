"""What the reference optimizer does beyond what the protocol demands."""

import copy
import json
import re
import signal
import socket
import time

import httpx
import pytest

import llm_samples as llm

CHAT = "/v1/chat/completions"
SHORT_CIRCUIT = {"canShortCircuit": True}


def config(*strategies, **more):
    """A configuration with these strategies: names, or pairs of name and parameters."""
    pairs = [(each, {}) if isinstance(each, str) else each for each in strategies]
    entries = [{"kind": kind, "enabled": True, "params": params} for kind, params in pairs]
    return {"strategies": entries, **more}


def kinds(answer):
    return [decision["kind"] for decision in answer["decisions"]]


class TestStrategies:
    @pytest.mark.parametrize(
        ("endpoint", "expected"),
        [
            (CHAT, ["context_compression", "prompt_compression", "param_tuning"]),
            ("/v1/completions", ["prompt_compression", "param_tuning"]),
            ("/v1/embeddings", []),
            ("/v1/responses", ["context_compression", "prompt_compression", "param_tuning"]),
            ("/v1/messages", ["context_compression", "prompt_compression", "param_tuning"]),
        ],
    )
    def test_each_endpoint_has_its_strategies(self, start_reference, endpoint, expected):
        answer = start_reference().optimize(endpoint, llm.request(endpoint))
        assert kinds(answer) == expected
        assert (answer["request"] != llm.request(endpoint)) == bool(expected)
        assert answer["estimatedTokensSaved"] == sum(
            decision["estimatedTokensSaved"] for decision in answer["decisions"]
        )
        assert all(decision["applied"] is True for decision in answer["decisions"])

    def test_the_order_is_the_configurations(self, start_reference):
        reference = start_reference(
            config(("param_tuning", {"max_output_tokens": 5}), "prompt_compression")
        )
        answer = reference.optimize(CHAT, llm.request(CHAT))
        assert kinds(answer) == ["param_tuning", "prompt_compression"]
        assert answer["request"]["max_tokens"] == 5

    def test_a_strategy_that_is_off_does_nothing(self, start_reference):
        off = config("prompt_compression")
        off["strategies"][0]["enabled"] = False
        answer = start_reference(off).optimize(CHAT, llm.request(CHAT))
        assert answer["request"] == llm.request(CHAT)
        assert answer["decisions"] == []

    def test_enabled_kinds_restrict(self, start_reference):
        answer = start_reference().optimize(
            CHAT, llm.request(CHAT), enabledKinds=["param_tuning", "unheard_of"]
        )
        assert kinds(answer) == ["param_tuning"]

    def test_untouched_bytes_stay(self, start_reference):
        reference = start_reference()
        body = (
            rb'{"endpoint":"/v1/messages","request": { "seed" : 12345678901234567890, "x":1.0e0,'
            rb'"messages":[ {"role":"user","content":"caf\u00e9  au \/lait"} ] ,'
            rb' "max_tokens":9999}}'
        )
        answer = reference.client.post("/v1/optimize", content=body)
        assert (
            rb'"request":{ "seed" : 12345678901234567890, "x":1.0e0,'
            rb'"messages":[ {"role":"user","content":"caf\u00e9 au \/lait"} ] , "max_tokens":8192}'
        ) in answer.content

    def test_nothing_before_a_cache_mark_changes(self, start_reference):
        request = llm.request("/v1/messages")
        request["messages"][2]["content"][0]["cache_control"] = {"type": "ephemeral"}
        request["messages"].append({"role": "user", "content": "Go   on."})
        answer = start_reference().optimize("/v1/messages", request)
        expected = copy.deepcopy(request)
        expected["messages"][3]["content"] = "Go on."
        expected["max_tokens"] = 8192
        assert answer["request"] == expected

    def test_the_response_is_cleaned_only_where_configured(self, start_reference):
        call = {
            "endpoint": CHAT,
            "request": llm.request(CHAT),
            "response": llm.response(CHAT),
        }
        plain = start_reference().client.post("/v1/optimize-response", json=call).json()
        assert plain == {"protocolVersion": 1, "response": call["response"], "decisions": []}
        cleaning = start_reference(config("response_cleanup"))
        cleaned = cleaning.client.post("/v1/optimize-response", json=call).json()
        assert kinds(cleaned) == ["response_cleanup"]
        assert cleaned["response"]["choices"][0]["message"]["content"] == "Done."


class TestRetrieve:
    def test_what_was_cut_can_be_retrieved(self, start_reference):
        reference = start_reference()
        answer = reference.optimize(CHAT, llm.request(CHAT))
        result = answer["request"]["messages"][3]["content"]
        assert len(result) <= 16_000
        note = re.search(r'\[… (\d+) characters removed; retrieve with handle "(\w+)"\]', result)
        head, tail = result.split(f"\n{note[0]}\n")
        minified = json.dumps(json.loads(llm.TOOL_RESULT), separators=(",", ":"))
        assert minified.startswith(head) and minified.endswith(tail)
        assert len(minified) == len(head) + int(note[1]) + len(tail)
        original = reference.client.post("/v1/retrieve", json={"handle": note[2]})
        assert original.json() == {"content": llm.TOOL_RESULT}

    def test_the_same_result_is_always_cut_alike(self, start_reference):
        answers = [start_reference().optimize(CHAT, llm.request(CHAT)) for _ in range(2)]
        assert answers[0]["request"] == answers[1]["request"]

    def test_nothing_is_cut_where_nothing_is_kept(self, start_reference):
        reference = start_reference(
            config(("context_compression", {"max_characters": 400}), retrieve={"enabled": False})
        )
        answer = reference.optimize(CHAT, llm.request(CHAT))
        result = answer["request"]["messages"][3]["content"]
        assert json.loads(result) == json.loads(llm.TOOL_RESULT)
        assert answer["suppressedKinds"] == [
            {"kind": "context_compression", "reason": "no_retrieve"}
        ]

    def test_originals_expire(self, start_reference):
        reference = start_reference(
            config(
                ("context_compression", {"max_characters": 400}),
                retrieve={"ttl_seconds": 1},
            )
        )
        result = reference.optimize(CHAT, llm.request(CHAT))["request"]["messages"][3]["content"]
        handle = {"handle": re.search(r'handle "(\w+)"', result)[1]}
        assert reference.client.post("/v1/retrieve", json=handle).status_code == 200
        time.sleep(1.2)
        expired = reference.client.post("/v1/retrieve", json=handle)
        assert expired.status_code == 404
        assert expired.json()["error"]["message"]


class TestCache:
    def ask(self, reference, request, endpoint=CHAT, **metadata):
        return reference.optimize(
            endpoint, request, capabilities=SHORT_CIRCUIT, metadata=metadata
        )

    def write(self, reference, key, **more):
        call = {"cacheKey": key, "response": llm.response(CHAT), **more}
        return reference.client.post("/v1/cache", json=call)

    def test_spelling_and_streaming_make_no_difference(self, start_reference):
        reference = start_reference()
        request = llm.request(CHAT)
        key = self.ask(reference, request)["cacheKey"]
        assert self.write(reference, key).status_code == 204
        shuffled = dict(reversed(request.items()))
        streamed = {**request, "stream": True, "stream_options": {"include_usage": True}}
        for same in (shuffled, streamed):
            hit = self.ask(reference, same)
            assert (hit["cacheHit"], hit["cacheKey"]) == (True, key)
            # Whoever may not serve the hit sends the request as it came.
            assert hit["request"] == same
            assert hit["decisions"] == []

    def test_strategies_make_no_difference(self, start_reference):
        request = llm.request(CHAT)
        with_strategies = self.ask(start_reference(), request)
        without = self.ask(start_reference(config()), request)
        assert with_strategies["request"] != without["request"]
        assert with_strategies["cacheKey"] == without["cacheKey"]

    @pytest.mark.parametrize(
        ("own", "named"),
        [({}, 1), ({"max_ttl_seconds": 1}, 3600), ({"default_ttl_seconds": 1}, None)],
    )
    def test_answers_expire(self, start_reference, own, named):
        reference = start_reference(config(cache=own))
        key = self.ask(reference, llm.request(CHAT))["cacheKey"]
        ttl = {} if named is None else {"ttlSeconds": named}
        assert self.write(reference, key, **ttl).status_code == 204
        assert self.ask(reference, llm.request(CHAT))["cacheHit"]
        time.sleep(1.2)
        assert not self.ask(reference, llm.request(CHAT))["cacheHit"]

    def test_a_key_belongs_to_its_scope(self, start_reference):
        reference = start_reference()
        key = self.ask(reference, llm.request(CHAT), cacheScope="a")["cacheKey"]
        for metadata in ({"cacheScope": "b"}, {}, {"cacheScope": None}):
            refused = self.write(reference, key, metadata=metadata)
            assert refused.status_code == 400
            assert refused.json()["error"]["path"] == "cacheKey"
        assert self.write(reference, key, metadata={"cacheScope": "a"}).status_code == 204

    @pytest.mark.parametrize(
        ("more", "path"),
        [
            ({"ttlSeconds": 0}, "ttlSeconds"),
            ({"ttlSeconds": -1}, "ttlSeconds"),
            ({"ttlSeconds": "60"}, "ttlSeconds"),
            ({"response": []}, "response"),
            ({"response": {"error": {"message": "x"}}}, "response.error"),
            ({"metadata": {"x": {}}}, "metadata.x"),
        ],
    )
    def test_what_is_not_for_keeping_is_refused(self, start_reference, more, path):
        reference = start_reference()
        key = self.ask(reference, llm.request(CHAT))["cacheKey"]
        refused = self.write(reference, key, **more)
        assert refused.status_code == 400
        assert refused.json()["error"]["path"] == path

    @pytest.mark.parametrize(
        ("endpoint", "more"),
        [
            (CHAT, {"n": 2}),
            ("/v1/responses", {"store": True}),
            ("/v1/responses", {"previous_response_id": "resp_1"}),
        ],
    )
    def test_some_requests_are_never_cached(self, start_reference, endpoint, more):
        request = {**llm.request(endpoint), **more}
        answer = self.ask(start_reference(), request, endpoint)
        assert (answer["cacheEligible"], "cacheKey" in answer) == (False, False)

    def test_no_cache_where_it_is_off(self, start_reference):
        reference = start_reference(config(cache={"enabled": False}))
        answer = self.ask(reference, llm.request(CHAT))
        assert (answer["cacheEligible"], "cacheKey" in answer) == (False, False)
        assert self.write(reference, "x").status_code == 404


class TestRecords:
    def test_records_can_be_read(self, start_reference):
        reference = start_reference(config(records={"max_records": 2}))
        for number in ("1", "2", "2", "3"):
            answer = reference.client.post("/v1/record", json={"id": number, "status": 200})
            assert answer.status_code == 204
        kept = reference.client.get("/v1/records").json()["records"]
        assert kept == [{"id": "2", "status": 200}, {"id": "3", "status": 200}]

    def test_null_is_refused(self, start_reference):
        answer = start_reference().client.post("/v1/record", json={"id": "1", "model": None})
        assert answer.status_code == 400
        assert answer.json()["error"]["path"] == "model"

    def test_no_records_where_they_are_off(self, start_reference):
        reference = start_reference(config(records={"enabled": False}))
        assert reference.client.post("/v1/record", json={"id": "1"}).status_code == 404
        assert reference.client.get("/v1/records").status_code == 404


class TestServer:
    @pytest.mark.parametrize(
        ("call", "path"),
        [
            ({"endpoint": CHAT, "request": []}, "request"),
            ({"endpoint": 1, "request": {}}, "endpoint"),
            ({"endpoint": CHAT, "request": {}, "metadata": {"a": [1]}}, "metadata.a"),
            ({"endpoint": CHAT, "request": {}, "enabledKinds": [1]}, "enabledKinds[0]"),
            (
                {"endpoint": CHAT, "request": {}, "capabilities": {"canShortCircuit": "yes"}},
                "capabilities.canShortCircuit",
            ),
            ({"endpoint": CHAT}, None),
        ],
    )
    def test_errors_name_what_is_wrong(self, start_reference, call, path):
        answer = start_reference().client.post("/v1/optimize", json=call)
        assert answer.status_code == 400
        assert answer.json()["error"].get("path") == path
        assert path or "`request`" in answer.json()["error"]["message"]

    def test_unknown_endpoints_are_left_alone(self, start_reference):
        request = llm.request(CHAT)
        answer = start_reference().optimize("/v1/elsewhere", request, capabilities=SHORT_CIRCUIT)
        assert answer["request"] == request
        assert (answer["decisions"], answer["cacheEligible"]) == ([], False)

    def test_large_bodies_are_refused(self, start_reference):
        client = start_reference(config(body_limit_bytes=10_000)).client
        call = {"endpoint": CHAT, "request": {"x": "x" * 11_000}}
        answer = client.post("/v1/optimize", json=call)
        assert answer.status_code == 413
        assert answer.json()["error"]["message"]
        call["request"]["x"] = "x" * 9_000
        assert client.post("/v1/optimize", json=call).status_code == 200

    def test_routes_and_methods(self, start_reference):
        client = start_reference().client
        for method, path, status in (("GET", "/nowhere", 404), ("GET", "/v1/optimize", 405)):
            answer = client.request(method, path)
            assert answer.status_code == status
            assert answer.json()["error"]["message"]

    def test_the_token(self, start_reference):
        for reference in (start_reference(token="t-1"), start_reference(config(token="t-1"))):
            statuses = [
                httpx.get(
                    f"{reference.url}/v1/records", headers={"authorization": value}, trust_env=False
                ).status_code
                for value in ("Bearer t-1", "bearer t-1", "Bearer t-12", "Bearer t", "t-1", "")
            ]
            assert statuses == [200, 200, 401, 401, 401, 401]
            assert httpx.get(f"{reference.url}/health", trust_env=False).status_code == 200

    def test_the_log_holds_no_content(self, start_reference):
        reference = start_reference(token="secret-token")
        request = {"model": "secret", "messages": [{"role": "user", "content": "secret   words"}]}
        reference.optimize(CHAT, request, metadata={"user": "secret"})
        reference.client.post("/secret?secret=1", json={})
        reference.client.post("/v1/optimize", json={"endpoint": "secret", "request": {}})
        reference.client.post("/v1/optimize", json={"endpoint": {"secret": "secret"}})
        reference.stop()
        lines = reference.log().splitlines()
        assert [line.split()[2] for line in lines] == ["200", "404", "200", "400"]
        assert "applied=prompt_compression" in lines[0]
        assert "secret" not in reference.log()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_it_finishes_what_it_began(self, start_reference, number):
        reference = start_reference()
        port = httpx.URL(reference.url).port
        body = json.dumps({"endpoint": CHAT, "request": {}}).encode()
        head = b"POST /v1/optimize HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head + body[:5])
            time.sleep(0.2)
            reference.process.send_signal(number)
            time.sleep(0.2)
            connection.sendall(body[5:])
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert reference.process.wait(10) == 0

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (config(colour=1), "colour: unknown field"),
            (config("magic"), "strategies[0].kind: no such strategy"),
            (
                config(("param_tuning", {"max_output_tokens": 0})),
                "strategies[0].params.max_output_tokens: must be at least 1",
            ),
        ],
    )
    def test_a_bad_configuration_is_refused(self, start_reference, bad, message):
        with pytest.raises(RuntimeError, match=re.escape(message)):
            start_reference(bad)
