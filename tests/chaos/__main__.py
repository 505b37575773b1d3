"""Chaos on the real thing: three nodes behind HAProxy, on one Redis, a Cluster, or a master with replicas and sentinels;
players that check every event, and faults drawn from a seed. Prints one table and exits with 1 if a promise of docs/reliability.md is broken."""

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import cluster
import report
from ending import Ending
from failovers import Replicated, Sentinels
from faults import Faults
from harness.tokens import mint
from ledger import Ledger
from player import Player
from publishers import Publishers
from slots import Slots
from topologies import Standalone

JOIN = 120.0
CLIENTS = 500
SHORT = 60.0, 20261130, 15  # seconds, seed, resume_window
# Seconds and clients of the short form where Redis fails over, which takes its time and up to seven more processes.
SHORT_FAILOVERS = 80.0, 100
TOPOLOGIES = {"one": Standalone, "cluster": Slots, "sentinel": Sentinels}


def parse():
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--redis", choices=TOPOLOGIES, default="one", help="one server, a Cluster, or a master with sentinels")
    parser.add_argument("--seconds", type=float, default=600, help="how long faults are dealt")
    parser.add_argument("--seed", type=int, help="what the faults are drawn from")
    parser.add_argument("--clients", type=int, help=f"players ({CLIENTS}; fewer in the short form where Redis fails over)")
    parser.add_argument("--short", action="store_true", help="the form of scripts/test: two minutes; the seed is fixed, if none is given")
    parser.add_argument("--rate", type=float, default=1.0, help="scales how much is published")
    parser.add_argument("--window", type=int, default=20, help="the nodes' resume_window, in seconds")
    parser.add_argument("--keep", action="store_true", help="keeps the directory with configurations and logs")
    args = parser.parse_args()
    if args.short:
        args.seconds, seed, args.window = SHORT
        if args.redis != "one":
            args.seconds, clients = SHORT_FAILOVERS
            args.clients = args.clients or clients
        args.seed = seed if args.seed is None else args.seed
    args.clients = args.clients or CLIENTS
    if args.seed is None:
        args.seed = random.randrange(1 << 32)
    return args


async def ticking(players):
    while True:
        await asyncio.sleep(0.5)
        now = time.monotonic()
        for player in players:
            player.tick(now)


async def run(args, directory):
    began = time.monotonic()

    def say(text):
        print(f"{time.monotonic() - began:7.1f}  {text}", file=sys.stderr, flush=True)

    rng = random.Random(args.seed)
    topology = TOPOLOGIES[args.redis]
    ledger = Ledger(may_undo=issubclass(topology, Replicated))
    layout = cluster.Layout(args.clients)
    system = cluster.Cluster(directory, cluster.settings(args.window, topology.sharded), topology)
    channels = [*layout.logged(), *layout.plain(), *layout.entity()]
    faults = Faults(system, channels, ledger, random.Random(rng.random()), say)
    panics = []
    tasks = []
    try:
        await system.start()
        players = [
            Player(n, mint(f"p{n}", expires_in=7200), layout.plan(n), system.port, ledger, rng) for n in range(args.clients)
        ]
        publishers = Publishers(system, layout, players, ledger, random.Random(rng.random()), args.rate)
        ending = Ending(system, layout, players, publishers, ledger, say, args.window)
        say(f"{len(system.nodes)} nodes, seed {args.seed}: {args.clients} players connect")
        tasks = [asyncio.create_task(player.run()) for player in players] + [asyncio.create_task(ticking(players))]
        await cluster.until(lambda: not ending._not_live(), "all players are subscribed", JOIN)
        publishers.start()
        say("all players are subscribed: faults begin")
        await faults.run(args.seconds)
        await ending.run()
    except Exception as error:
        ledger.breach("the run itself", "", "", repr(error))
        raise
    finally:
        for task in tasks:
            task.cancel()
        panics = await system.stop()
        for node in system.nodes:
            for life, process in enumerate(node.logs):
                (directory / f"{node.name}-{life}.log").write_text(process.output)
        for panic in panics:
            ledger.breach("panic", "", "", panic)
        facts = {
            "seed": args.seed,
            "seconds": int(args.seconds),
            "clients": args.clients,
            "topology": topology.name,
            "versions": cluster.versions(),
            "load": f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        }
        print(report.table(ledger, faults, facts))
        for line in report.breaches(ledger):
            print(line)
        say("done")
    return not ledger.broken_rules


def main():
    args = parse()
    directory = Path(tempfile.mkdtemp(prefix="drawbridge-chaos-"))
    try:
        passed = asyncio.run(run(args, directory))
    finally:
        if args.keep:
            print(f"kept: {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
