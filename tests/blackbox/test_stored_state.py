"""What other programs write at Drawbridge's keys in Redis breaks no node, is never acknowledged, and is repaired seldom."""

from pathlib import Path

import pytest

from harness.wait import until

ENTITIES = {"name": "small:{x}", "subscribe": "true", "publish": "true", "kind": "entity", "key": "data.id"}
ROWS, HEARD = "drawbridge:{small:1}:entities", "drawbridge:{small:1}:heard"
DOCS = Path(__file__).parents[2] / "docs" / "redis.md"


def world(start, redis, **changes):
    return start(redis, channel=[{**ENTITIES, **changes}])


def metric(node, name):
    return node.metric(f"drawbridge_{name}")


def row(key, epoch, seq, ms=None):
    text = f'{{"event":"e","data":{{"id":"{key}"}},"key":"{key}","id":"db1.@{epoch}.{seq}"}}'
    return f"{ms or 4102444800000} {text}"


def scans(redis):
    """How often Redis has scanned a hash."""
    return redis.client.info("commandstats").get("cmdstat_hscan", {"calls": 0})["calls"]


def test_a_row_of_another_life_is_left_out_and_not_read_for_ever(redis, start):
    before = scans(redis)
    redis.client.hset(ROWS, mapping={"e": "mine", "s": 5, "ka": row("a", "mine", 4), "kb": row("b", "other", 5)})
    node = world(start, redis)
    player = node.player("alice")
    player.subscribe("small:1")
    player.sees("small:1", {"a"})
    assert metric(node, "stored_values_invalid") == 1
    loaded = scans(redis)
    assert 1 <= loaded - before <= 4
    player.publish("small:1", "e", {"id": "c"})
    player.sees("small:1", {"a", "c"})
    assert scans(redis) == loaded


@pytest.mark.parametrize(
    "header",
    [
        {"e": "mine"},
        {"e": "mine", "s": "many"},
        {"e": "mine", "s": str(2**53)},
        {"e": "mine", "s": "-1"},
        {"e": "", "s": "5"},
        {"e": "x" * 1_000_000, "s": "5"},
        {"e": 'a","b":"', "s": "5"},
        {"s": "5"},
    ],
    ids=["no-s", "s-text", "s-large", "s-negative", "e-empty", "e-long", "e-quotes", "no-e"],
)
def test_a_table_whose_header_cannot_be_right_begins_again(redis, start, header):
    redis.client.hset(ROWS, mapping={**header, "ka": row("a", "mine", 4)})
    player = world(start, redis).player("alice")
    player.subscribe("small:1")
    for key in "bc":
        player.publish("small:1", "e", {"id": key})
    player.sees("small:1", {"b", "c"})
    assert redis.client.hget(ROWS, "s") == b"2"


def test_stray_fields_do_not_make_each_new_key_repair_the_table(redis, start):
    player = world(start, redis).player("alice")
    player.publish("small:1", "e", {"id": "first"})
    redis.client.config_resetstat()
    for number in range(30):
        redis.client.hset(ROWS, f"stray{number}", "x")
        player.publish("small:1", "e", {"id": f"e{number}"})
    assert redis.client.info("commandstats").get("cmdstat_hkeys", {"calls": 0})["calls"] <= 4


def test_entities_take_so_many_bytes_and_give_them_back(redis, start):
    player = world(start, redis, entity_bytes="4KiB").player("alice")
    player.subscribe("small:1")
    large = "x" * 1_500
    player.publish("small:1", "e", {"id": "a", "pad": large})
    player.publish("small:1", "e", {"id": "b", "pad": large})
    player.refusal("PUBLISH_EVENT", "LIMIT_EXCEEDED", channel="small:1", event="e", data={"id": "c", "pad": large})
    player.refusal("PUBLISH_EVENT", "LIMIT_EXCEEDED", channel="small:1", event="e", data={"id": "a", "pad": 2 * large})
    player.publish("small:1", "e", {"id": "a", "pad": "small"})
    player.publish("small:1", "e", {"id": "c", "pad": large})
    player.publish("small:1", "remove", {"id": "b"})
    player.publish("small:1", "e", {"id": "d", "pad": large})
    player.sees("small:1", {"a", "c", "d"})
    held = sum(len(name) + len(value) for name, value in redis.client.hgetall(ROWS).items() if name.startswith(b"k"))
    assert int(redis.client.hget(ROWS, "b")) == held
    # A count that somebody has changed is counted again before it keeps anything out.
    redis.client.hset(ROWS, "b", 10**9)
    player.publish("small:1", "e", {"id": "e", "pad": "small"})


def test_keys_of_another_type_are_refused_and_said(redis, start):
    redis.client.set(ROWS, "mine")
    player = world(start, redis).player("alice")
    player.refusal("CHANNEL_SUBSCRIBE", "BROKER_REFUSED", channel="small:1")
    player.refusal("PUBLISH_EVENT", "BROKER_REFUSED", channel="small:1", event="e", data={"id": "a"})
    redis.client.delete(ROWS)
    redis.client.set(HEARD, "mine")
    player.publish("small:1", "e", {"id": "a"})
    assert redis.client.type(HEARD) == b"zset"


FOREIGN = """#!lua name=drawbridge
-- drawbridge library version {version}
redis.register_function('drawbridge_entity_write', function() return {answer} end)
redis.register_function('drawbridge_publish', function() return 1 end)
redis.register_function('drawbridge_view', function() return 1 end)
"""


