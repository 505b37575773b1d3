"""Several environments on one Redis: with `broker.channel_prefix` they share nothing, and players never see a prefix."""

import json

import pytest

from harness.node import run, write_config
from harness.wait import until
from test_stored_state import acl_of

STREAMS = {"lifecycle": {"stream": "life"}, "control_channel": True}


@pytest.fixture
def environments(redis, start):
    """A node each of production and of staging, in the same database, alike but for their prefixes."""
    return tuple(start(redis, broker={"channel_prefix": prefix}, **STREAMS) for prefix in ("prod:", "test:"))


def only(player, channel, end):
    """What a player is sent on a channel until this event."""
    return [message["data"] for message in player.events_until(end) if message["channel"] == channel]


def narrow(node, player, channel, view):
    assert node.admin("POST", f"/api/players/{player}/view", {"channel": channel, "view": view}).status == 200


def test_events_do_not_cross(environments):
    players = [node.player("alice") for node in environments]
    for channel in ("chat:1", "chat:*"):
        for player in players:
            player.subscribe(channel)
    for player, data in zip(players, ("of production", "of staging")):
        player.publish("chat:1", "said", data)
    for player, data in zip(players, ("of production", "of staging")):
        player.publish("chat:1", "end")
        assert only(player, "chat:1", "end") == [data]


def test_tables_do_not_cross(environments, redis):
    production, staging = (node.player("alice") for node in environments)
    for player, keys in ((production, "ab"), (staging, "c")):
        for key in keys:
            player.publish("world:1", "move", {"id": key, "public": True})
    for player, keys in ((production, {"a", "b"}), (staging, {"c"})):
        player.subscribe("world:1")
        player.sees("world:1", keys)
    staging.publish("world:1", "remove", {"id": "a"})
    production.publish("world:1", "move", {"id": "d", "public": True})
    production.sees("world:1", {"a", "b", "d"})
    assert redis.client.hget("prod:drawbridge:{prod:world:1}:entities", "s") == b"3"
    assert redis.client.hget("test:drawbridge:{test:world:1}:entities", "s") == b"2"


def test_commands_and_views_do_not_cross(environments, redis):
    production, staging = environments
    alice, other = production.player("alice"), staging.player("alice")
    for player in (alice, other):
        player.subscribe("chat:1")
    narrow(staging, "alice", "chat:1", "false")
    assert staging.admin("POST", "/api/players/alice/subscribe", {"channel": "room:7"}).status == 200
    assert other.expect("CHANNEL_SUBSCRIBED")["channel"] == "room:7"
    redis.publish("test:drawbridge:control", json.dumps({"command": "disconnect", "player": "alice"}))
    other.closes_with(4502)
    alice.publish("chat:1", "still", "here")
    assert alice.event("chat:1", "still")["data"] == "here"
    alice.silent_but_for()
    # Nor for whoever comes later.
    again = staging.player("alice")
    again.subscribe("chat:1")
    again.publish("chat:1", "unseen")
    again.silent_but_for()
    assert redis.client.hgetall("test:drawbridge:{player:alice}:views") == {b"chat:1": b"false"}
    assert not redis.client.exists("prod:drawbridge:{player:alice}:views")


def test_streams_do_not_cross(environments, redis):
    for node, name in zip(environments, ("of production", "of staging")):
        node.player("alice").publish("act:1", "do", {"ok": True, "name": name})
    for prefix, name in (("prod:", "of production"), ("test:", "of staging")):
        assert [json.loads(entry["data"])["name"] for entry in redis.stream(f"{prefix}actions:1")] == [name]
        assert [entry["event"] for entry in until(lambda: redis.stream(f"{prefix}life"), "an entry")] == ["connected"]


