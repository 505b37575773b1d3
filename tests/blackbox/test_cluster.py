"""`redis-cluster://`: what is published, stored and present behaves as on one server, also while slots move and masters die."""

import json
import re

import pytest
from redis.crc import key_slot
from redis.exceptions import AskError, TryAgainError

from harness.node import ROOT
from harness.tokens import mint
from harness.wait import PATIENCE, until
from harness.redis_cluster import FAILOVER

CLASSES = [
    {"name": "chat:{x}", "subscribe": "true", "publish": "true", "patterns": True},
    {"name": "log:{x}", "subscribe": "true", "publish": "true", "history": {"events": 500, "age": "10m"}},
    {"name": "world:{x}", "subscribe": "true", "publish": "true", "kind": "entity", "key": "data.id"},
    {"name": "room:{x}", "subscribe": "true", "publish": "true", "presence": "notify"},
    {"name": "act:{x}", "subscribe": "true", "publish": "true", "forward": "actions:{x}"},
]


def start_nodes(start, cluster, count=1, **changes):
    return [start(cluster, channel=CLASSES, node=f"c{at}", **changes) for at in range(count)]


def by_master(cluster, kind, each=2):
    """Channels of a kind, so many in the slots of each master."""
    found = {server.port: [] for server in cluster.masters}
    for number in range(1000):
        channel = f"{kind}:{number}"
        mine = found[cluster.owner(channel, cluster.masters[:1]).port]
        if len(mine) < each:
            mine.append(channel)
        if all(len(channels) == each for channels in found.values()):
            return found
    raise AssertionError("no channel for some master")


def flat(found):
    return [channel for channels in found.values() for channel in channels]


def published(node, channel, data, event="hit", within=FAILOVER):
    """Publishes, again while it is certain that nothing was done."""
    def done():
        answer = node.publish(channel, event, data)
        assert answer.status in (200, 503), answer.body
        if answer.status == 503:
            assert answer.json["error"]["code"] != "UNKNOWN", answer.body
        return answer.status == 200

    until(done, f"a publish on {channel} is taken", within)


def test_events_of_all_masters_arrive_once_and_in_order(cluster, start):
    first, second = start_nodes(start, cluster, 2)
    channels = flat(by_master(cluster, "chat"))
    alice, bob, carol = first.player("alice"), second.player("bob"), second.player("carol")
    for channel in channels:
        alice.subscribe(channel)
    carol.subscribe("chat:*")
    for n in range(10):
        for channel in channels:
            bob.publish(channel, "hit", n)
    for player in (alice, carol):
        for channel in channels:
            assert [player.event(channel)["data"] for _ in range(10)] == list(range(10))
    for n, channel in enumerate(channels):
        cluster.publish(channel, json.dumps({"event": "plain", "data": n}))
        assert alice.event(channel, "plain")["data"] == n


def test_tables_and_logs_are_with_their_masters_whoever_writes(cluster, start):
    first, second = start_nodes(start, cluster, 2)
    worlds, logs = flat(by_master(cluster, "world")), flat(by_master(cluster, "log"))
    for channel in worlds:
        assert first.publish(channel, "move", {"id": "a", "n": 1}).status == 200
        payload = json.dumps({"event": "move", "data": {"id": "b", "n": 2}})
        assert cluster.owner(channel).client.fcall("drawbridge_publish", 1, channel, payload) == 2
    for channel in logs:
        first.publish(channel, "hit", 1)
        cluster.owner(channel).client.fcall("drawbridge_publish", 1, channel, '{"event":"hit","data":2}')
    alice = second.player("alice")
    for channel in worlds:
        alice.subscribe(channel)
        assert {key: data["n"] for key, data in alice.sees(channel, {"a", "b"}).items()} == {"a": 1, "b": 2}
    for channel in logs:
        assert alice.subscribe(channel)["offset"] == 2
        page = alice.ask("HISTORY_GET", channel=channel)
        assert [event["data"] for event in page["events"]] == [1, 2]


def test_forwarded_actions_are_in_the_streams(cluster, start):
    (node,) = start_nodes(start, cluster)
    alice = node.player("alice")
    for channel in flat(by_master(cluster, "act")):
        alice.publish(channel, "go", {"n": 1})
        (entry,) = cluster.stream(channel.replace("act:", "actions:"))
        assert json.loads(entry["data"]) == {"n": 1}


