"""Areas of interest: what is in them, hysteresis, whom they may follow, what is refused; and a walk beside brute force."""

import json
import math
import random

import msgpack
import pytest

from harness.websocket import JSON, MSGPACK


def put(redis, key, x, y=0.0, **data):
    payload = json.dumps({"event": "move", "data": {"id": key, "x": x, "y": y, **data}})
    redis.client.fcall("drawbridge_publish", 1, "map:1", payload)


def move(player, area):
    assert player.ask("FILTER_UPDATE", channel="map:1", area=area).type == "FILTER_UPDATED"


def test_the_edge_of_a_circle_belongs_to_it(node, redis):
    player = node.player("alice")
    player.subscribe("map:1", area={"x": 0, "y": 0, "radius": 10})
    put(redis, "in", 6, 8)
    put(redis, "out", 6, 8.001)
    put(redis, "end", 0)
    player.sees("map:1", ["in", "end"])


def test_the_edge_of_a_box_belongs_to_it(node, redis):
    player = node.player("alice")
    player.subscribe("map:1", area={"min": [0, 0], "max": [100, 50]})
    for key, x, y in (("corner", 100, 50), ("zero", 0, 0), ("out", 100.1, 0), ("below", 5, -0.1), ("end", 1, 1)):
        put(redis, key, x, y)
    player.sees("map:1", ["corner", "zero", "end"])


def test_who_is_in_leaves_later_than_it_came(node, redis):
    player = node.player("alice")
    player.subscribe("map:1", area={"x": 0, "y": 0, "radius": 10})
    for x, seen in ((11, False), (10, True), (12, True), (12.5, False), (11, False), (9, True)):
        put(redis, "a", x)
        player.sees("map:1", ["a"] if seen else [])
        player.sync()
        assert ("a" in player.entities("map:1")) == seen, x
    assert {m["reason"] for m in player.received if m.type == "VIEW_LEAVE"} == {"view"}


def test_an_area_moves_grows_and_goes(node, redis):
    player = node.player("alice")
    for key in range(10):
        put(redis, f"e{key}", key * 10)
    player.subscribe("map:1", area={"x": 0, "y": 0, "radius": 15})
    player.sees("map:1", ["e0", "e1"])
    move(player, {"x": 50, "y": 0, "radius": 15})
    player.sees("map:1", ["e4", "e5", "e6"])
    move(player, {"min": [0, -1], "max": [1000, 1]})
    player.sees("map:1", [f"e{key}" for key in range(10)])
    move(player, {"x": 5000, "y": 0, "radius": 1})
    player.sees("map:1", [])
    move(player, None)
    player.sees("map:1", [f"e{key}" for key in range(10)])


def test_a_filter_and_an_area_hold_together(node, redis):
    player = node.player("alice")
    for key in range(6):
        put(redis, f"e{key}", key, hp=key)
    player.subscribe("map:1", area={"x": 0, "y": 0, "radius": 3}, filter="data.hp > 1")
    player.sees("map:1", ["e2", "e3"])
    assert player.ask("FILTER_UPDATE", channel="map:1", filter="data.hp < 1").type == "FILTER_UPDATED"
    player.sees("map:1", ["e0"])
    move(player, {"x": 0, "y": 0, "radius": 100})
    player.sees("map:1", ["e0"])


def test_an_area_follows_an_entity(node, redis):
    player = node.player("alice")
    put(redis, "alice", 0)
    put(redis, "near", 5)
    put(redis, "far", 500)
    player.subscribe("map:1", area={"follow": "alice", "radius": 10})
    player.sees("map:1", ["alice", "near"])
    put(redis, "alice", 498)
    player.sees("map:1", ["alice", "far"])
    assert not [m for m in player.received if m.type == "VIEW_LEAVE" and "alice" in m["keys"]], "it never leaves itself"
    redis.client.fcall("drawbridge_publish", 1, "map:1", '{"event":"remove","data":{"id":"alice"}}')
    player.sees("map:1", [])
    put(redis, "alice", 4)
    player.sees("map:1", ["alice", "near"])


