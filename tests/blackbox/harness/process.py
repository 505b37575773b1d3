"""A child process whose output is kept, and which never outlives its test."""

import os
import signal
import subprocess
import threading

from .wait import PATIENCE


class Process:
    """Started at once. `lines` holds what it wrote to standard error and output, in order."""

    def __init__(self, command, *, env=None, cwd=None):
        self.command = [str(part) for part in command]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("DRAWBRIDGE_") or key == "DRAWBRIDGE_LOG"}
        environment.update(env or {})
        self.child = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=cwd,
            start_new_session=True,
        )
        self.lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.child.stdout:
            self.lines.append(line.decode(errors="replace").rstrip("\n"))

    @property
    def pid(self):
        return self.child.pid

    @property
    def running(self):
        return self.child.poll() is None

    @property
    def output(self):
        return "\n".join(self.lines)

    def signal(self, number):
        if self.running:
            self.child.send_signal(number)

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def wait(self, timeout=PATIENCE):
        """Its exit code; fails where it does not end in time."""
        try:
            code = self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command[0]} did not end within {timeout:g} s:\n{self.output[-3000:]}") from None
        self._reader.join(5)
        return code

    def terminate(self, timeout=PATIENCE):
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self):
        """SIGKILL, and waits for the end."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def rss_kib(self):
        """Resident memory."""
        with open(f"/proc/{self.pid}/status") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1])
        raise AssertionError("no VmRSS")

    def open_files(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))
