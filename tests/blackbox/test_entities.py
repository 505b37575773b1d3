"""Entity channels: the table that a client sees, who writes it, what bounds it, and that no ghost survives."""

import json

import pytest
from redis import exceptions as redis_errors

from harness.wait import until


def state(id, **data):
    return {"id": id, **data}


def fcall(redis, channel, event="e", **data):
    return redis.client.fcall("drawbridge_publish", 1, channel, json.dumps({"event": event, "data": data}))


def test_what_is_in_view_comes_behind_the_confirmation(node, redis):
    for n in range(3):
        fcall(redis, "world:1", id=f"e{n}", n=n, public=True)
    player = node.player("alice")
    player.subscribe("world:1")
    enter = player.expect("VIEW_ENTER")
    assert (enter["reset"], enter["complete"]) == (True, True)
    assert [(entity["key"], entity["event"]) for entity in enter["entities"]] == [("e0", "e"), ("e1", "e"), ("e2", "e")]
    assert [m.type for m in player.received][-2:] == ["CHANNEL_SUBSCRIBED", "VIEW_ENTER"]


def test_a_table_of_nothing_is_told_too(node):
    player = node.player("alice")
    player.subscribe("world:1")
    assert player.expect("VIEW_ENTER")["entities"] == []
    assert player.tables["world:1"].synced


def test_an_entity_enters_changes_and_is_removed(node, redis):
    player = node.player("alice")
    player.subscribe("world:1")
    player.sees("world:1", [])
    fcall(redis, "world:1", id=7, n=1, public=True)
    assert player.sees("world:1", ["7"])["7"]["n"] == 1
    fcall(redis, "world:1", id=7, n=2, public=True)
    assert player.event("world:1")["key"] == "7"
    fcall(redis, "world:1", event="remove", id=7)
    leave = player.expect("VIEW_LEAVE")
    assert (leave["keys"], leave["reason"]) == (["7"], "removed")


@pytest.mark.parametrize("way", ["fcall", "http", "player", "plain"])
def test_every_way_in_changes_the_table(node, redis, way):
    watcher, author = node.player("alice"), node.player("bob")
    watcher.subscribe("world:1")
    data = state("e1", n=1, public=True)
    if way == "fcall":
        fcall(redis, "world:1", **data)
    elif way == "http":
        assert node.publish("world:1", "e", data).status == 200
    elif way == "player":
        author.publish("world:1", "e", data)
    else:
        redis.publish("world:1", json.dumps({"event": "e", "data": data}))
    assert watcher.sees("world:1", ["e1"]) == {"e1": data}
    if way != "plain":
        late = node.player("carol")
        late.subscribe("world:1")
        assert late.sees("world:1", ["e1"]) == {"e1": data}


@pytest.mark.parametrize("way", ["fcall", "http", "player"])
def test_what_is_stored_first_takes_nothing_from_what_plain_events_told(node, redis, way):
    watcher, author = node.player("alice"), node.player("bob")
    watcher.subscribe("world:1")
    redis.publish("world:1", json.dumps({"event": "e", "data": state("plain", public=True)}))
    watcher.sees("world:1", ["plain"])
    data = state("stored", public=True)
    if way == "fcall":
        fcall(redis, "world:1", **data)
    elif way == "http":
        assert node.publish("world:1", "e", data).status == 200
    else:
        author.publish("world:1", "e", data)
    watcher.sees("world:1", ["plain", "stored"])
    fcall(redis, "world:1", event="remove", id="plain")
    leave = watcher.expect("VIEW_LEAVE")
    assert (leave["keys"], leave["reason"]) == (["plain"], "removed")
    assert not [m for m in watcher.received if m.type == "RESYNC"]


def test_a_table_that_has_expired_begins_anew_without_a_break(start, redis):
    small = {"name": "small:{x}", "subscribe": "true", "kind": "entity", "key": "data.id", "entity_ttl": "1s"}
    node = start(redis, channel=[small])
    player = node.player("alice")
    player.subscribe("small:1")
    for round in range(6):
        fcall(redis, "small:1", id=f"a{round}", public=True)
        player.expect("VIEW_ENTER", channel="small:1")
        # Redis has forgotten the table; the node may not have looked yet.
        until(lambda: not redis.client.keys("drawbridge:{small:1}*"), "the table has expired")
    player.sees("small:1", [])
    assert not [m for m in player.received if m.type == "RESYNC"]