@pytest.mark.parametrize("follow_hidden", [False, True])
def test_an_area_follows_a_hidden_entity_only_where_the_class_says_so(start, redis, follow_hidden):
    hunt = {"name": "hunt:{h}", "subscribe": "true", "kind": "entity", "key": "data.id", "position": ["data.x", "data.y"]}
    hunt |= {"view": "data.public", "follow": "true", "follow_hidden": follow_hidden}
    node = start(redis, channel=[hunt])

    def place(key, x, public=True):
        payload = json.dumps({"event": "move", "data": {"id": key, "x": x, "y": 0, "public": public}})
        redis.client.fcall("drawbridge_publish", 1, "hunt:1", payload)

    place("prey", 0, public=False)
    place("near", 5)
    place("far", 100)
    player = node.player("alice")
    player.subscribe("hunt:1", area={"follow": "prey", "radius": 10})
    player.sees("hunt:1", ["near"] if follow_hidden else [])
    place("prey", 100, public=False)
    player.sees("hunt:1", ["far"] if follow_hidden else [])
    # Once it may be seen, its area is there; hidden again, the area goes with it.
    place("prey", 100)
    player.sees("hunt:1", ["prey", "far"])
    place("prey", 5, public=False)
    player.sees("hunt:1", ["near"] if follow_hidden else [])


def test_only_whom_the_class_allows_is_followed(node):
    player = node.player("alice")
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="map:1", area={"follow": "bob", "radius": 10})
    player.subscribe("map:1", area={"follow": "alice", "radius": 10})
    player.refusal("FILTER_UPDATE", "FORBIDDEN", channel="map:1", area={"follow": "bob", "radius": 10})


BAD_AREAS = [
    '{"x":0,"y":0,"radius":-1}', '{"x":0,"y":0,"radius":1000.5}', '{"x":0,"y":0}', '{"x":"0","y":0,"radius":1}',
    '{"x":1e999,"y":0,"radius":1}', '{"x":0,"y":0,"radius":1e999}', '{"min":[0,0],"max":[1]}', '{"min":[2,0],"max":[1,1]}',
    '{"min":[0,0],"max":[2001,1]}', '{"follow":"","radius":1}', '{"follow":"alice","x":0,"y":0,"radius":1}', '{}', '{"radius":5}',
    '{"x":0,"y":null,"radius":1}', '{"follow":"%s","radius":1}' % ("k" * 300),
]


@pytest.mark.parametrize("area", BAD_AREAS)
def test_a_bad_area_is_refused_and_changes_nothing(node, redis, area):
    player = node.player("alice")
    player.subscribe("map:1", area={"x": 0, "y": 0, "radius": 10})
    player.send_json('{"type":"FILTER_UPDATE","id":77,"channel":"map:1","area":%s}' % area)
    reply = player.reply(77)
    assert reply.type == "ERROR" and reply["code"] == "FILTER_INVALID" and reply["hint"] and "area" in reply["message"]
    player.send_json('{"type":"CHANNEL_SUBSCRIBE","id":78,"channel":"map:1","area":%s}' % area)
    assert player.reply(78)["code"] == "FILTER_INVALID"
    put(redis, "far", 500)
    put(redis, "near", 5)
    player.sees("map:1", ["near"])


@pytest.mark.parametrize("encoding", [JSON, MSGPACK])
def test_a_fault_is_placed_in_what_the_client_sent(node, encoding):
    """From the beginning of the area, in the bytes of the encoding that the client speaks."""
    player = node.player("alice", encoding=encoding)
    area = {"note": "a text that is longer in JSON: \n\n\n", "x": 1.5, "y": "north", "radius": 5}
    sent = player.encode(area)[1]
    place = sent.index(b'"north"' if encoding == JSON else msgpack.packb("north"))
    if encoding == JSON:
        # What the harness sends is one text, in which the area stands as it does here.
        assert json.dumps(area).encode() in json.dumps({"area": area}).encode()
    for request in ("CHANNEL_SUBSCRIBE", "FILTER_UPDATE"):
        if request == "FILTER_UPDATE":
            player.subscribe("map:1")
        error = player.refusal(request, "FILTER_INVALID", channel="map:1", area=area)
        assert error["position"] == place, (error, sent)


@pytest.mark.parametrize("area", ["5", '"x"', "[]", "true"])
def test_an_area_that_is_no_object_is_a_bad_message(node, area):
    player = node.player("alice")
    player.send_json('{"type":"CHANNEL_SUBSCRIBE","id":78,"channel":"map:1","area":%s}' % area)
    assert player.reply(78)["code"] == "BAD_MESSAGE"


