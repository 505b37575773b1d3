"""A Redis behind Sentinel: a master, a replica and three sentinels of a test's own, on free loopback ports."""

import shutil
import tempfile
from pathlib import Path

import redis

from . import ports
from .proxy import Proxy
from .process import Process
from .redis_server import RedisServer, program
from .wait import until

SERVICE = "game"
# From where a service with `split=True` connects to its master and to one another; nodes do from 127.0.0.1.
INSIDE = "127.0.0.2"


class Sentinel:
    """One sentinel that watches this server. Started at once."""

    def __init__(self, server, *, quorum=2, password=None, tls=None, split=False):
        self.directory = Path(tempfile.mkdtemp(prefix="drawbridge-sentinel-"))
        self.port = ports.free()
        self.password, self.tls = password, tls
        self.proxy = Proxy(self.port) if split else None
        plain, encrypted = (0, self.port) if tls else (self.port, 0)
        lines = [f"port {plain}", "bind 127.0.0.1", f"dir {self.directory}"]
        if tls:
            lines += [f"tls-port {encrypted}", "tls-auth-clients no", "tls-replication yes"]
            lines += [f"tls-cert-file {tls.cert}", f"tls-key-file {tls.key}", f"tls-ca-cert-file {tls.ca}"]
        if split:
            lines += [f"bind-source-addr {INSIDE}", "sentinel announce-ip 127.0.0.1", f"sentinel announce-port {self.proxy.port}"]
        lines += [
            f"sentinel monitor {SERVICE} 127.0.0.1 {server.known_port} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} 1000",
            f"sentinel failover-timeout {SERVICE} 10000",
        ]
        if server.password:
            lines.append(f"sentinel auth-pass {SERVICE} {server.password}")
        if password:
            lines += [f"requirepass {password}", f"sentinel sentinel-pass {password}"]
        (self.directory / "sentinel.conf").write_text("\n".join(lines) + "\n")
        encryption = {"ssl": True, "ssl_ca_certs": str(tls.ca)} if tls else {}
        self.client = redis.Redis(port=self.port, password=password, socket_timeout=10, decode_responses=True, **encryption)
        self.process = Process([program(), self.directory / "sentinel.conf", "--sentinel"])
        until(self._answers, "the sentinel answers")

    def _answers(self):
        assert self.process.running, f"the sentinel ended:\n{self.process.output}"
        try:
            return self.client.ping()
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def knows(self, sentinels, replicas):
        """Whether it knows so many other sentinels and replicas, and all of these are well."""
        master = self.ask("MASTER")
        if (master["num-other-sentinels"], master["num-slaves"]) != (sentinels, replicas):
            return False
        others = self.ask("SLAVES") + self.ask("SENTINELS")
        return not any(each["is_disconnected"] or each["is_sdown"] for each in others)

    def ask(self, question):
        """`SENTINEL QUESTION` about the service."""
        return self.client.execute_command(f"SENTINEL {question}", SERVICE)

    def close(self):
        self.client.close()
        if self.proxy:
            self.proxy.close()
        self.process.resume()
        self.process.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class SentinelService:
    """All of it, ready to fail over when the constructor returns. `master` and `replica` stay the servers that began so.
    `make(*options, …)` starts a server. `split`: the master and each sentinel are behind a `proxy` each, and all that is not a node
    connects from `INSIDE`."""

    def __init__(self, *, replicas=1, password=None, sentinel_password=None, tls=None, make=RedisServer, split=False):
        # Without it the first synchronization waits 5 s for more replicas.
        quick = ["--repl-diskless-sync-delay", 0]
        quick += ["--tls-replication", "yes"] if tls else []
        self.tls = tls
        # To Redis only 127.0.0.1 is this machine.
        quick += ["--protected-mode", "no"] if split else []
        self.proxy = Proxy(None) if split else None
        self.master = make(*quick, password=password, tls=tls, **({"announced": self.proxy.port} if split else {}))
        if split:
            self.proxy.target = self.master.port
        follow = ["--replicaof", "127.0.0.1", self.master.known_port]
        follow += ["--bind-source-addr", INSIDE, "--replica-announce-ip", "127.0.0.1"] if split else []
        self.replicas = [make(*quick, *follow, password=password, tls=tls) for _ in range(replicas)]
        self.replica = self.replicas[0]
        until(self.is_replicated, "the replicas follow the master")
        self.sentinels = [Sentinel(self.master, password=sentinel_password, tls=tls, split=split) for _ in range(3)]
        until(self.is_discovered, "the sentinels know all of it", timeout=30)

    def is_discovered(self):
        """Whether each sentinel knows the others and all replicas, and all of these are well."""
        return all(each.knows(2, len(self.replicas)) for each in self.sentinels)

    @property
    def servers(self):
        return [self.master, *self.replicas]

    @property
    def url(self):
        return self.url_of((each.proxy or each).port for each in self.sentinels)

    def url_of(self, sentinels):
        """The URL that names the sentinels on these ports."""
        scheme = "rediss-sentinel" if self.tls else "redis-sentinel"
        return f"{scheme}://{','.join(f'127.0.0.1:{port}' for port in sentinels)}/{SERVICE}"

    def is_replicated(self):
        """Whether each replica has all that the first master has written."""
        connected = all(replica.client.role()[3] == b"connected" for replica in self.replicas)
        return connected and self.master.client.wait(len(self.replicas), 1000) == len(self.replicas)

    def has_failed_over(self):
        """Whether all sentinels name the former replica."""
        return all(each.ask("GET-MASTER-ADDR-BY-NAME") == ("127.0.0.1", self.replica.known_port) for each in self.sentinels)

    def close(self):
        for each in [*self.sentinels, *self.servers, *filter(None, [self.proxy])]:
            each.close()