def test_the_payload_passes_byte_for_byte(node, redis):
    player = node.player("alice")
    player.subscribe("world:1")
    redis.client.fcall("drawbridge_publish", 1, "world:1", '{"event":"e","data":{"id":"a","big":123456789012345678901,"public":true}}')
    player.sees("world:1", ["a"])
    assert b"123456789012345678901" in player.expect("VIEW_ENTER", where=lambda m: m["entities"]).raw


def test_fog_of_war_by_team(node, redis):
    red, blue = node.player("alice", team="red"), node.player("bob", team="blue")
    for player in (red, blue):
        player.subscribe("world:1")
    fcall(redis, "world:1", id="r", team="red")
    fcall(redis, "world:1", id="b", team="blue")
    red.sees("world:1", ["r"])
    blue.sees("world:1", ["b"])
    fcall(redis, "world:1", id="r", team="red", public=True)
    blue.sees("world:1", ["r", "b"])
    fcall(redis, "world:1", id="r", team="red")
    assert blue.expect("VIEW_LEAVE")["reason"] == "view"
    fcall(redis, "world:1", id="r", team="blue")
    red.sees("world:1", [])
    blue.sees("world:1", ["r", "b"])


def test_a_filter_narrows_and_never_widens(node, redis):
    player = node.player("alice", team="red")
    player.subscribe("world:1", filter="true")
    for n, team in enumerate(["red", "blue", "red"]):
        fcall(redis, "world:1", id=f"e{n}", n=n, team=team)
    player.sees("world:1", ["e0", "e2"])
    assert player.ask("FILTER_UPDATE", channel="world:1", filter="data.n > 0 || data.team == 'blue'").type == "FILTER_UPDATED"
    player.sees("world:1", ["e2"])
    player.refusal("FILTER_UPDATE", "FILTER_INVALID", channel="world:1", filter="data.n >")
    player.sync()
    assert set(player.entities("world:1")) == {"e2"}
    assert player.ask("FILTER_UPDATE", channel="world:1", filter=None).type == "FILTER_UPDATED"
    player.sees("world:1", ["e0", "e2"])


def test_new_claims_show_what_the_new_team_may_see(node, redis):
    from harness.tokens import mint

    player = node.player("alice", team="red")
    player.subscribe("world:1")
    fcall(redis, "world:1", id="r", team="red")
    fcall(redis, "world:1", id="b", team="blue")
    player.sees("world:1", ["r"])
    assert player.ask("TOKEN_REFRESH", token=mint("alice", team="blue")).type == "TOKEN_REFRESHED"
    player.sees("world:1", ["b"])


def test_thousands_come_in_parts_and_complete(node, redis):
    pipe = redis.client.pipeline()
    for n in range(3000):
        payload = json.dumps({"event": "e", "data": {"id": f"e{n}", "public": True, "pad": "x" * 60}})
        pipe.fcall("drawbridge_publish", 1, "world:1", payload)
    pipe.execute()
    player = node.player("alice", encoding="drawbridge.v1.msgpack")
    player.subscribe("world:1")
    player.sees("world:1", [f"e{n}" for n in range(3000)])
    parts = [m for m in player.received if m.type == "VIEW_ENTER"]
    assert len(parts) > 3
    assert [m.get("reset", False) for m in parts] == [True] + [False] * (len(parts) - 1)
    assert [m["complete"] for m in parts] == [False] * (len(parts) - 1) + [True]


def test_subscribing_again_tells_the_table_anew(node, redis):
    player = node.player("alice")
    player.subscribe("world:1")
    fcall(redis, "world:1", id="a", public=True)
    fcall(redis, "world:1", id="b", public=True)
    player.sees("world:1", ["a", "b"])
    player.subscribe("world:1", filter="key == 'a'")
    player.expect("VIEW_ENTER", reset=True, where=lambda m: len(m["entities"]) == 1)
    player.sees("world:1", ["a"])


