"""What the benchmarks share: the processes that they start and read, CPU time, the machine they ran on, tables, and
the flags that are the same for all. What is measured stands in scripts/bench and scripts/bench-views.
"""

import argparse
import collections
import datetime
import json
import os
import pathlib
import platform
import queue
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
SECRET = "a secret of this benchmark and of nothing else"
# Numbers are taken when what was published has arrived: nobody has worked for this long, or this much has passed.
QUIET_S, QUIET_AT_MOST_S = 0.5, 15


class Failure(Exception):
    """Something without which nothing can be measured."""


class Child:
    """A process whose output is read as it comes, and which is ended when its block is left."""

    def __init__(self, command, env=None, stdin=subprocess.DEVNULL):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DRAWBRIDGE_")}
        self.command = [str(part) for part in command]
        self.process = subprocess.Popen(
            self.command, env={**clean, **(env or {})}, stdin=stdin, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, bufsize=1)
        self.pid = self.process.pid
        self.lines = queue.Queue()
        self.last = collections.deque(maxlen=20)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.last.append(line.rstrip())
            # A node's log is not waited for once it is ready: do not hoard it.
            if self.lines.qsize() < 10_000:
                self.lines.put(line)
        self.lines.put(None)

    def wait_for(self, found, timeout):
        """The first line of which `found` makes something true; a process without one is ended."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                self.stop()
                raise Failure(f"{self} said nothing for {timeout} s: {list(self.last)}") from None
            if line is None:
                self.stop()
                raise Failure(f"{self} ended with {self.process.returncode}: {list(self.last)}")
            if value := found(line):
                return value

    def __str__(self):
        return " ".join(pathlib.Path(part).name for part in self.command[:2])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        if self.process.poll() is None and self.process.stdin:
            self.process.stdin.close()
        elif self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu_s(self):
        """CPU time of all its threads, in user and kernel mode: in nanoseconds where the kernel counts them, else in ticks
        of its clock."""
        try:
            tasks = pathlib.Path(f"/proc/{self.pid}/task").glob("*/schedstat")
            ran_ns = [int(task.read_text().split()[0]) for task in tasks]
        except FileNotFoundError:
            # A thread has ended meanwhile.
            return self.cpu_s()
        if ran_ns:
            return sum(ran_ns) / 1e9
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss_kib(self):
        """Its resident memory: the median of five samples a second."""
        samples = []
        for _ in range(5):
            status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
            samples.append(int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)))
            time.sleep(0.2)
        return statistics.median(samples)


class Loadgen(Child):
    """A subcommand of drawbridge-loadgen: answers in JSON, asks for reports by lines."""

    def __init__(self, binary, *args, secret=None):
        super().__init__([binary, *args], env={"LOADGEN_SECRET": secret} if secret else None, stdin=subprocess.PIPE)

    def say(self, at, timeout):
        def found(line):
            try:
                value = json.loads(line)
            except ValueError:
                return None
            return value if isinstance(value, dict) and value.get("at") == at else None

        return self.wait_for(found, timeout)

    def report(self):
        self.process.stdin.write("report\n")
        self.process.stdin.flush()
        return self.say("report", 30)


def ready_address(line):
    """The address that a node names in this line of its log, where it is ready."""
    found = re.search(r"ready listen=(\S+)", line)
    return found and found.group(1)


class Bench:
    """A Redis of its own, and what is started beside it. Its Redis is ended with its block."""

    def __init__(self, args, directory):
        self.args = args
        self.directory = pathlib.Path(directory)
        self.redis_port = free_port()
        self.redis_address = f"127.0.0.1:{self.redis_port}"
        self.redis = Child([
            args.redis_server, "--port", self.redis_port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", directory])
        self.redis.wait_for(lambda line: "eady to accept connections" in line, 60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.redis.stop()

    def loadgen(self, *args, secret=None):
        return Loadgen(self.args.loadgen, *args, secret=secret)

    def serve(self, name, text):
        """Starts a node with this configuration; answers it and its address."""
        config = self.directory / f"{name}.toml"
        config.write_text(text)
        child = Child([self.args.server, "serve", "--config", config])
        return child, child.wait_for(ready_address, 30)

    def publish(self, *command, seconds):
        """Runs a publisher to its end; answers what it says then."""
        with self.loadgen(*command, "--redis", self.redis_address, "--seconds", seconds) as publisher:
            return publisher.say("done", seconds + 60)


class Meter:
    """The CPU time of some processes, and of the machine, from here to `stop`."""

    def __init__(self, **children):
        self.children = children
        self.start, self.machine = time.monotonic(), machine_s()
        self.used = {name: child.cpu_s() for name, child in children.items()}

    def stop(self):
        """Waits until they have nothing left to do; answers seconds, CPU time by name, and shares of a core."""
        wait_until_quiet(self.children.values())
        used = {name: child.cpu_s() - self.used[name] for name, child in self.children.items()}
        busy, total = (after - before for after, before in zip(machine_s(), self.machine))
        seconds = time.monotonic() - self.start
        use = {name: cpu_s / seconds for name, cpu_s in used.items()}
        return seconds, used, {**use, "machine": busy / total}


def wait_until_quiet(children):
    deadline = time.monotonic() + QUIET_AT_MOST_S
    before = None
    while time.monotonic() < deadline:
        now = [child.cpu_s() for child in children]
        # One tick of the clock is what standing by may cost.
        if before and all(after - earlier <= 1 / TICKS + 1e-6 for after, earlier in zip(now, before)):
            return
        before = now
        time.sleep(QUIET_S)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def machine_s():
    """Busy and total CPU time of the machine."""
    fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / TICKS, sum(fields) / TICKS


def output(*command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def environment(args, server=True, loadgen=True):
    cpu = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text())
    commit = output("git", "rev-parse", "--short=12", "HEAD")
    dirty = output("git", "status", "--porcelain", "--untracked-files=no") not in ("", "unknown")
    about = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit + ("+changes" if dirty else ""),
        "node": output(args.server, "--version") if server else None,
        "loadgen": output(args.loadgen, "--version") if loadgen else None,
        "redis": output(args.redis_server, "--version").split(" sha=")[0],
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "rounds": args.rounds, "window_s": args.window, "quick": args.quick,
    }
    return {name: value for name, value in about.items() if value is not None}


def head_line(about):
    """The environment, as the heading of what is printed."""
    print("# " + ", ".join(f"{name} {value}" for name, value in about.items()))


def table(head, rows):
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def figures(found):
    """What the project holds itself to, beside what was found: (what, at most, found), found None where nothing valid
    was; answers it for the record."""
    def judged(limit, value):
        if value is None:
            return ["–", "**void**"]
        return [f"{value:.3f}", "within" if value <= limit else "**beyond**"]

    if found:
        print("\n## Figures")
        table(["figure", "at most", "found", ""], [
            [what, f"{limit:g}", *judged(limit, value)] for what, limit, value in found])
    return [{"figure": what, "at_most": limit, "found": value} for what, limit, value in found]


def median(rounds, pick):
    return statistics.median(pick(one) for one in rounds)


def in_turn(things, number):
    """Every other round runs backwards, so that none always comes first."""
    return things if number % 2 == 0 else things[::-1]


def note(text):
    print(text, file=sys.stderr, flush=True)


def some(known):
    """The type of a flag that takes some of these, with commas."""
    def split(text):
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return [name for name in known if name in chosen]
    return split


def add_flags(parser, rounds):
    """The flags that all benchmarks have. `rounds`: how many there are, when not quick."""
    parser.add_argument("--quick", action="store_true", help="short and rough: does it run, is it about right")
    parser.add_argument("--rounds", type=int, help=f"rounds of each case ({rounds}; quick: 1)")
    parser.add_argument("--window", type=float, help="seconds measured in each round (10; quick: 3)")
    parser.add_argument("--warm-up", type=float, help="seconds before that (2; quick: 1)")
    parser.add_argument("--server", type=pathlib.Path, help="a built drawbridge; else it is built from here")
    parser.add_argument("--loadgen", type=pathlib.Path, help="a built drawbridge-loadgen; else it is built from here")
    parser.add_argument("--redis-server", default=shutil.which("redis-server"))
    parser.add_argument("--out", type=pathlib.Path, help="where results are appended (a file of target/)")
    parser.set_defaults(usual_rounds=rounds)


def settle(parser):
    """Parses, and fills in what depends on `--quick`."""
    args = parser.parse_args()
    rounds, window, warm_up = (1, 3.0, 1.0) if args.quick else (args.usual_rounds, 10.0, 2.0)
    args.rounds, args.window, args.warm_up = args.rounds or rounds, args.window or window, args.warm_up or warm_up
    if not args.redis_server:
        parser.error("redis-server is not installed")
    return args


def build(args, out, server=True):
    """Builds what was not named. `out`: the file of the target directory that results go to."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    wanted = []
    if args.loadgen is None:
        wanted += ["-p", "drawbridge-loadgen"]
        args.loadgen = target / "dist" / "drawbridge-loadgen"
    if args.server is None and server:
        wanted += ["-p", "drawbridge"]
        args.server = target / "dist" / "drawbridge"
    if wanted:
        subprocess.run(["cargo", "build", "--profile", "dist", *wanted], cwd=ROOT, check=True)
    for binary in (args.loadgen, args.server):
        if binary and not os.access(binary, os.X_OK):
            raise Failure(f"{binary} is no program")
    if args.out is None:
        args.out = target / out


def allow_files(connections):
    """Lets processes open as many files as the system allows, which must suffice for so many connections."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < connections + 500:
        raise Failure(f"the limit of open files is {hard}: too few for {connections} connections")


def conclude(args, record, wrong):
    """Appends the record, says what was wrong, and answers the exit code: with faults the numbers mean nothing."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("a") as out:
        out.write(json.dumps({**record, "faults": wrong}) + "\n")
    note(f"\nappended to {args.out}")
    for fault in wrong:
        note(f"not a valid round: {fault}")
    return 1 if wrong else 0


def run(main, name):
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"{name}: {failure}")
    except subprocess.CalledProcessError as failed:
        sys.exit(f"{name}: {failed}")