def test_a_session_goes_on_where_its_player_comes_back(cluster, start):
    first, second = start_nodes(start, cluster, 2, connection={"resume_window": "30s"})
    for number in range(6):
        sub, channel = f"player{number}", f"log:{number}"
        player = first.player(sub)
        position = player.subscribe(channel)
        first.publish(channel, data=1)
        player.event(channel)
    first.kill()
    for number in range(6):
        sub, channel = f"player{number}", f"log:{number}"
        session = next(each for each in first.players if each.hello["player"] == sub).hello["session"]
        second.publish(channel, data=2)
        player = second.connect(None, path="/ws?connect=1")
        resume = {"session": session, "positions": {channel: {"epoch": position["epoch"], "offset": 1}}}
        welcome = player.ask("CONNECT", token=mint(sub), resume=resume)
        assert welcome["resumed"] is True, welcome


def test_who_is_present_is_known_on_all_nodes(cluster, start):
    first, second = start_nodes(start, cluster, 2)
    rooms = flat(by_master(cluster, "room"))
    alice, bob = first.player("alice"), second.player("bob")
    for room in rooms:
        alice.subscribe(room)
        bob.subscribe(room)

    def present(room):
        return {each["player"] for each in bob.ask("PRESENCE_GET", channel=room)["players"]}

    for room in rooms:
        until(lambda: present(room) == {"alice", "bob"}, f"both are present on {room}")
    alice.ws.close(1000)
    for room in rooms:
        until(lambda: present(room) == {"bob"}, f"only bob is present on {room}")


def test_views_are_kept_with_their_players(cluster, start):
    first, second = start_nodes(start, cluster, 2)
    for number in range(6):
        narrow = {"channel": "chat:1", "view": "data.n > 3"}
        answer = first.admin("POST", f"/api/players/p{number}/view", narrow)
        assert answer.status == 200, answer.body
    for number in range(6):
        player = second.player(f"p{number}")
        player.subscribe("chat:1")
        for n in (1, 4):
            second.publish("chat:1", "hit", {"n": n})
        assert player.event("chat:1")["data"] == {"n": 4}


def test_an_answer_to_a_view_holds_for_all_that_is_published_behind_it(cluster, start):
    """Whichever master stores it, and whichever publishes."""
    first, second = start_nodes(start, cluster, 2)
    players = [second.player(f"p{number}") for number in range(4)]
    chats = flat(by_master(cluster, "chat", 1))
    for player in players:
        for channel in chats:
            player.subscribe(channel)
    for round in range(8):
        for number, player in enumerate(players):
            for channel in chats:
                hidden, shown = f"hidden {round} {number}", f"shown {round} {number}"
                view = {"channel": channel, "view": f"data.n != {round}"}
                answer = first.admin("POST", f"/api/players/p{number}/view", view)
                assert answer.status == 200, answer.body
                cluster.publish(channel, json.dumps({"event": hidden, "data": {"n": round}}))
                cluster.publish(channel, json.dumps({"event": shown, "data": {"n": -1}}))
                either = player.expect("EVENT", channel=channel, where=lambda message: message["event"] in (hidden, shown))
                assert either["event"] == shown


def test_a_view_that_a_node_cannot_confirm_is_unknown(cluster, start):
    first, second = start_nodes(start, cluster, 2)
    second.player("alice").subscribe("chat:1")
    second.process.pause()
    answer = first.admin("POST", "/api/players/alice/view", {"channel": "chat:1", "view": "false"})
    assert answer.status == 503 and answer.json["error"]["outcome"] == "unknown", answer.body
    second.process.resume()


def test_services_can_call_the_functions_on_every_master(cluster, start):
    start_nodes(start, cluster)
    for master in cluster.masters:
        master.client.function_flush()

    def loaded(master):
        return master.client.execute_command("FUNCTION LIST", "LIBRARYNAME", "drawbridge", **{"NEVER_DECODE": True})

    for master in cluster.masters:
        until(lambda: loaded(master), "the functions are loaded again", 30)


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_a_master_that_dies_holds_up_only_its_own_channels(own_cluster, start, how):
    (node,) = start_nodes(start, own_cluster)
    chats, logs = by_master(own_cluster, "chat"), by_master(own_cluster, "log")
    alice = node.player("alice")
    for channel in flat(chats) + flat(logs):
        alice.subscribe(channel)
    for channel in flat(logs):
        node.publish(channel, data=0)
    own_cluster.wait_for_replicas()
    victim = own_cluster.masters[0]
    getattr(victim, how)()
    # Whether they arrive depends on where the link is; that they are taken does not.
    for port, channels in chats.items():
        for channel in channels if port != victim.port else ():
            assert node.publish(channel, "early", 1).status == 200
    alice.expect("STATUS", broker="degraded", timeout=FAILOVER)
    assert node.get("/readyz").status == 200
    alice.expect("STATUS", broker="ok", timeout=FAILOVER)
    for channel in flat(chats):
        published(node, channel, "after", "late")
        assert alice.event(channel, "late", timeout=FAILOVER)["data"] == "after"
    for channel in flat(logs):
        published(node, channel, "after", "late")
        late = alice.event(channel, "late", timeout=FAILOVER)
        page = alice.ask("HISTORY_GET", channel=channel)
        assert [event["offset"] for event in page["events"]][-1] == late["offset"]