def test_subscriptions_by_claims_are_tables_too(start, redis):
    node = start(redis, connection={"auto_subscribe": ["world:{world}"]})
    fcall(redis, "world:9", id="a", public=True)
    player = node.player("alice", world="9")
    player.sees("world:9", ["a"])
    assert [m.type for m in player.received] == ["WELCOME", "VIEW_ENTER"]


def test_a_pattern_shows_plain_events_and_the_own_subscription_rules(node, redis):
    by_pattern, both = node.player("alice", team="red"), node.player("bob", team="red")
    by_pattern.subscribe("world:*")
    both.subscribe("world:*")
    both.subscribe("world:1", filter="key == 'a'")
    for key in ("a", "b"):
        fcall(redis, "world:1", id=key, team="red")
    fcall(redis, "world:1", id="hidden", team="blue")
    fcall(redis, "world:2", id="end", team="red")
    assert by_pattern.expect("EVENT", channel="world:2")["key"] == "end"
    assert [m["key"] for m in by_pattern.received if m.type == "EVENT"] == ["a", "b", "end"]
    both.expect("EVENT", channel="world:2")
    assert both.sees("world:1", ["a"]) and not [m for m in both.received if m.type == "EVENT" and m["channel"] == "world:1"]


# bounds and bad input


def test_no_more_than_entity_max(start, redis):
    classes = [{"name": "small:{x}", "subscribe": "true", "publish": "true", "kind": "entity", "key": "data.id", "entity_max": 2}]
    node = start(redis, channel=classes)
    player = node.player("alice")
    player.subscribe("small:1")
    for key in ("a", "b"):
        player.publish("small:1", "e", state(key))
    player.refusal("PUBLISH_EVENT", "LIMIT_EXCEEDED", channel="small:1", event="e", data=state("c"))
    assert node.publish("small:1", "e", state("c")).status == 409
    with pytest.raises(Exception, match="LIMIT_EXCEEDED"):
        fcall(redis, "small:1", id="c")
    redis.publish("small:1", json.dumps({"event": "e", "data": state("c")}))
    until(lambda: node.metric("drawbridge_dropped_full_total") == 1, "the drop is counted")
    player.publish("small:1", "remove", state("a"))
    player.publish("small:1", "e", state("c"))
    player.sees("small:1", ["b", "c"])


def test_an_entity_of_which_nothing_is_heard_goes(start, redis):
    classes = [{"name": "brief:{x}", "subscribe": "true", "kind": "entity", "key": "data.id", "entity_ttl": "600ms"}]
    node = start(redis, channel=classes)
    player = node.player("alice")
    player.subscribe("brief:1")
    fcall(redis, "brief:1", id="a")
    player.sees("brief:1", ["a"])
    leave = player.expect("VIEW_LEAVE")
    assert (leave["keys"], leave["reason"]) == (["a"], "removed")
    until(lambda: not redis.client.keys("*brief*"), "Redis has forgotten the table")


BAD = ["{}", '{"id":{}}', '{"id":[]}', '{"id":true}', '{"id":""}', '{"id":null}', '{"id":"%s"}' % ("k" * 256), '"text"', "null", "7"]


@pytest.mark.parametrize("data", BAD)
def test_an_event_without_a_good_key_is_refused_or_dropped(node, redis, data):
    player = node.player("alice")
    player.subscribe("world:1")
    player.send_json('{"type":"PUBLISH_EVENT","id":99,"channel":"world:1","event":"e","data":%s}' % data)
    reply = player.reply(99)
    assert reply.type == "ERROR" and reply["code"] == "BAD_MESSAGE" and "data.id" in reply["message"]
    payload = '{"event":"e","data":%s}' % data
    with pytest.raises(Exception, match="BADKEY"):
        redis.client.fcall("drawbridge_publish", 1, "world:1", payload)
    redis.publish("world:1", payload)
    fcall(redis, "world:1", id="good", public=True)
    player.sees("world:1", ["good"])
    assert node.metric("drawbridge_dropped_bad_key_total") == 1
    assert node.admin("POST", "/api/publish", {"channel": "world:1", "event": "e", "data": json.loads(data)}).status == 400


