"""Waiting for a condition, with a bound. Nothing here or in a test sleeps and hopes."""

import time

# Generous, because a test asserts what happens and not how fast; a loaded machine is slow.
PATIENCE = 15.0


def until(condition, what, timeout=PATIENCE, pause=0.002):
    """Calls `condition` until it is truthy and returns its value; after `timeout` fails, saying `what`. Pauses in between,
    longer each time; `pause=0` does not, for what has to follow at once."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout:g} s: {what} (last value: {value!r})")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


class Deadline:
    """A point in time that several waits share."""

    def __init__(self, timeout=PATIENCE):
        self.at = time.monotonic() + timeout
        self.timeout = timeout

    def left(self):
        """Seconds that are left, never below zero."""
        return max(0.0, self.at - time.monotonic())

    def passed(self):
        return self.left() == 0.0