def test_a_failover_by_hand_costs_no_event(own_cluster, start):
    (node,) = start_nodes(start, own_cluster)
    logs = by_master(own_cluster, "log", 1)
    alice = node.player("alice")
    for channel in flat(logs):
        alice.subscribe(channel)
    own_cluster.wait_for_replicas()
    old, new = own_cluster.masters[0], own_cluster.replicas[0]
    count = 0
    new.cluster("FAILOVER")
    while new.client.execute_command("ROLE")[0] != b"master" or count < 20:
        for channel in flat(logs):
            published(node, channel, count)
        count += 1
    assert old.process.running
    for channel in flat(logs):
        assert [alice.event(channel, timeout=FAILOVER)["data"] for _ in range(count)] == list(range(count))


def test_a_slot_that_moves_takes_its_table_and_its_log_along(own_cluster, start):
    """At each step of the migration there is one table and one log, and what is published arrives or is refused."""
    (node,) = start_nodes(start, own_cluster)
    alice = node.player("alice")
    for kind, payload in (("log", "n"), ("world", {"id": "a"})):
        channel = f"{kind}:moving"
        alice.subscribe(channel)
        slot, sent = key_slot(channel.encode()), 0
        source = own_cluster.owner(channel)
        target = next(master for master in own_cluster.masters if master is not source)

        def publish(count=3):
            nonlocal sent
            for _ in range(count):
                published(node, channel, payload)
                sent += 1

        publish()
        for here, there in ((source, target), (target, source)):
            own_cluster.begin_migration(slot, here, there)
            publish()
            while own_cluster.migrate_keys(slot, here, there, 1) == 1:
                # Between two keys of the channel nothing can be done, and nothing is done by halves.
                if not there.cluster("GETKEYSINSLOT", slot, 10) or not here.cluster("GETKEYSINSLOT", slot, 10):
                    publish()
            own_cluster.end_migration(slot, here, there)
            publish()
            assert here.cluster("GETKEYSINSLOT", slot, 10) == []
            assert len(there.cluster("GETKEYSINSLOT", slot, 10)) == 2
        for _ in range(sent):
            alice.event(channel) if kind == "log" else None
        if kind == "log":
            page = alice.ask("HISTORY_GET", channel=channel)
            assert [event["offset"] for event in page["events"]] == list(range(1, sent + 1))
        else:
            bob = node.player("bob")
            bob.subscribe(channel)
            bob.sees(channel, {"a"})


def test_a_service_that_publishes_while_a_slot_moves_begins_no_second_table(own_cluster, start):
    (node,) = start_nodes(start, own_cluster)
    for channel, payload in (
        ("log:service", '{"event":"hit"}'),
        ("world:service", '{"event":"move","data":{"id":"a"}}'),
    ):
        slot = key_slot(channel.encode())
        source = own_cluster.owner(channel)
        target = next(master for master in own_cluster.masters if master is not source)
        call = ("FCALL", "drawbridge_publish", 1, channel, payload)
        source.client.execute_command(*call)
        own_cluster.begin_migration(slot, source, target)
        with pytest.raises(AskError):
            source.client.execute_command(*call)
        asking = target.client.connection_pool.get_connection()
        try:
            for command in (("ASKING",), call):
                asking.send_command(*command)
            asking.read_response()
            with pytest.raises(TryAgainError):
                asking.read_response()
        finally:
            target.client.connection_pool.release(asking)
        assert target.cluster("GETKEYSINSLOT", slot, 10) == []
        while own_cluster.migrate_keys(slot, source, target):
            pass
        own_cluster.end_migration(slot, source, target)
        assert target.client.execute_command(*call) == 2


