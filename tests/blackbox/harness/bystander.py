"""A well-behaved player beside an attack."""

import itertools
import json

MARKS = itertools.count()


class Bystander:
    """A player who does what games do."""

    def __init__(self, node, redis):
        self.node, self.redis = node, redis
        self.player = node.player("bystander", team="red")
        self.player.subscribe("chat:calm")
        self.unharmed()

    def unharmed(self):
        """Events reach it, its own publish is acknowledged, and it receives no sign of trouble."""
        mark = f"mark-{next(MARKS)}"
        self.redis.publish("chat:calm", json.dumps({"event": mark}))
        self.player.event("chat:calm", mark)
        self.player.publish("chat:calm", mark)
        assert not [m for m in self.player.received if m.type in ("STATUS", "RESYNC", "ERROR")]