@pytest.mark.parametrize("version", [3, 9, 999])
@pytest.mark.parametrize("answer", ["1", "{1}", "{{'x', 1}}"])
def test_functions_of_others_are_not_taken_for_ours(own_redis, start, version, answer):
    node = world(start, own_redis)
    player = node.player("alice")
    player.subscribe("small:1")
    own_redis.client.execute_command("FUNCTION", "LOAD", "REPLACE", FOREIGN.format(version=version, answer=answer))
    player.publish("small:1", "e", {"id": "a"})
    player.sees("small:1", {"a"})
    if version != 3:
        assert metric(node, "redis_functions_replaced") == 1


def test_functions_that_others_hold_are_refused_and_the_node_is_not_ready(own_redis, start):
    """In another library they cannot be replaced."""
    own_redis.client.execute_command("FUNCTION", "FLUSH")
    other = FOREIGN.format(version=4, answer="{1}").replace("name=drawbridge", "name=other")
    own_redis.client.execute_command("FUNCTION", "LOAD", other)
    node = world(start, own_redis)
    player = node.player("alice")
    player.refusal("PUBLISH_EVENT", "BROKER_REFUSED", channel="small:1", event="e", data={"id": "a"})
    until(lambda: node.get("/readyz").status == 503, "the node is not ready")
    own_redis.client.execute_command("FUNCTION", "DELETE", "other")
    until(lambda: node.get("/readyz").status == 200, "the node is ready", 30)
    player.publish("small:1", "e", {"id": "a"})


def views_of(player):
    return f"drawbridge:{{player:{player}}}:views"


def test_more_views_than_a_player_can_have_show_nothing(redis, start):
    redis.client.hset(views_of("alice"), mapping={f"chat:{n}": "true" for n in range(100_000)})
    node = start(redis)
    player = node.player("alice")
    request = player.start("CHANNEL_SUBSCRIBE", channel="chat:1")
    until(lambda: "DAMAGED" in node.process.output, "the log says so")
    redis.client.delete(views_of("alice"))
    assert player.reply(request, 15).type == "CHANNEL_SUBSCRIBED"


@pytest.mark.parametrize(
    "view", ["data.team ==", "x" * 2_000_000, b"\xff == 1", ""], ids=["broken", "long", "bytes", "empty"]
)
def test_a_view_that_is_no_expression_hides_its_channel_alone(redis, start, view):
    redis.client.hset(views_of("alice"), "chat:1", view)
    player = start(redis).player("alice")
    player.subscribe("chat:1")
    player.subscribe("chat:2")
    redis.publish("chat:1", '{"event":"hidden"}')
    redis.publish("chat:2", '{"event":"shown"}')
    assert player.event()["event"] == "shown"


def without_views(redis):
    redis.client.execute_command(
        "ACL", "SETUSER", "noviews", "on", ">secret", "resetchannels", "&*", "resetkeys", "~small:*", "~drawbridge:{small:*", "+@all"
    )
    return f"redis://noviews:secret@127.0.0.1:{redis.port}"


def test_without_the_right_to_read_views_nothing_is_shown(own_redis, start):
    url = without_views(own_redis)
    node = start(url)
    player = node.player("alice")
    refusal = player.refusal("CHANNEL_SUBSCRIBE", "BROKER_REFUSED", channel="chat:1", timeout=20)
    assert "views" in refusal["message"]
    assert "NOPERM" in node.process.output
    answer = node.get("/readyz")
    assert answer.status == 503 and b"views" in answer.body
    # Once it has the right, it is as if it always had.
    own_redis.client.execute_command("ACL", "SETUSER", "noviews", "allkeys")
    until(lambda: node.get("/readyz").status == 200, "the node is ready", 30)
    until(lambda: player.ask("CHANNEL_SUBSCRIBE", channel="chat:1", timeout=30).type == "CHANNEL_SUBSCRIBED", "it is subscribed", 60)


def test_without_the_right_to_read_views_an_operator_may_open(own_redis, start):
    node = start(without_views(own_redis), broker={"views_without_permission": "open"})
    player = node.player("alice")
    player.subscribe("chat:1")
    own_redis.publish("chat:1", '{"event":"shown"}')
    assert player.event()["event"] == "shown"


def acl_of(user):
    """The rules as docs/redis.md has them."""
    _, rest = DOCS.read_text().split(f"ACL SETUSER {user}", 1)
    return rest.split("```", 1)[0].replace(">PASSWORD", ">secret").split()


def test_the_rights_that_the_docs_give_suffice_and_no_more(own_redis, start):
    """For nodes and for a service that publishes into entity channels."""
    own_redis.client.execute_command("ACL", "SETUSER", "bridge", *acl_of("bridge"), "&sworld:*", "~sworld:*", "&player:*")
    own_redis.client.execute_command("ACL", "SETUSER", "service", *acl_of("service"))
    classes = [{**ENTITIES, "name": "sworld:{x}"}]
    node = start(f"redis://bridge:secret@127.0.0.1:{own_redis.port}", channel=classes)
    player = node.player("alice")
    player.subscribe("sworld:1")
    service = own_redis.own_client()
    service.execute_command("AUTH", "service", "secret")
    key = "drawbridge:{sworld:1}:heard"
    for number in range(3):
        payload = f'{{"event":"e","data":{{"id":"e{number}"}}}}'
        assert service.execute_command("FCALL", "drawbridge_publish", 1, "sworld:1", payload) == number + 1
        own_redis.client.delete(key)  # so that the service's call repairs it
    assert service.execute_command("FCALL", "drawbridge_publish", 1, "sworld:1", '{"event":"remove","data":{"id":"e0"}}')
    player.sees("sworld:1", {"e1", "e2"})
    for refused in (
        ("PUBLISH", "drawbridge:nodes:0", "{}"),
        ("HSET", views_of("alice"), "sworld:1", "true"),
        ("FUNCTION", "FLUSH"),
        ("SUBSCRIBE", "sworld:1"),
    ):
        with pytest.raises(Exception, match="(?i)no permissions|NOPERM"):
            service.execute_command(*refused)
