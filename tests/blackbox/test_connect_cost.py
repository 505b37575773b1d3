"""What a connect costs Redis, as docs/benchmarks.md states it: the commands that a node sends for one player."""

import threading

import pytest
from harness.tokens import mint
from harness.wait import until

CLASSES = [
    {"name": "log:{x}", "subscribe": "true", "publish": "true", "history": {"events": 20, "age": "10m"}},
    {"name": "chat:{x}", "subscribe": "true", "publish": "true"},
]
# What a node sends all the time: pings, delivery probes and the renewal of its lease.
STANDING = ("HELLO", "PING", "PUBLISH drawbridge:probe:", "FCALL drawbridge_lease")


class Monitor:
    """The commands that Redis gets from its clients, but for what nodes send all the time."""

    def __init__(self, redis):
        self.commands = []
        self.redis = redis
        self.client = redis.own_client()
        self.monitor = self.client.monitor().__enter__()
        self.ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while not self.ended:
            try:
                seen = self.monitor.next_command()
            except Exception:
                return
            command = seen["command"]
            if seen["client_type"] != "lua" and not command.startswith(STANDING):
                self.commands.append(command)

    def begin(self, mark):
        """Forgets what came before now."""
        self.redis.client.echo(mark)
        until(lambda: f"ECHO {mark}" in self.commands, "the mark has come")
        self.commands.clear()

    def named(self, *words):
        return [command for command in list(self.commands) if command.startswith(" ".join(words))]

    def bytes(self):
        """As they are sent: each argument with its length."""
        def size(command):
            arguments = command.split(" ")
            return len(f"*{len(arguments)}\r\n") + sum(len(f"${len(each)}\r\n{each}\r\n") for each in arguments)
        return sum(size(command) for command in self.commands)


@pytest.fixture
def monitor(own_redis):
    monitor = Monitor(own_redis)
    yield monitor
    monitor.ended = True


def joins(node, name):
    player = node.connect()
    welcome = player.ask("CONNECT", token=mint(name), subscribe=[{"channel": "chat:1"}, {"channel": "log:1"}])
    assert welcome.type == "WELCOME", welcome
    return player


def subscribed(monitor):
    return {channel for command in monitor.named("SUBSCRIBE") for channel in command.split(" ")[1:]}


def test_a_connect_costs_redis_as_much_as_is_documented(own_redis, start, monitor):
    node = start(own_redis, channel=CLASSES, connection={"resume_window": "60s"})
    for name, channels, reads, most_bytes in (
        ("alice", {"player:alice", "chat:1", "log:1"}, 1, 800),
        # Both other channels have a subscriber on this node already.
        ("bobby", {"player:bobby"}, 0, 560),
    ):
        monitor.begin(name)
        joins(node, name)
        until(lambda: monitor.named("FCALL drawbridge_session_save"), "its session is written")
        assert subscribed(monitor) == channels
        assert [len(monitor.named(*words)) for words in (["HLEN"], ["FCALL drawbridge_log "], ["SADD"])] == [1, reads, 1]
        others = len(monitor.commands) - len(monitor.named("SUBSCRIBE"))
        assert others == 3 + reads, monitor.commands
        assert monitor.bytes() <= most_bytes, monitor.commands


def test_a_session_that_changes_nothing_is_written_once(own_redis, start, monitor):
    node = start(own_redis, channel=CLASSES, connection={"resume_window": "60s"})
    player = joins(node, "alice")
    until(lambda: monitor.named("FCALL drawbridge_session_save"), "its session is written")
    own_redis.publish("chat:1", "x")
    player.event("chat:1")
    player.close()
    until(lambda: monitor.named("UNSUBSCRIBE"), "its channels are left")
    ends = [len(monitor.named(*words)) for words in (["FCALL drawbridge_session_save"], ["FCALL drawbridge_session_end"], ["SREM"])]
    assert ends == [1, 1, 1], monitor.commands