@pytest.mark.one_server("it lists the channels of one server")
def test_everything_in_redis_begins_with_the_prefix(environments, redis):
    for node in environments:
        player = node.player("alice")
        for channel in ("chat:1", "chat:*", "world:1"):
            player.subscribe(channel)
        player.publish("world:1", "move", {"id": "a", "public": True})
        player.publish("act:1", "do", {"ok": True})
        narrow(node, "alice", "chat:1", "true")
    names = {name.decode() for name in [*redis.client.keys("*"), *redis.client.pubsub_channels()]}
    assert len(names) > 10
    assert all(name.startswith(("prod:", "test:")) for name in names), names
    assert {f"{prefix}drawbridge:nodes:0" for prefix in ("prod:", "test:")} <= names
    # Patterns cannot be listed: who would hear this?
    assert redis.publish("chat:9", "x") == 0 and redis.publish("prod:chat:9", "x") == 1


def test_services_use_the_prefixed_names(environments, redis):
    player = environments[0].player("alice")
    for channel in ("chat:1", "world:1"):
        player.subscribe(channel)
    assert redis.publish("prod:chat:1", json.dumps({"event": "hi", "data": 1})) == 1
    assert player.event("chat:1", "hi")["data"] == 1
    call = redis.client.fcall
    entity = json.dumps({"event": "move", "data": {"id": "a", "public": True}})
    assert call("drawbridge_publish", 1, "prod:world:1", entity) == 1
    player.sees("world:1", {"a"})
    assert call("drawbridge_publish", 1, "prod:chat:1", json.dumps({"event": "ho"})) == 0
    player.event("chat:1", "ho")


def test_a_name_without_a_prefix_belongs_to_no_environment(own_redis, start):
    start(own_redis, broker={"channel_prefix": "prod:"})
    entity = json.dumps({"event": "move", "data": {"id": "a", "public": True}})
    with pytest.raises(Exception, match="NOENVIRONMENT"):
        own_redis.client.fcall("drawbridge_publish", 1, "world:1", entity)


def test_environments_keep_their_own_classes_and_limits(redis, start):
    entities = {"name": "small:{x}", "subscribe": "true", "publish": "true", "kind": "entity", "key": "data.id"}
    start(redis, broker={"channel_prefix": "prod:"}, channel=[{**entities, "entity_max": 3}])
    start(redis, broker={"channel_prefix": "test:", "external_bytes": 2048}, channel=[{**entities, "key": "data.name", "entity_max": 1}])

    def publish(channel, **data):
        return redis.client.fcall("drawbridge_publish", 1, channel, json.dumps({"event": "e", "data": data}))

    for number in range(3):
        assert publish("prod:small:1", id=f"e{number}") == number + 1
    assert publish("test:small:1", name="a") == 1
    for channel, data in (("prod:small:1", {"id": "more"}), ("test:small:1", {"name": "b"})):
        with pytest.raises(Exception, match="LIMIT_EXCEEDED"):
            publish(channel, **data)
    with pytest.raises(Exception, match="BADKEY data.name"):
        publish("test:small:1", id="a")
    assert publish("prod:small:1", id="e0", text="x" * 4000) == 4
    with pytest.raises(Exception, match="TOOLARGE"):
        publish("test:small:1", name="a", text="x" * 4000)


def test_the_longest_prefix_counts_and_nodes_keep_to_their_own(redis, start):
    """Where one prefix begins the other: told in the log, and no table has two owners."""
    entities = {"subscribe": "true", "publish": "true", "kind": "entity", "key": "data.id"}
    whole = start(redis, channel=[{**entities, "name": "prod:{kind}:{x}", "entity_max": 1}])
    part = start(redis, broker={"channel_prefix": "prod:"}, channel=[{**entities, "name": "world:{x}", "entity_max": 2}])
    for number in range(2):
        payload = json.dumps({"event": "e", "data": {"id": f"e{number}"}})
        assert redis.client.fcall("drawbridge_publish", 1, "prod:world:1", payload) == number + 1
    player = whole.player("alice")
    player.publish("prod:world:1", "e", {"id": "own"})
    player.subscribe("prod:world:1")
    player.sees("prod:world:1", {"own"})
    assert redis.client.hlen("prod:drawbridge:{prod:world:1}:entities") == 4 + 2
    assert redis.client.hlen("drawbridge:{prod:world:1}:entities") == 4 + 1
    assert 'other=""' in part.log or "other= " in part.log, part.log
    assert "they are not separated" in part.log