@pytest.mark.parametrize("x", ['"5"', "1e999", "null", "{}", "true", "[1]"])
def test_a_position_that_is_no_number_is_refused_or_dropped(node, redis, x):
    player = node.player("alice")
    player.subscribe("map:1")
    data = '{"id":"bad","x":%s,"y":0}' % x
    player.send_json('{"type":"PUBLISH_EVENT","id":55,"channel":"map:1","event":"move","data":%s}' % data)
    reply = player.reply(55)
    assert (reply["code"], "data.x" in reply["message"]) == ("BAD_MESSAGE", True)
    with pytest.raises(Exception, match="BADPOSITION data.x"):
        redis.client.fcall("drawbridge_publish", 1, "map:1", '{"event":"move","data":%s}' % data)
    redis.publish("map:1", '{"event":"move","data":%s}' % data)
    put(redis, "good", 1)
    player.sees("map:1", ["good"])
    assert node.metric("drawbridge_dropped_bad_position_total") == 1


def test_without_an_area_nothing_is_shown_where_one_is_required(start, redis):
    kind = {"kind": "entity", "key": "data.id", "position": ["data.x", "data.y"], "area_required": True, "patterns": True}
    node = start(redis, channel=[{"name": "map:{map}", "subscribe": "true", **kind}])
    player, by_pattern = node.player("alice"), node.player("bob")
    by_pattern.subscribe("map:*")
    put(redis, "a", 0)
    player.subscribe("map:1")
    player.sees("map:1", [])
    player.sync()
    snapshot = [m for m in player.received if m.type == "VIEW_ENTER"]
    assert [(m["reason"], m["complete"], m["entities"]) for m in snapshot] == [("area_required", True, [])]
    put(redis, "b", 0)
    player.sync()
    assert player.entities("map:1") == {}
    move(player, {"x": 0, "y": 0, "radius": 5})
    player.sees("map:1", ["a", "b"])
    assert all("reason" not in m for m in player.received if m.type == "VIEW_ENTER" and m["entities"])
    move(player, None)
    player.sees("map:1", [])
    by_pattern.silent_but_for()


def test_an_empty_world_needs_no_reason(start, redis):
    space = {"kind": "entity", "key": "data.id", "position": ["data.x", "data.y"]}
    classes = [
        {"name": "map:{map}", "subscribe": "true", **space, "area_required": True},
        {"name": "hall:{hall}", "subscribe": "true", **space},
    ]
    player = start(redis, channel=classes).player("alice")
    player.subscribe("map:1", area={"x": 0, "y": 0, "radius": 5})
    player.subscribe("hall:1")
    for channel in ("map:1", "hall:1"):
        player.sees(channel, [])
    player.sync()
    assert [m for m in player.received if m.type == "VIEW_ENTER" and "reason" in m] == []


def test_a_long_walk_shows_what_brute_force_says(node, redis):
    dice = random.Random(7)
    viewers = [node.player(f"v{n}") for n in range(4)]
    areas = []
    for player in viewers:
        area = {"x": dice.uniform(0, 100), "y": dice.uniform(0, 100), "radius": dice.uniform(5, 40)}
        player.subscribe("map:1", area=area)
        areas.append(area)
    world = {}
    for step in range(60):
        pipe = redis.client.pipeline()
        for _ in range(20):
            key = f"e{dice.randrange(80)}"
            if key in world and dice.random() < 0.1:
                del world[key]
                pipe.fcall("drawbridge_publish", 1, "map:1", json.dumps({"event": "remove", "data": {"id": key}}))
                continue
            x, y = (dice.uniform(0, 100) for _ in range(2))
            world[key] = (x, y)
            pipe.fcall("drawbridge_publish", 1, "map:1", json.dumps({"event": "move", "data": {"id": key, "x": x, "y": y}}))
        pipe.execute()
        for n, player in enumerate(viewers):
            if dice.random() < 0.5:
                areas[n] = {**areas[n], "x": dice.uniform(0, 100), "y": dice.uniform(0, 100)}
                move(player, areas[n])
    put(redis, "last", 50, 50)
    world["last"] = (50, 50)
    for player, area in zip(viewers, areas):
        # All that was published has come when a place that everyone sees has.
        move(player, {"x": 50, "y": 50, "radius": 1})
        player.expect("VIEW_ENTER", where=lambda m: "last" in [e["key"] for e in m["entities"]]) if "last" not in player.entities("map:1") else None
        move(player, area)
        distance = {key: math.dist(at, (area["x"], area["y"])) for key, at in world.items()}
        certain = {key for key, d in distance.items() if d <= area["radius"]}
        possible = {key for key, d in distance.items() if d <= area["radius"] + 2.0}
        player.sync()
        seen = set(player.entities("map:1"))
        assert certain <= seen <= possible, (certain - seen, seen - possible)
