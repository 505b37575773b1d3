"""One thread or many: what a player sees is the same, and Redis sees one subscription."""

import pytest

from harness.node import http
from harness.wait import until


@pytest.fixture(params=[1, 3, 8])
def node(request, redis, start):
    return start(redis, shards=request.param)


def test_players_of_all_shards_hear_everything_once_in_one_order(node, redis):
    players = [node.player(f"p{n}") for n in range(24)]
    for number, player in enumerate(players):
        player.subscribe("chat:*" if number % 3 == 0 else "chat:1")
    assert redis.subscribers("chat:1") == {"chat:1": 1} and redis.patterns() == 1
    for number in range(100):
        players[number % 24].start("PUBLISH_EVENT", channel="chat:1", event="n", data=number)
    orders = [[player.event("chat:1")["data"] for _ in range(100)] for player in players]
    assert all(order == orders[0] for order in orders) and sorted(orders[0]) == list(range(100))
    offsets = {tuple(m["offset"] for m in player.received if m.type == "EVENT") for player in players}
    assert len(offsets) == 1


def test_offsets_and_epochs_are_the_nodes_and_not_the_shards(node, redis):
    first = node.player("first").subscribe("chat:1")
    redis.publish("chat:1", '{"event":"e"}')
    for player in node.players:
        player.event("chat:1", "e")
    later = [node.player(f"p{n}").subscribe("chat:1") for n in range(10)]
    assert {(reply["epoch"], reply["offset"]) for reply in later} == {(first["epoch"], first["offset"] + 1)}


def test_a_command_finds_all_connections_of_a_player(node):
    players = [node.player("alice") for _ in range(12)]
    assert node.admin("POST", "/api/players/alice/subscribe", {"channel": "room:1"}).status < 300
    for player in players:
        player.expect("CHANNEL_SUBSCRIBED", channel="room:1")
    assert node.admin("POST", "/api/players/alice/disconnect", {}).status < 300
    for player in players:
        player.closes_with(4502)
    node.wait_idle()


def test_nothing_stays_behind_on_any_shard(node, redis):
    for round in range(5):
        players = [node.player(f"p{n}") for n in range(16)]
        for player in players:
            player.start("CHANNEL_SUBSCRIBE", channel=f"chat:{round}")
            player.start("CHANNEL_SUBSCRIBE", channel="chat:*")
        for player in players:
            player.vanish()
    node.wait_idle()
    until(lambda: redis.channels() == set() and redis.patterns() == 0, "Redis holds nothing")


def test_limits_of_a_player_count_over_shards(redis, start):
    node = start(redis, shards=4, limits={"messages_per_player": {"per_second": 1, "burst": 5}})
    players = [node.player("alice") for _ in range(8)]
    replies = [player.ask("PING").type for player in players for _ in range(3)]
    assert replies.count("ERROR") >= 10


def test_ipv6(redis, start):
    try:
        node = start(redis, listen="[::1]:0")
    except AssertionError as failure:
        if "address" in str(failure).lower():
            pytest.skip("no IPv6 here")
        raise
    assert http("GET", f"http://[::1]:{node.port}/healthz").status == 200
