"""`drawbridge dev` with your own page: which origins connect, where its token comes from, and what is printed to paste."""

import json
import re
import time

import jwt
import pytest

from harness.wait import until
from harness.websocket import Refused, WebSocket

OWN_PAGE = "http://localhost:5173"


def claims_of(answer):
    assert answer.status == 200, answer.body
    return jwt.decode(answer.body.decode(), options={"verify_signature": False})


@pytest.mark.parametrize("origin", [OWN_PAGE, "https://localhost", "http://127.0.0.1:3000", "http://[::1]:8080"])
def test_a_page_on_any_port_of_localhost_connects_with_a_token_of_dev(dev, origin):
    answer = dev.get("/dev/token?sub=carol&claim=room=42", {"Origin": origin})
    assert answer.headers["Access-Control-Allow-Origin"] == origin and "Origin" in answer.headers["Vary"]
    player = dev.connect(answer.body.decode(), headers={"Origin": origin})
    hello = player.welcome()
    assert hello["player"] == "carol"
    assert "room:42" in [subscription["channel"] for subscription in hello["subscriptions"]]
    player.subscribe("game:demo")
    assert player.event("game:demo")["event"] == "tick"


def test_a_page_from_elsewhere_gets_neither_socket_nor_token_and_the_log_says_what_to_do(dev):
    foreign = {"Origin": "http://evil.example"}
    with pytest.raises(Refused) as refused:
        WebSocket(dev.port, headers=foreign).connect()
    assert refused.value.status == 403
    answer = dev.get("/dev/token?sub=carol", foreign)
    assert answer.status == 403 and "Access-Control-Allow-Origin" not in answer.headers
    line = until(lambda: dev.line('reason="origin"'), "the refusal is logged")
    assert "http://evil.example" in line and "DRAWBRIDGE_CONNECTION__ALLOWED_ORIGINS" in line
    assert "connection.allowed_origins" in line


def test_claims_are_read_as_by_the_token_command(dev):
    query = "sub=carol&claim=room=42&claim=rooms=%5B%2242%22%5D&claim=admin=true&claim-json=level=5&ttl=10m"
    claims = claims_of(dev.get(f"/dev/token?{query}"))
    assert claims["sub"] == "carol" and claims["room"] == "42" and claims["rooms"] == ["42"]
    assert claims["admin"] is True and claims["level"] == 5
    assert 0 < claims["exp"] - time.time() <= 600


@pytest.mark.parametrize(
    "query, problem",
    [("", "sub"), ("sub=a&room=42", "claim=room=VALUE"), ("sub=a&claim=room", "NAME=VALUE"), ("sub=a&ttl=soon", "ttl")],
)
def test_a_wrong_query_is_explained_to_the_page(dev, query, problem):
    answer = dev.get(f"/dev/token?{query}", {"Origin": OWN_PAGE})
    assert answer.status == 400 and problem in answer.body.decode()
    assert answer.headers["Access-Control-Allow-Origin"] == OWN_PAGE


def test_a_preflight_is_answered(dev):
    answer = dev.get("/dev/token?sub=a", {"Origin": OWN_PAGE, "Access-Control-Request-Method": "GET"}, method="OPTIONS")
    assert answer.status == 204 and answer.headers["Access-Control-Allow-Origin"] == OWN_PAGE
    assert dev.get("/dev/token?sub=a", method="POST").status == 405


def test_a_node_that_is_not_dev_mints_no_tokens_and_lets_no_foreign_port_in(node):
    answer = node.get("/dev/token?sub=a", {"Origin": OWN_PAGE})
    # A page that was written for `dev` may read why there is no token.
    assert answer.status == 404 and answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.body.startswith(b"only `drawbridge dev` serves /dev/token;")
    with pytest.raises(Refused):
        WebSocket(node.port, headers={"Origin": OWN_PAGE}).connect()


def test_what_dev_prints_to_paste_works(dev):
    printed = until(lambda: dev.line("game.subscribe(") and dev.process.output, "the lines to paste")
    endpoint = re.search(r"endpoint +(ws://\S+)", printed)[1]
    assert endpoint == f"ws://127.0.0.1:{dev.port}/ws"
    path = re.search(r"curl 'http://127.0.0.1:\d+(/dev/token\S+)'", printed)[1]
    player = dev.connect(dev.get(path).body.decode())
    player.welcome()
    channel, event = re.search(r"subscribe\('([^']+)'\)\.on\('([^']+)'", printed).groups()
    player.subscribe(channel)
    assert player.event(channel)["event"] == event


def test_errors_of_dev_are_json_and_name_the_rule(dev):
    player = dev.connect(dev.get("/dev/token?sub=carol").body.decode())
    player.welcome()
    player.send({"type": "CHANNEL_SUBSCRIBE", "id": 1, "channel": "room:42"})
    refusal = player.expect("ERROR")
    assert refusal["code"] == "FORBIDDEN" and "me.room" in json.dumps(refusal)
