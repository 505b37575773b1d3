"""`drawbridge dev`: what it prints, and its ports."""

from .node import binary, http
from .player import Player
from .process import Process
from .wait import until


class Dev:
    """Started at once and ready when the constructor returns."""

    def __init__(self, *options, env=None):
        arguments = ["dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", *options]
        self.process = Process([binary(), *arguments], env=env)
        self.players = []
        line = until(lambda: self.line("ready listen="), "dev is ready")
        addresses = dict(word.split("=", 1) for word in line.split() if "=" in word)
        self.port = int(addresses["listen"].rpartition(":")[2])
        self.admin_port = int(addresses["admin"].rpartition(":")[2])

    def line(self, part):
        """The first line with this text, if it is there."""
        return next((line for line in self.process.lines if part in line), None)

    def get(self, path, headers=None, method="GET"):
        return http(method, f"http://127.0.0.1:{self.port}{path}", headers=headers)

    def connect(self, token, **options):
        """A socket past its handshake."""
        self.players.append(Player(self.port, token, **options))
        return self.players[-1]

    def close(self):
        for player in self.players:
            player.vanish()
        self.process.kill()
        assert "panicked at" not in self.process.output, self.process.output[-4000:]
