"""Contract §9: services change what a player is subscribed to, or end it, on whichever node the player is."""

import json

import pytest

from harness.wait import until


class OverHttp:
    """The same commands as POSTs to a node that the player is not on."""

    def __init__(self, node, redis):
        self.node = node

    def __call__(self, command, player, **body):
        answer = self.node.admin("POST", f"/api/players/{player}/{command}", body)
        assert 200 <= answer.status < 300, (answer.status, answer.body)


class OverRedis:
    """The same commands as JSON on the control channel."""

    def __init__(self, node, redis):
        self.redis = redis

    def __call__(self, command, player, **body):
        self.redis.publish("drawbridge:control", json.dumps({"command": command, "player": player, **body}))


@pytest.fixture
def nodes(redis, start):
    return start(redis, control_channel=True), start(redis, control_channel=True)


@pytest.fixture(params=[OverHttp, OverRedis], ids=["http", "redis"])
def command(request, nodes, redis):
    return request.param(nodes[0], redis)


def test_subscribe_reaches_the_player_wherever(nodes, redis, command):
    players = [node.player("alice") for node in nodes for _ in range(2)]
    bystander = nodes[1].player("bob")
    command("subscribe", "alice", channel="room:42")
    for player in players:
        told = player.expect("CHANNEL_SUBSCRIBED")
        assert told["channel"] == "room:42" and told["by"] == "server" and "id" not in told
        assert isinstance(told["epoch"], str) and isinstance(told["offset"], int)
    assert redis.subscribers("room:42") == {"room:42": 2}
    redis.publish("room:42", '{"event":"in"}')
    for player in players:
        player.event("room:42", "in")
    bystander.silent_but_for()


def test_unsubscribe(nodes, redis, command):
    player = nodes[1].player("alice")
    player.subscribe("chat:1")
    command("unsubscribe", "alice", channel="chat:1")
    told = player.expect("CHANNEL_UNSUBSCRIBED")
    assert (told["channel"], told["by"]) == ("chat:1", "server") and "id" not in told
    until(lambda: redis.subscribers("chat:1") == {"chat:1": 0}, "Redis is unsubscribed")
    player.refusal("CHANNEL_UNSUBSCRIBE", "NOT_SUBSCRIBED", channel="chat:1")


def test_unsubscribe_from_an_auto_subscription(nodes, command):
    player = nodes[1].player("alice")
    command("unsubscribe", "alice", channel="player:alice")
    assert player.expect("CHANNEL_UNSUBSCRIBED")["channel"] == "player:alice"


def test_disconnect_ends_all_connections_with_4502(nodes, command):
    players = [node.player("alice") for node in nodes for _ in range(2)]
    bystander = nodes[1].player("bob")
    command("disconnect", "alice", reason="cheating")
    for player in players:
        player.closes_with(4502)
    bystander.sync()
    nodes[0].player("alice").sync()  # it is no ban


def test_disconnect_is_in_the_lifecycle_stream_with_its_reason(redis, start):
    node = start(redis, lifecycle={"stream": "life"})
    player = node.player("alice")
    assert node.admin("POST", "/api/players/alice/disconnect", {"reason": "cheating"}).status < 300
    player.closes_with(4502)
    entry = until(lambda: [e for e in redis.stream("life") if e["event"] == "disconnected"], "an entry")[0]
    assert entry["code"] == "4502" and entry["reason"] == "cheating"


def test_disconnect_without_a_reason(nodes, command):
    player = nodes[0].player("alice")
    command("disconnect", "alice")
    player.closes_with(4502)


def test_a_commanded_subscription_needs_no_right_and_the_client_may_leave_it(nodes, redis, command):
    player = nodes[1].player("alice")
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="room:42")
    command("subscribe", "alice", channel="room:42")
    player.expect("CHANNEL_SUBSCRIBED", channel="room:42")
    player.unsubscribe("room:42")


def test_the_classs_view_holds_for_a_commanded_subscription(nodes, redis, command):
    player = nodes[1].player("alice", team="red")
    command("subscribe", "alice", channel="team:1")
    player.expect("CHANNEL_SUBSCRIBED", channel="team:1")
    redis.publish("team:1", '{"event":"theirs","data":{"team":"blue"}}')
    redis.publish("team:1", '{"event":"ours","data":{"team":"red"}}')
    assert player.events_until("ours") == []


def test_commands_for_players_who_are_not_there_do_nothing(nodes, redis, command):
    command("subscribe", "nobody", channel="room:1")
    command("disconnect", "nobody")
    player = nodes[0].player("alice")
    command("unsubscribe", "alice", channel="chat:never")
    command("subscribe", "alice", channel="chat:1")
    player.expect("CHANNEL_SUBSCRIBED", channel="chat:1")
    player.silent_but_for()
    assert redis.channels() == {"player:alice", "chat:1"}


def test_a_subscription_that_is_already_there_is_not_doubled(nodes, redis, command):
    player = nodes[1].player("alice")
    player.subscribe("chat:1")
    command("subscribe", "alice", channel="chat:1")
    command("subscribe", "alice", channel="chat:2")
    player.expect("CHANNEL_SUBSCRIBED", channel="chat:2")
    redis.publish("chat:1", '{"event":"one"}')
    redis.publish("chat:1", '{"event":"end"}')
    assert [m["event"] for m in player.events_until("end")] == ["one"]


