"""How fast and how fresh: FILTER_UPDATE's boundary, batches, conflation, the choice under a limit, and slow readers."""

import itertools
import json

import pytest

from harness.wait import Deadline, until

OPEN = {"subscribe": "true", "publish": "true"}


def batched(**more):
    return {"name": "fast:{x}", **OPEN, "key": "data.id", "batch": "100ms", **more}


def burst(redis, channel, events):
    pipe = redis.client.pipeline(transaction=False)
    for data in events:
        pipe.publish(channel, json.dumps({"event": "e", "data": data}))
    pipe.execute()


# the boundary


def test_the_reply_is_the_boundary(node, redis):
    player = node.player("alice")
    player.subscribe("chat:1", filter="data.n % 2 == 0")
    for round in range(20):
        odd = round % 2
        id = player.start("FILTER_UPDATE", channel="chat:1", filter=f"data.n % 2 == {odd}")
        burst(redis, "chat:1", [{"n": n} for n in range(10)])
        player.reply(id)
    redis.publish("chat:1", '{"event":"end","data":{"n":1}}')
    player.expect("EVENT", event="end")
    replies = 0
    for message in player.received:
        if message.type == "FILTER_UPDATED":
            replies += 1
        elif message.type == "EVENT":
            # Before the first reply even numbers were asked for, and behind it again.
            assert message["data"]["n"] % 2 == (replies - 1) % 2 or replies == 0 and message["data"]["n"] % 2 == 0, message
    assert replies == 20


def test_a_batch_that_waits_is_told_before_the_boundary(start, redis):
    node = start(redis, channel=[batched(batch="2s")])
    player = node.player("alice")
    player.subscribe("fast:1")
    burst(redis, "fast:1", [{"id": n} for n in range(3)])
    until(lambda: node.metric("drawbridge_deliveries_total") == 3, "the events wait")
    assert player.ask("FILTER_UPDATE", channel="fast:1", filter="false").type == "FILTER_UPDATED"
    assert [m.type for m in player.received][-4:] == ["EVENT"] * 3 + ["FILTER_UPDATED"]


@pytest.mark.parametrize("fields, left", [({}, [2]), ({"filter": None}, [1, 2, 3]), ({"filter": "data.n > 2"}, [3])])
def test_null_removes_and_what_is_absent_stays(node, redis, fields, left):
    player = node.player("alice")
    player.subscribe("chat:1", filter="data.n == 2")
    assert player.ask("FILTER_UPDATE", channel="chat:1", **fields).type == "FILTER_UPDATED"
    burst(redis, "chat:1", [{"n": n} for n in (1, 2, 3)])
    redis.publish("chat:1", '{"event":"end","data":{"n":2}}') if left != [3] else redis.publish("chat:1", '{"event":"end","data":{"n":3}}')
    assert [m["data"]["n"] for m in player.events_until("end")] == left


def test_filter_update_without_a_subscription_or_with_a_bad_filter(node, redis):
    player = node.player("alice")
    player.refusal("FILTER_UPDATE", "NOT_SUBSCRIBED", channel="chat:1", filter="true")
    player.subscribe("chat:1", filter="data.n == 2")
    error = player.refusal("FILTER_UPDATE", "FILTER_INVALID", channel="chat:1", filter="data.n == ")
    assert error["position"] >= 9 and error["hint"]
    player.refusal("FILTER_UPDATE", "BAD_MESSAGE", channel="chat:1", filter=5)
    player.refusal("FILTER_UPDATE", "FILTER_INVALID", channel="chat:1", filter="x" * 2000)
    burst(redis, "chat:1", [{"n": n} for n in (1, 2)])
    assert player.event("chat:1")["data"]["n"] == 2


