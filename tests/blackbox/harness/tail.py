"""`drawbridge tail`, as a process."""

import json
import re

from .node import binary
from .process import Process
from .wait import until


class Tail(Process):
    """Its events are in `lines`; what it prints to standard error is in `said`."""

    def __init__(self, tmp_path, *arguments):
        self.said_path = tmp_path / "tail.err"
        command = " ".join(f"'{part}'" for part in [str(binary()), "tail", *map(str, arguments)])
        super().__init__(["sh", "-c", f"exec {command} 2>'{self.said_path}'"])

    @property
    def said(self):
        return self.said_path.read_text() if self.said_path.exists() else ""

    def until_subscribed(self):
        return until(lambda: re.search("connected to node|subscribed at Redis", self.said), "tail is subscribed")

    def events(self, count):
        until(lambda: len(self.lines) >= count, f"{count} lines of tail")
        return [(line.split(" ", 1)[0], json.loads(line.split(" ", 1)[1])) for line in self.lines]