def test_a_megabyte_of_key_stalls_nobody(node, redis):
    player = node.player("alice")
    player.subscribe("world:1")
    redis.publish("world:1", json.dumps({"event": "e", "data": {"id": "k" * 1_000_000}}))
    fcall(redis, "world:1", id="good", public=True)
    player.sees("world:1", ["good"])


def test_fcall_elsewhere_publishes(node, redis):
    player = node.player("alice")
    player.subscribe("chat:1")
    assert redis.client.fcall("drawbridge_publish", 1, "chat:1", '{"event":"hit","data":1}') == 0
    assert player.event("chat:1", "hit")["data"] == 1


# breaks


def test_two_nodes_show_the_same_and_one_survives_the_other(start, redis):
    nodes = [start(redis), start(redis)]
    players = [node.player(f"p{n}") for n, node in enumerate(nodes)]
    for player in players:
        player.subscribe("world:1")
    players[0].publish("world:1", "e", state("a", public=True))
    players[1].publish("world:1", "e", state("b", public=True))
    for player in players:
        player.sees("world:1", ["a", "b"])
    nodes[0].kill()
    players[1].publish("world:1", "remove", state("a"))
    players[1].sees("world:1", ["b"])
    late = start(redis).player("late")
    late.subscribe("world:1")
    late.sees("world:1", ["b"])


def test_no_ghost_survives_a_broken_link(own_redis, start):
    node = start(own_redis)
    player = node.player("alice")
    player.subscribe("world:1")
    for key in ("a", "b"):
        fcall(own_redis, "world:1", id=key, public=True)
    player.sees("world:1", ["a", "b"])
    own_redis.cut_clients("pubsub")
    # While nobody hears it.
    fcall(own_redis, "world:1", event="remove", id="a")
    fcall(own_redis, "world:1", id="c", public=True)
    player.expect("RESYNC", channel="world:1")
    player.sees("world:1", ["b", "c"])
    assert player.tables["world:1"].snapshots >= 2


def test_a_redis_that_lost_everything_is_followed(own_redis, start):
    node = start(own_redis)
    player = node.player("alice")
    player.subscribe("world:1")
    player.publish("world:1", "e", state("a", public=True))
    player.sees("world:1", ["a"])
    node.loses_redis(own_redis.kill)
    own_redis.start()
    player.expect("STATUS", broker="ok", timeout=20)
    player.sees("world:1", [])
    player.publish("world:1", "e", state("b", public=True))
    player.sees("world:1", ["b"])


def test_lost_functions_are_loaded_again(node, redis):
    player = node.player("alice")
    player.subscribe("world:1")
    redis.client.function_flush()
    player.publish("world:1", "e", state("a", public=True))
    player.sees("world:1", ["a"])


def test_a_flushed_table_is_no_ghost(node, redis):
    player = node.player("alice")
    player.subscribe("world:1")
    player.publish("world:1", "e", state("a", public=True))
    player.sees("world:1", ["a"])
    redis.client.flushall()
    player.publish("world:1", "e", state("b", public=True))
    player.sees("world:1", ["b"])


def test_nothing_is_left_of_a_table_when_everybody_has_gone(node, redis):
    players = [node.player(f"p{n}", team="red") for n in range(5)]
    for n, player in enumerate(players):
        player.subscribe("map:1", area={"x": n, "y": 0, "radius": 10}, filter=f"data.n > {n}")
        player.publish("map:1", "e", state(f"e{n}", x=n, y=0, n=10))
    for player in players:
        player.sees("map:1", [f"e{n}" for n in range(5)])
    for player in players:
        player.vanish()
    gauges = ["entities", "table_entities", "views", "outbound_queue_bytes", "subscriptions", "redis_subscriptions_live"]
    # What is left is the channel on which nodes talk.
    left = [0, 0, 0, 0, 0, node.own_subjects]
    until(lambda: [node.metric(f"drawbridge_{name}") for name in gauges] == left, "all gauges are back")