def test_a_pattern_has_a_filter_that_changes(node, redis):
    player = node.player("alice")
    player.subscribe("chat:*", filter="data.n == 1")
    assert player.ask("FILTER_UPDATE", channel="chat:*", filter="data.n == 2").type == "FILTER_UPDATED"
    burst(redis, "chat:7", [{"n": n} for n in (1, 2)])
    assert player.event("chat:7")["data"]["n"] == 2
    player.refusal("FILTER_UPDATE", "FILTER_INVALID", channel="chat:*", area={"x": 0, "y": 0, "radius": 1})


def test_without_an_id_nothing_is_said(node, redis):
    player = node.player("alice")
    player.subscribe("chat:1")
    player.send({"type": "FILTER_UPDATE", "channel": "chat:1", "filter": "false"})
    player.silent_but_for("CHANNEL_SUBSCRIBED")


# batches


def test_what_is_due_in_a_window_comes_as_one_array(start, redis):
    node = start(redis, channel=[batched()])
    player = node.player("alice")
    player.subscribe("fast:1")
    burst(redis, "fast:1", [{"id": n} for n in range(100)])
    for n in range(100):
        assert player.event("fast:1")["data"]["id"] == n
    events = [m for m in player.received if m.type == "EVENT"]
    assert all(m.in_array for m in events)
    # One window, or two where the burst lay on its edge.
    assert len({id(m.raw) for m in events}) <= 4


@pytest.mark.parametrize("subscriptions", [[f"fast:{n}" for n in range(5)], ["fast:*"], ["fast:*", "fast:1", "fast:?"]], ids=["names", "a pattern", "both"])
@pytest.mark.parametrize("encoding", ["drawbridge.v1.json", "drawbridge.v1.msgpack"])
def test_all_channels_of_a_window_leave_in_one_array(start, redis, encoding, subscriptions):
    node = start(redis, channel=[batched(batch="300ms", patterns=True)])
    player = node.player("alice", encoding=encoding)
    for channel in subscriptions:
        player.subscribe(channel)
    before = node.metric("drawbridge_socket_writes_total")
    pipe = redis.client.pipeline(transaction=False)
    for n in range(50):
        pipe.publish(f"fast:{n % 5}", json.dumps({"event": "e", "data": {"id": n}}))
    pipe.execute()
    numbers = [player.event()["data"]["id"] for _ in range(50)]
    assert sorted(numbers) == list(range(50))
    assert node.metric("drawbridge_socket_writes_total") - before <= 2
    # One window, or two where the burst lay on its edge.
    assert len({id(m.raw) for m in player.received if m.type == "EVENT"}) <= 2


@pytest.mark.parametrize("kind", ["stream", "entity"])
@pytest.mark.parametrize("subscriptions", [[f"fast:{n}" for n in range(4)], ["fast:*"], ["fast:*", "fast:1"]], ids=["names", "a pattern", "both"])
def test_a_connection_gets_no_more_updates_in_a_window_than_its_class_allows(start, redis, subscriptions, kind):
    """However many channels of the class it is subscribed to, and whichever way."""
    more = {"kind": "entity"} if kind == "entity" else {}
    node = start(redis, channel=[batched(batch="100ms", max_updates=5, max_wait="30s", conflate=True, key="data.id", patterns=True, **more)])
    player = node.player("alice")
    for channel in subscriptions:
        player.subscribe(channel)
    pipe = redis.client.pipeline(transaction=False)
    for n in range(40):
        pipe.publish(f"fast:{n % 4}", json.dumps({"event": "e", "data": {"id": n}}))
    pipe.execute()

    def seen():
        told = [m for m in player.received if m.type == "EVENT"]
        entered = [m for m in player.received if m.type == "VIEW_ENTER" and not m.get("reset")]
        return [(m, 1) for m in told] + [(m, len(m["entities"])) for m in entered]

    until(lambda: player.read_for(0.05) or sum(count for _, count in seen()) >= 40, "all are told", timeout=30)
    windows = {}
    for message, count in seen():
        windows[id(message.raw)] = windows.get(id(message.raw), 0) + count
    assert max(windows.values()) <= 5 and sum(windows.values()) == 40, windows