def test_players_never_see_the_prefix(own_redis, start):
    rights = [rule for rule in acl_of("bridge") if rule[0] in "+-@"]
    own_redis.client.execute_command("ACL", "SETUSER", "bridge", "on", ">secret", *rights, "~secretprefix:*", "&secretprefix:*")
    own_redis.client.execute_command("ACL", "SETUSER", "bridge", "resetchannels", "&secretprefix:drawbridge:*", "&secretprefix:chat:1", "&secretprefix:player:*")
    node = start(
        f"redis://bridge:secret@127.0.0.1:{own_redis.port}",
        broker={"channel_prefix": "secretprefix:"},
        channel=[
            {"name": "chat:{room}", "subscribe": "channel == 'chat:' + params.room", "publish": "true", "patterns": True},
            {"name": "world:{world}", "subscribe": "true", "publish": "true", "kind": "entity", "key": "data.id"},
        ],
    )
    player = node.player("alice")
    assert [each["channel"] for each in player.hello["subscriptions"]] == ["player:alice"]
    player.subscribe("chat:1")
    player.publish("chat:1", "said", 1)
    assert player.event("chat:1")["data"] == 1
    for channel in ("chat:2", "chat:*", "world:1"):
        assert player.ask("CHANNEL_SUBSCRIBE", channel=channel)["code"] == "BROKER_REFUSED"
    assert player.ask("PUBLISH_EVENT", channel="chat:2", event="e")["code"] == "BROKER_REFUSED"
    assert player.ask("PUBLISH_EVENT", channel="world:1", event="e", data={"id": "a"})["code"] == "BROKER_REFUSED"
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="secretprefix:chat:1")
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="drawbridge:nodes:0")
    seen = [message for message in player.received if message.get("channel") != "secretprefix:chat:1"]
    assert len(seen) > 8 and "secretprefix" not in json.dumps([m for m in seen if "secretprefix:chat:1" not in m.get("message", "")])


def test_a_node_whose_entry_was_lost_writes_it_again(own_redis, start):
    broker = {"channel_prefix": "prod:"}
    player = start(own_redis, broker=broker).player("alice")
    player.publish("world:1", "move", {"id": "a", "public": True})
    own_redis.client.function_delete("drawbridge")
    start(own_redis, broker={"channel_prefix": "test:"})
    player.publish("world:1", "move", {"id": "b", "public": True})
    player.subscribe("world:1")
    player.sees("world:1", {"a", "b"})


def test_databases_do_not_separate_and_that_is_said(own_redis, start, tmp_path):
    nodes = [start(f"{own_redis.url}/{db}") for db in (0, 1)]
    warning = "names database 1, and Redis Pub/Sub ignores databases"
    assert warning not in nodes[0].log and warning in nodes[1].log
    # What is said of keys stays in the database that has them.
    players = [node.player("bob") for node in nodes]
    assert nodes[1].admin("POST", "/api/players/bob/disconnect", {}).status == 200
    players[1].closes_with(4502)
    players[0].sync()
    names = {name.decode() for name in own_redis.client.pubsub_channels("drawbridge:*")}
    names = {name for name in names if not name.startswith(("drawbridge:probe:", "drawbridge:replies:"))}
    assert names == {"drawbridge:nodes:0", "drawbridge:nodes:1"}

    def checked(**broker):
        config = {**nodes[1].config, "broker": {**nodes[1].config["broker"], **broker}}
        result = run("check-config", write_config(config, tmp_path))
        assert result.returncode == 0, result.stderr
        return result.stderr

    assert warning in checked()
    assert warning not in checked(channel_prefix="prod:")
    assert warning not in checked(url=f"{own_redis.url}/0")


