"""Behind the shipped example nobody passes for somebody else."""

import json

import pytest

from kit.dialects import CHAT
from kit.example import running
from kit.optimizer import OPTIMIZE, OPTIMIZE_RESPONSE, says

PLACE = "          # Your authentication filter goes here.\n"
# Does what jwt_authn or ext_authz would do after they have looked.
AUTHENTICATION = """
          - name: authentication
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
              mutations:
                request_mutations:
                - append: { header: { key: x-authenticated-user, value: alice }, append_action: APPEND_IF_EXISTS_OR_ADD }
"""

# Every way in which a client may try to be mallory.
CLAIMS = {
    "the trusted headers": [("x-authenticated-user", "mallory"), ("x-authenticated-team", "mallory")],
    "in capitals": [("X-Authenticated-User", "mallory"), ("X-AUTHENTICATED-TEAM", "mallory")],
    "twice": [("x-authenticated-user", "mallory")] * 2,
    "with underscores": [("x_authenticated_user", "mallory"), ("x_authenticated_team", "mallory")],
    "metadata": [("x-anyray-metadata", json.dumps({"user": "mallory", "team": "mallory"}))],
    "metadata under other names": [("x-anyray-metadata", json.dumps(
        {"user_id": "mallory", "userId": "mallory", "team_id": "mallory"}))],
    "metadata twice": [("x-anyray-metadata", '{"user":"mallory"}')] * 2,
    "all at once": [("x-authenticated-user", "mallory"), ("x_authenticated_user", "mallory"),
                    ("x-anyray-metadata", '{"user":"mallory","team":"mallory"}')],
}
claims = pytest.mark.parametrize("headers", CLAIMS.values(), ids=CLAIMS.keys())


def example_with_authentication(config: str) -> str:
    assert config.count(PLACE) == 1
    return config.replace(PLACE, AUTHENTICATION.lstrip("\n"))


def told(optimizer, proxy, call, http) -> tuple[dict, dict, str]:
    """Whom the optimizer takes the caller for, in its calls and in the record, and all that it got."""
    optimizer.on(OPTIMIZE, says(cacheEligible=True, cacheKey="ck-spoofed"))
    assert proxy.send(call, http).status == 200
    written = optimizer.written_back("ck-spoofed")
    record = optimizer.wait_for(lambda seen: seen.path == "/v1/record").json
    metadata = optimizer.asked().json["metadata"]
    [reviewed] = optimizer.to(OPTIMIZE_RESPONSE)
    assert metadata == reviewed.json["metadata"] == written["metadata"]
    everything = "\n".join(seen.everything for seen in optimizer.calls)
    return metadata, record.get("attribution", {}), everything


@claims
def test_a_client_s_claims_count_for_nothing(proxies, optimizer, provider, http, headers):
    proxy = running(proxies, "example")
    call = CHAT.call(key="sk-1", headers=headers)
    metadata, attribution, everything = told(optimizer, proxy, call, http)
    assert metadata.keys() == {"cacheScope"} and attribution == {}
    assert "mallory" not in everything
    assert "mallory" not in provider.calls[-1].everything


@claims
def test_the_authenticated_user_wins(proxies, optimizer, provider, http, headers):
    proxy = running(proxies, "example-with-authentication", example_with_authentication)
    call = CHAT.call(key="sk-1", headers=headers)
    metadata, attribution, everything = told(optimizer, proxy, call, http)
    assert (metadata["user"], attribution) == ("alice", {"user": "alice"})
    assert "mallory" not in everything
    # Who the caller is is not the provider's business.
    assert "alice" not in provider.calls[-1].everything


def test_other_attribution_is_the_client_s_to_claim(proxies, optimizer, provider, http):
    proxy = running(proxies, "example")
    claim = {"sessionId": "s-1", "cacheScope": "forged", "tool": "t"}
    call = CHAT.call(key="sk-1", headers=[("x-anyray-metadata", json.dumps(claim))])
    metadata, attribution, everything = told(optimizer, proxy, call, http)
    assert (metadata["sessionId"], metadata["tool"]) == ("s-1", "t")
    assert attribution == {"sessionId": "s-1"} and "forged" not in everything


def test_nobody_s_metadata_breaks_out_of_its_place(proxies, optimizer, provider, http):
    proxy = running(proxies, "example")
    nasty = 'x","cacheScope":"forged"},"capabilities":{},"a":{"b":"\r\nauthorization: forged\r\n\r\n'
    call = CHAT.call(key="sk-1", headers=[("x-anyray-metadata", json.dumps({"sessionId": nasty}))])
    metadata, attribution, _ = told(optimizer, proxy, call, http)
    assert metadata["sessionId"] == attribution["sessionId"] == nasty
    assert metadata["cacheScope"] != "forged"
    for seen in optimizer.calls:
        assert "forged" not in str(seen.headers)
    assert "forged" not in provider.calls[-1].everything
