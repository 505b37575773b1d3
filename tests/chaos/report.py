"""What a run prints: one table, and each broken rule with the last frames of the player that noticed it."""

import statistics


def rows(ledger, faults, facts):
    counts = ledger.counts
    outages = sorted(ledger.outages)
    longest, who = ledger.longest_outage
    yield "seed", facts["seed"]
    yield "seconds of faults", facts["seconds"]
    yield "clients", facts["clients"]
    yield "Redis", facts["topology"]
    for kind, count in sorted(faults.counts.items()):
        yield f"fault: {kind}", count
    yield "published", counts["published"]
    yield "… acknowledged", counts["acknowledged"]
    yield "… outcome unknown", counts["outcome unknown"]
    yield "missing where an epoch begins, undone by a failover", counts["acknowledged and undone by a failover"]
    yield "delivered", counts["delivered"]
    yield "**delivered twice**", ledger.broken_rules["delivered twice"]
    yield "**lost silently**", ledger.broken_rules["lost silently"] + ledger.broken_rules["recovered without proof"]
    for rule, count in sorted(ledger.broken_rules.items()):
        if rule not in ("delivered twice", "lost silently", "recovered without proof"):
            yield f"**{rule}**", count
    yield "gaps signalled", sum(ledger.resyncs.values())
    for reason, count in sorted(ledger.resyncs.items()):
        yield f"… {reason}", count
    yield "tables sent again", counts["tables sent again"]
    yield "reconnects", len(outages)
    for name in sorted(counts):
        if name.startswith(("resumed", "not resumed", "plain ", "closed ", "given up as", "failed connects")):
            yield f"… {name}", counts[name]
    yield "outage of a player, median", f"{statistics.median(outages):.2f} s" if outages else "–"
    yield "outage of a player, longest", f"{longest:.2f} s ({who})" if outages else "–"
    for name, value in facts["versions"].items():
        yield name, value
    yield "machine load (1 min), at the end", facts["load"]


def table(ledger, faults, facts):
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {f'{value:,}' if isinstance(value, int) and name != 'seed' else value} |" for name, value in rows(ledger, faults, facts)]
    return "\n".join(lines)


def breaches(ledger, frames=True):
    for breach in ledger.breaches:
        yield f"\n### {breach.rule}: {breach.player} {breach.channel}\n{breach.detail}"
        if frames:
            yield from (f"    {line}" for line in breach.frames)