def test_a_master_that_is_added_gets_the_functions_and_takes_over_slots(own_cluster, start):
    (node,) = start_nodes(start, own_cluster)
    alice = node.player("alice")
    logs = flat(by_master(own_cluster, "log", 1))
    for channel in logs:
        alice.subscribe(channel)
        published(node, channel, 0)
        alice.event(channel)
    added = own_cluster.add_master()
    for n, channel in enumerate(logs, 1):
        own_cluster.migrate(key_slot(channel.encode()), added)
        published(node, channel, n)
        assert alice.event(channel)["data"] == n
        assert alice.ask("HISTORY_GET", channel=channel)["events"][-1]["offset"] == 2
    assert added.client.execute_command("FUNCTION LIST", **{"NEVER_DECODE": True})


def test_all_masters_can_be_restarted_one_after_the_other(own_cluster, start):
    (node,) = start_nodes(start, own_cluster)
    chats = flat(by_master(own_cluster, "chat", 1))
    alice = node.player("alice")
    for channel in chats:
        alice.subscribe(channel)
    for at in range(3):
        own_cluster.wait_for_replicas()
        master = own_cluster.masters[at]
        master.kill()
        alice.expect("STATUS", broker="degraded", timeout=FAILOVER)
        master.start()
        alice.expect("STATUS", broker="ok", timeout=FAILOVER)
    for channel in chats:
        published(node, channel, "end", "end")
        alice.event(channel, "end", timeout=FAILOVER)


def test_the_documented_rights_are_enough(cluster, start):
    docs = (ROOT / "docs/redis.md").read_text()
    rule = docs.split("ACL SETUSER bridge", 1)[1].split("```", 1)[0]
    beside = docs.split("A node needs these rights beside", 1)[1].split(".", 1)[0]
    words = [word for word in rule.split() if word[0] in "+-"] + re.findall(r"`(\+[^`]+)`", beside)
    rights = [right for word in words for right in word.split()]
    names = ["&chat:*", "&log:*", "&world:*", "&room:*", "&player:*", "&drawbridge:*", "~drawbridge:*", "~actions:*"]
    assert "+cluster|slots" in rights and "+asking" in rights and "+exists" in rights
    for master in cluster.masters:
        master.client.execute_command("ACL", "SETUSER", "bridge", "reset", "on", ">pw", *names, *rights)
    try:
        node = start(cluster.url.replace("://", "://bridge:pw@"), channel=CLASSES)
        alice = node.player("alice")
        for kind in ("log", "chat", "room"):
            for channel in flat(by_master(cluster, kind, 1)):
                alice.subscribe(channel)
                alice.publish(channel, "hit", 1)
                assert alice.event(channel)["data"] == 1
        for channel in flat(by_master(cluster, "world", 1)):
            alice.subscribe(channel)
            alice.publish(channel, "hit", {"id": "a"})
            alice.sees(channel, {"a"})
        assert node.get("/readyz").status == 200
        assert "NOPERM" not in node.log, node.log
    finally:
        for master in cluster.masters:
            master.client.execute_command("ACL", "DELUSER", "bridge")


def test_who_has_left_every_channel_leaves_no_index(cluster, start):
    """The publisher of presence writes nothing else, so nothing follows that would take the last entries along."""
    (node,) = start_nodes(start, cluster)
    alice = node.player("alice")
    for channel in flat(by_master(cluster, "room", 2)):
        alice.subscribe(channel)

    def indexes():
        return [key for server in cluster.masters for key in server.client.keys("drawbridge:{node:*}:presence")]

    until(indexes, "presence is indexed")
    alice.close()
    until(lambda: not indexes(), "the index is gone", timeout=60)


def test_a_map_without_shards_and_info_is_enough(cluster, start):
    """As where a provider offers `CLUSTER SLOTS` alone."""
    for master in cluster.masters:
        rights = ["+@all", "-cluster|shards", "-cluster|info", "-cluster|nodes"]
        master.client.execute_command("ACL", "SETUSER", "game", "reset", "on", ">pw", "~*", "&*", *rights)
    try:
        node = start(cluster.url.replace("://", "://game:pw@"), channel=CLASSES)
        alice = node.player("alice")
        for channel in flat(by_master(cluster, "log", 1)):
            alice.subscribe(channel)
            assert alice.publish(channel, "hit", 1)["offset"] == 1
            assert alice.event(channel)["offset"] == 1
        assert node.get("/readyz").status == 200
    finally:
        for master in cluster.masters:
            master.client.execute_command("ACL", "DELUSER", "game")


def test_servers_that_are_no_cluster_are_named(redis, start):
    node = start(f"redis-cluster://127.0.0.1:{redis.port}", wait_ready_line=False)
    until(lambda: "is not a server of a Cluster" in node.log, "the log says what is wrong", PATIENCE)