# what is in the table, every node can read


@pytest.mark.parametrize("way", ["fcall", "http", "player"])
def test_around_the_bound_an_event_is_refused_or_told(start, redis, way):
    node = start(redis, broker={"external_bytes": "2KiB"})
    player, author = node.player("alice"), node.player("bob")
    player.subscribe("world:1")
    taken = 0
    for size in range(1700, 2100, 9):
        data = state("e1", public=True, pad="x" * size, n=size)
        if way == "fcall":
            try:
                fcall(redis, "world:1", **data)
                taken = size
            except redis_errors.ResponseError as error:
                assert "TOOLARGE" in str(error)
        elif way == "http":
            answer = node.publish("world:1", "e", data)
            assert answer.status in (200, 413)
            taken = size if answer.status == 200 else taken
        else:
            reply = author.ask("PUBLISH_EVENT", channel="world:1", event="e", data=data)
            assert reply.type == "EVENT_PUBLISHED" or reply["code"] == "TOO_LARGE"
            taken = size if reply.type == "EVENT_PUBLISHED" else taken
    assert 1700 <= taken < 2040
    fcall(redis, "world:1", id="end", public=True)
    assert player.sees("world:1", ["e1", "end"])["e1"]["n"] == taken
    assert not [m for m in player.received if m.type == "RESYNC"]


def test_a_payload_that_nodes_cannot_read_costs_nobody_a_resync(node, redis):
    player = node.player("alice")
    player.subscribe("world:1")
    for data in ('{"id":01}', '{"id":"a","n":1.}', '{"id":"a","t":"\t"}', b'{"id":"a","t":"\xff"}', '{"id":"a","n":%s}' % ("[" * 70 + "]" * 70)):
        data = data if isinstance(data, bytes) else data.encode()
        with pytest.raises(Exception, match="BADPAYLOAD"):
            redis.client.fcall("drawbridge_publish", 1, "world:1", b'{"event":"e","data":' + data + b"}")
        fcall(redis, "world:1", id="good", public=True)
        player.sees("world:1", ["good"])
    deep = "[" * 70 + "]" * 70
    body = {"channel": "world:1", "event": "e", "data": state("a"), "tags": {"deep": json.loads(deep)}}
    assert node.admin("POST", "/api/publish", body).status == 400
    assert not [m for m in player.received if m.type == "RESYNC"]
    assert node.metric("drawbridge_table_gaps_total") == 0


def test_who_may_not_publish_keeps_nothing(own_redis, start):
    """A state that nobody was told of would be a hole: Redis takes nothing back of a function that fails half-way."""
    node = start(own_redis)
    player = node.player("alice")
    player.subscribe("world:1")
    player.sees("world:1", [])
    own_redis.client.execute_command("ACL", "SETUSER", "mute", "on", "nopass", "+@all", "~*", "resetchannels", "&other:*")
    mute = own_redis.own_client()
    mute.execute_command("AUTH", "mute", "x")
    with pytest.raises(redis_errors.ResponseError, match="channel"):
        mute.fcall("drawbridge_publish", 1, "world:1", json.dumps({"event": "e", "data": {"id": "a", "public": True}}))
    mute.close()
    assert fcall(own_redis, "world:1", id="b", public=True) == 1, "the first change of the table"
    player.sees("world:1", ["b"])
    late = start(own_redis).player("late")
    late.subscribe("world:1")
    late.sees("world:1", ["b"])


def test_functions_that_redis_has_lost_come_back_without_a_publish(own_redis, start):
    node = start(own_redis)
    player = node.player("alice")
    player.subscribe("world:1")
    own_redis.client.function_flush()

    def is_taken():
        try:
            return fcall(own_redis, "world:1", id="e1", public=True)
        except Exception as error:
            assert "Function not found" in str(error)
            return None

    assert not is_taken()
    until(is_taken, "the functions are there again", timeout=30)
    player.sees("world:1", ["e1"])
    assert not [m for m in player.received if m.type in ("STATUS", "RESYNC")]