def test_only_the_newest_of_each_key_in_a_window(start, redis):
    node = start(redis, channel=[batched(conflate=True, batch="300ms")])
    player = node.player("alice")
    player.subscribe("fast:1")
    burst(redis, "fast:1", [{"id": n % 4, "n": n} for n in range(400)] + [{"n": "keyless"}] * 2)
    keyless = 0
    newest = {}
    while keyless < 2:
        data = player.event("fast:1")["data"]
        keyless += data["n"] == "keyless"
        newest[data.get("id")] = data["n"]
    assert {newest[key] for key in range(4)} == {396, 397, 398, 399}
    assert len([m for m in player.received if m.type == "EVENT"]) <= 2 * 4 + 2


def test_the_nearest_come_first_and_nobody_waits_for_ever(start, redis):
    kind = {"kind": "entity", "key": "data.id", "position": ["data.x", "data.y"], "conflate": True}
    node = start(redis, channel=[batched(name="fast:{x}", batch="50ms", max_updates=5, max_wait="1s", **kind)])
    player = node.player("alice")
    player.subscribe("fast:1", area={"x": 0, "y": 0, "radius": 100})
    player.sees("fast:1", [])
    counts = {}
    rounds = itertools.count()

    def everyone_is_seen():
        round = next(rounds)
        burst(redis, "fast:1", [{"id": n, "x": n * 2, "y": 0, "n": round} for n in range(40)])
        player.read_for(0.05)
        return round > 50 and set(player.entities("fast:1")) == {str(n) for n in range(40)}

    until(everyone_is_seen, "nobody waits for ever")
    for message in player.received:
        if message.type == "EVENT":
            counts[message["key"]] = counts.get(message["key"], 0) + 1
    near = sum(counts.get(str(n), 0) for n in range(10))
    far = sum(counts.get(str(n), 0) for n in range(30, 40))
    assert near > 2 * far, counts


def test_no_more_updates_leave_in_a_window_though_they_are_more_bytes_than_a_turn_writes(start, redis):
    channel = batched(batch="200ms", max_updates=100, max_wait="30s", conflate=True, key="data.id")
    player = start(redis, channel=[channel]).player("alice")
    player.subscribe("fast:1")
    began = player.sync()["server_time_ms"]
    burst(redis, "fast:1", [{"id": n, "text": "x" * 2000} for n in range(400)])
    until(lambda: player.read_for(0.01) or len([m for m in player.received if m.type == "EVENT"]) == 400, "all are told", timeout=30)
    # Four windows at the least, and the first may have ended at once.
    assert player.sync()["server_time_ms"] - began >= 3 * 200


# slow readers


def slow(start, redis, policy, **more):
    node = start(redis, connection={"outbound_bytes": "16KiB"}, channel=[{"name": "slow:{x}", **OPEN, "key": "data.id", "slow_consumer": policy, **more}])
    reader, other = node.player("slow"), node.player("quick")
    for player in (reader, other):
        player.subscribe("slow:1")
    return node, reader, other


def flood(redis, node, other, rounds, keys=50, **data):
    """So much that the kernel's buffers are full and the node has to choose; the other reads all along."""
    for round in range(rounds):
        burst(redis, "slow:1", [{"id": key, "n": round, "pad": "x" * 1000, **data} for key in range(keys)])
        other.sync()


def present(player):
    """Reads until all entities are as they were published last."""
    deadline = Deadline(30)
    while not all(data["n"] == 399 for data in player.entities("slow:1").values()):
        player.pump(deadline.left())