@pytest.mark.parametrize("player", ["alice@example.org", "älice 😀", "a/b", "a%2Fb", "a:b", "100%"])
def test_player_names_with_odd_characters(nodes, player):
    from urllib.parse import quote

    connected = nodes[1].player(player)
    answer = nodes[0].admin("POST", f"/api/players/{quote(player, safe='')}/subscribe", {"channel": "chat:1"})
    assert 200 <= answer.status < 300, answer.body
    connected.expect("CHANNEL_SUBSCRIBED", channel="chat:1")


@pytest.mark.parametrize("body", [{}, {"channel": 1}, {"channel": ""}, {"channel": "bad name"}, {"channel": None}, [], ["chat:1"], b"x"], ids=repr)
@pytest.mark.parametrize("command", ["subscribe", "unsubscribe"])
def test_a_bad_command_over_http_is_a_client_error(node, body, command):
    player = node.player("alice")
    answer = node.admin("POST", f"/api/players/alice/{command}", body)
    assert 400 <= answer.status < 500 and answer.body
    player.silent_but_for()


def test_a_body_that_is_a_list_disconnects_nobody(node):
    player = node.player("alice")
    for body in (["reason"], b'["reason"]', b"null"):
        answer = node.admin("POST", "/api/players/alice/disconnect", body)
        assert answer.status == 400 and "object" in answer.json["error"]["message"], answer.body
    player.sync()


@pytest.mark.parametrize("command, body", [("disconnect", {}), ("subscribe", {"channel": "chat:1"}), ("unsubscribe", {"channel": "chat:1"}), ("view", {"channel": "chat:1", "view": None})])
def test_a_player_has_a_name(node, command, body):
    answer = node.admin("POST", f"/api/players//{command}", body)
    assert answer.status == 400 and answer.json["error"]["code"] == "BAD_MESSAGE", answer.body


# the control channel


def test_commands_on_the_control_channel_are_objects(nodes, redis):
    player = nodes[1].player("alice")
    before = nodes[1].metric("drawbridge_player_commands_failed_total")
    redis.publish("drawbridge:control", '["disconnect","alice"]')
    redis.publish("drawbridge:control", '{"command":"disconnect","player":"bob","command":"subscribe","player":"alice","channel":"chat:1"}')
    player.expect("CHANNEL_SUBSCRIBED", channel="chat:1")
    player.silent_but_for()
    until(lambda: nodes[1].metric("drawbridge_player_commands_failed_total") == before + 1, "it is counted")
    assert "expected an object" in nodes[1].log


def test_the_control_channel_is_off_by_default(node, redis):
    player = node.player("alice")
    assert redis.subscribers("drawbridge:control") == {"drawbridge:control": 0}
    redis.publish("drawbridge:control", '{"command":"disconnect","player":"alice"}')
    node.admin("POST", "/api/players/alice/subscribe", {"channel": "chat:1"})
    player.expect("CHANNEL_SUBSCRIBED", channel="chat:1")
    player.sync()


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "null", "[]", "{}", '{"command":"disconnect"}', '{"command":1,"player":"alice"}',
        '{"command":"disconnect","player":1}', '{"command":"explode","player":"alice"}',
        '{"command":"subscribe","player":"alice"}', '{"command":"subscribe","player":"alice","channel":"bad name"}',
        '{"command":"subscribe","player":"alice","channel":7}', b"\xff\xfe", "[" * 100_000, "x" * 2_000_000,
    ],
    ids=lambda text: repr(text)[:60],
)  # fmt: skip
def test_garbage_on_the_control_channel_does_no_harm(nodes, redis, text):
    player = nodes[1].player("alice")
    redis.publish("drawbridge:control", text)
    redis.publish("drawbridge:control", '{"command":"subscribe","player":"alice","channel":"chat:1"}')
    player.expect("CHANNEL_SUBSCRIBED", channel="chat:1")
    player.silent_but_for()


def test_the_control_channel_works_again_after_a_break(own_redis, start):
    node = start(own_redis, control_channel=True)
    player = node.player("alice")
    own_redis.restart()

    def commanded():
        own_redis.publish("drawbridge:control", '{"command":"subscribe","player":"alice","channel":"chat:1"}')
        player.sync()
        return [m for m in player.received if m.type == "CHANNEL_SUBSCRIBED" and m["channel"] == "chat:1"]

    until(commanded, "the control channel is heard again", timeout=30)


def test_the_control_channel_goes_by_the_key_prefix(redis, start):
    node = start(redis, control_channel=True)
    assert redis.subscribers("drawbridge:control") == {"drawbridge:control": 1}
    node.player("alice").sync()


def test_commands_on_a_node_with_the_memory_broker(start):
    node = start(None)
    player = node.player("alice")
    assert node.admin("POST", "/api/players/alice/subscribe", {"channel": "room:42"}).status < 300
    player.expect("CHANNEL_SUBSCRIBED", channel="room:42")
    assert node.publish("room:42", "hello").status < 300
    player.event("room:42", "hello")
    assert node.admin("POST", "/api/players/alice/disconnect", {}).status < 300
    player.closes_with(4502)


def test_a_subscription_beyond_the_limit_is_told_to_the_player(redis, start):
    # One comes by a template.
    node = start(redis, limits={"subscriptions": 2})
    player = node.player("alice")
    player.subscribe("chat:1")
    assert node.admin("POST", "/api/players/alice/subscribe", {"channel": "chat:2"}).status == 200
    assert player.expect("ERROR", channel="chat:2")["code"] == "LIMIT_EXCEEDED"
