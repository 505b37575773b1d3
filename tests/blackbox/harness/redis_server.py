"""A real redis-server of a test's own, on a free loopback port or a unix socket, that can be killed, paused and
restarted in the same place."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from . import ports
from .process import Process
from .wait import until

# The name of the connections that tests hold themselves.
TEST_CLIENT = "test"


def program():
    """The server that tests run: `DRAWBRIDGE_REDIS_SERVER`, or the `redis-server` on the path."""
    return os.environ.get("DRAWBRIDGE_REDIS_SERVER", "redis-server")


class RedisServer:
    """Started at once; persists nothing. `announced`: the port by which others reach it, if that is not its own."""

    def __init__(self, *options, tls=None, password=None, announced=None):
        self.announced = announced
        self.options = [str(option) for option in options]
        self.password = password
        if password:
            self.options += ["--requirepass", password, "--masterauth", password]
        self.tls = tls
        self.directory = Path(tempfile.mkdtemp(prefix="drawbridge-redis-"))
        self.port = ports.free()
        self.unix_socket = self.directory / "redis.sock"
        self.process = None
        self._client = None
        self.start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    @property
    def known_port(self):
        """The port by which other servers, sentinels and clients reach it."""
        return self.announced or (self.tls_port if self.tls else self.port)

    def start(self):
        command = [program(), "--bind", "127.0.0.1", "--port", self.port, "--unixsocket", self.unix_socket]
        command += ["--save", "", "--appendonly", "no", "--dir", self.directory, "--daemonize", "no"]
        if self.tls:
            self.tls_port = getattr(self, "tls_port", None) or ports.free()
            command += ["--tls-port", self.tls_port, "--tls-auth-clients", "no"]
            command += ["--tls-cert-file", self.tls.cert, "--tls-key-file", self.tls.key, "--tls-ca-cert-file", self.tls.ca]
        self.process = Process(command + self.options)
        until(self._answers, "redis-server answers")

    def _answers(self):
        if not self.process.running:
            self.process.wait()  # for all that it wrote
        if not self.process.running and "Failed finding TLS support" in self.process.output:
            pytest.skip(f"{program()} is built without TLS")
        assert self.process.running, f"redis-server ended:\n{self.process.output}"
        try:
            return self.client.ping()
        except redis.AuthenticationError:
            return True
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    @property
    def client(self):
        """A client of the test's own, with bounded waits."""
        if self._client is None:
            self._client = self.own_client()
        return self._client

    def own_client(self):
        """Another client, for a thread of its own. It never repeats a command by itself."""
        return redis.Redis(
            unix_socket_path=str(self.unix_socket),
            password=self.password,
            socket_timeout=10,
            client_name=TEST_CLIENT,
            retry=Retry(NoBackoff(), 0),
        )

    # what tests ask

    def publish(self, channel, payload):
        """A plain PUBLISH as any service does it; returns how many subscribers Redis counts."""
        return self.client.publish(channel, payload)

    def subscribers(self, *channels):
        """PUBSUB NUMSUB, as a dict."""
        return {name.decode(): count for name, count in self.client.pubsub_numsub(*channels)}

    def channels(self):
        """PUBSUB CHANNELS without the nodes' own: every channel that a player has a node subscribed to."""
        names = {name.decode() for name in self.client.pubsub_channels()}
        return {name for name in names if not name.startswith("drawbridge:")}

    def sharded_channels(self):
        """PUBSUB SHARDCHANNELS without the nodes' own."""
        names = {name.decode() for name in self.client.execute_command("PUBSUB", "SHARDCHANNELS")}
        return {name for name in names if not name.startswith("drawbridge:")}

    def patterns(self):
        """PUBSUB NUMPAT."""
        return self.client.pubsub_numpat()

    def stream(self, key):
        """All entries of a stream, as dicts of text."""
        return [
            {name.decode(): value.decode() for name, value in fields.items()} for _, fields in self.client.xrange(key)
        ]

    def node_clients(self, kind="pubsub"):
        """The ids of the nodes' connections that subscribe (`pubsub`), or of the others (`normal`)."""
        return {
            client["id"]
            for client in self.client.client_list()
            if client["name"] != TEST_CLIENT and (int(client["sub"]) + int(client["psub"]) > 0) == (kind == "pubsub")
        }

    # faults

    def stop(self):
        """A clean shutdown: the port is closed afterwards."""
        self.process.terminate()
        self._forget_connections()

    def kill(self):
        self.process.kill()
        self._forget_connections()

    def pause(self):
        """SIGSTOP: connections stay open and nothing answers."""
        self.process.pause()

    def resume(self):
        self.process.resume()

    def restart(self):
        """On the same port, empty."""
        if self.process.running:
            self.stop()
        self.start()

    def cut_clients(self, kind="normal"):
        """Redis itself closes the nodes' connections, of commands (`normal`) or of subscriptions (`pubsub`), as it
        does at its output-buffer limit. A test's own stay, so that what it publishes is published once."""
        for id in self.node_clients(kind):
            self.client.client_kill_filter(_id=id)

    def _forget_connections(self):
        if self._client is not None:
            self._client.connection_pool.disconnect()

    def close(self):
        self._forget_connections()
        self.process.resume()
        self.process.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class ManagedRedis(RedisServer):
    """As managed plans often are: without the commands of operators."""

    HIDDEN = ("CLIENT", "CONFIG", "ACL", "MONITOR", "DEBUG", "SAVE", "BGSAVE", "REPLICAOF")

    def __init__(self):
        super().__init__(*(word for name in self.HIDDEN for word in ("--rename-command", name, "")))

    def own_client(self):
        """Without a name, which CLIENT would set."""
        return redis.Redis(unix_socket_path=str(self.unix_socket), socket_timeout=10, retry=Retry(NoBackoff(), 0))