def test_latest_shows_the_present_state_to_a_reader_that_comes_back(start, redis):
    node, reader, other = slow(start, redis, "latest", kind="entity")
    flood(redis, node, other, 400)
    assert node.metric("drawbridge_outbound_queue_bytes") + node.metric("drawbridge_outbound_frame_bytes") < 300_000
    reader.sees("slow:1", [str(key) for key in range(50)])
    present(reader)
    assert len([m for m in reader.received if m.type == "EVENT"]) < 400 * 50 * 0.9, "it was not told all of it"
    assert node.metric("drawbridge_slow_consumers_total") == 0
    present(other)


def test_the_oldest_are_dropped_and_the_gap_is_told(start, redis):
    node, reader, other = slow(start, redis, "drop_oldest")
    flood(redis, node, other, 400)
    until(lambda: node.metric("drawbridge_events_shed_total") > 0, "events are given up")
    gap = reader.expect("RESYNC", reason="slow_consumer", timeout=20)
    assert gap["channel"] == "slow:1" and gap["epoch"] and gap["offset"] > 0
    after = reader.expect("EVENT", where=lambda m: m["offset"] > gap["offset"])
    assert after["offset"] == gap["offset"] + 1
    redis.publish("slow:1", '{"event":"end"}')
    for player in (reader, other):
        player.expect("EVENT", event="end", timeout=20)
    assert len([m for m in other.received if m.type == "EVENT"]) >= 400 * 50


def test_who_must_be_disconnected_is(start, redis):
    node, reader, other = slow(start, redis, "disconnect")

    def noticed():
        flood(redis, node, other, 10)
        return node.metric("drawbridge_slow_consumers_total") == 1

    until(noticed, "it is noticed", timeout=30)
    reader.closes_with(4001, timeout=20)


# filters at scale


def test_many_filters_that_no_index_answers_are_refused_in_time(start, redis):
    node = start(redis)
    player = node.player("alice")
    player.subscribe("chat:1")
    refused = 0
    for n in range(170):
        other = node.player(f"p{n}")
        hard = " || ".join(f"data.t.contains('{n}x{i}')" for i in range(34))
        reply = other.ask("CHANNEL_SUBSCRIBE", channel="chat:1", filter=hard)
        if reply.type == "ERROR":
            assert reply["code"] == "LIMIT_EXCEEDED" and reply["hint"]
            refused += 1
            # What an index answers is welcome all the same.
            other.subscribe("chat:1", filter=f"data.id == 'p{n}'")
    assert refused > 0
    redis.publish("chat:1", '{"event":"e","data":{"t":"none"}}')
    player.event("chat:1")
    assert node.metric("drawbridge_filter_work_steps") > 0


@pytest.mark.parametrize("filter", ["", "\u0000", "((((", "data." * 200, "'" * 100, "1+" * 400 + "1", "!" * 500 + "true", "data[" * 100, "\U0001f600 == 1"])
def test_a_filter_of_any_bytes_is_answered(node, redis, filter):
    player = node.player("alice")
    player.subscribe("chat:1")
    reply = player.ask("FILTER_UPDATE", channel="chat:1", filter=filter)
    assert reply.type == "FILTER_UPDATED" or reply["code"] == "FILTER_INVALID", reply
    player.sync()


def test_a_storm_of_filter_updates_stalls_nobody(node, redis):
    noisy, calm = node.player("noisy"), node.player("calm")
    for player in (noisy, calm):
        player.subscribe("world:1")
    for n in range(200):
        redis.client.fcall("drawbridge_publish", 1, "world:1", json.dumps({"event": "e", "data": {"id": f"e{n}", "n": n, "public": True}}))
    for n in range(500):
        noisy.start("FILTER_UPDATE", channel="world:1", filter=f"data.n < {n % 200}")
    redis.client.fcall("drawbridge_publish", 1, "world:1", json.dumps({"event": "e", "data": {"id": "last", "n": 1, "public": True}}))
    calm.sees("world:1", [f"e{n}" for n in range(200)] + ["last"])
    noisy.ask("FILTER_UPDATE", channel="world:1", filter=None)
    noisy.sees("world:1", [f"e{n}" for n in range(200)] + ["last"])