def test_the_memory_broker_takes_a_prefix_and_needs_none(start):
    node = start(None, broker={"channel_prefix": "prod:"})
    player = node.player("alice")
    player.subscribe("chat:1")
    player.publish("chat:1", "said", 1)
    assert player.event("chat:1")["data"] == 1


def test_the_rights_that_the_docs_give_suffice_and_reach_no_other_environment(own_redis, start):
    for user in ("prodbridge", "prodservice"):
        own_redis.client.execute_command("ACL", "SETUSER", user, *acl_of(user))
    node = start(
        f"redis://prodbridge:secret@127.0.0.1:{own_redis.port}",
        broker={"channel_prefix": "prod:"},
        channel=[
            {"name": "sworld:{x}", "subscribe": "true", "publish": "true", "kind": "entity", "key": "data.id"},
            {"name": "room:{x}", "subscribe": "true", "publish": "true", "patterns": True, "history": {"events": 9, "age": "1m"}},
            {"name": "act:{x}", "publish": "true", "forward": "actions:{x}"},
        ],
        **STREAMS,
    )
    player = node.player("alice")
    for channel in ("sworld:1", "room:1", "room:*"):
        player.subscribe(channel)
    for channel in ("sworld:1", "room:1", "act:1"):
        player.publish(channel, "e", {"id": "a"})
    narrow(node, "alice", "room:1", "true")
    service = own_redis.own_client()
    service.execute_command("AUTH", "prodservice", "secret")
    assert service.fcall("drawbridge_publish", 1, "prod:sworld:1", '{"event":"e","data":{"id":"b"}}') == 2
    player.sees("sworld:1", {"a", "b"})
    for refused in (
        ("PUBLISH", "sworld:1", "{}"),
        ("PUBLISH", "prod:drawbridge:nodes:0", "{}"),
        ("HSET", "prod:drawbridge:{player:alice}:views", "sworld:1", "true"),
        ("FCALL", "drawbridge_publish", 1, "sworld:1", "{}"),
    ):
        with pytest.raises(Exception, match="(?i)no permissions|NOPERM"):
            service.execute_command(*refused)
    bridge = own_redis.own_client()
    bridge.execute_command("AUTH", "prodbridge", "secret")
    for refused in (("SUBSCRIBE", "test:room:1"), ("PUBLISH", "drawbridge:nodes:0", "{}"), ("HLEN", "drawbridge:{world:1}:entities")):
        with pytest.raises(Exception, match="(?i)no permissions|NOPERM"):
            bridge.execute_command(*refused)


def test_laravels_prefix_and_names(redis, start):
    """Laravel's Redis prefix, dots between the parts of names, and an envelope with a key that is not of the contract."""
    classes = [
        {"name": "private-conversation.{id}", "subscribe": "params.id in me.conversations", "payload": "envelope"},
        {"name": "private-App.Models.User.{id}", "subscribe": "params.id == me.player", "payload": "envelope"},
    ]
    node = start(
        redis,
        broker={"channel_prefix": "laravel_database_"},
        connection={"auto_subscribe": ["private-App.Models.User.{sub}"]},
        channel=classes,
    )
    player = node.player("7", conversations=["19"])
    assert [each["channel"] for each in player.hello["subscriptions"]] == ["private-App.Models.User.7"]
    player.subscribe("private-conversation.19")
    for other in ("private-conversation.20", "private-conversation.19.x", "private-App.Models.User.8", "laravel_database_private-conversation.19"):
        player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel=other)
    said = json.dumps({"event": "App\\Events\\MessageSent", "data": {"text": "hi"}, "socket": None})
    for channel in ("private-conversation.19", "private-App.Models.User.7"):
        assert redis.publish(f"laravel_database_{channel}", said) == 1
        assert player.event(channel, "App\\Events\\MessageSent")["data"] == {"text": "hi"}
    # A dot in a claim would begin another part of the name.
    assert node.player("7.8").hello["subscriptions"] == []
