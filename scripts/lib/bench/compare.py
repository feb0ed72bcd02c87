"""Two versions of the program side by side: in turns, on the same servers, with the same load generator."""

from __future__ import annotations

import statistics

from bench.cluster import CHAT, Cluster, Failed, Standalone, bench, options, say
from bench.parts import load

FEW = {"rooms": 100, "senders": 300}


def cpu_us(result):
    """CPU time of all servers per message in microseconds."""
    return sum(result["cpu_us_per_message"].values())


def p1():
    """100 rooms of 3 at 25,000/s; CPU time per message"""
    with Cluster() as cluster:
        load(cluster, 3000, 3, **FEW)
        return cpu_us(load(cluster, 25000, 10, **FEW))


def p1_most():
    """100 rooms of 3, more than can be stored; messages delivered per second"""
    with Cluster() as cluster:
        load(cluster, 3000, 3, **FEW)
        return load(cluster, 60000, 8, **FEW)["delivered_per_s"]


def p2():
    """1,000/s in a cluster; p50 in ms"""
    with Cluster() as cluster:
        load(cluster, 1000, 3)
        return load(cluster, 1000, 10)["latency_ms"]["p50"]


def p2_standalone():
    """1,000/s standalone; p50 in ms"""
    with Standalone() as alone:
        load(alone, 1000, 3)
        return load(alone, 1000, 10)["latency_ms"]["p50"]


def p3():
    """One room of 5,000 sockets, burst; deliveries per second"""
    return fanout(5000, 1, 200)


def p3_small():
    """1,000 rooms of 10 sockets, burst; deliveries per second"""
    return fanout(10000, 1000, 100)


def fanout(sockets, rooms, messages):
    if options.quick:
        sockets, messages = max(sockets // 10, rooms), 5
    with Standalone() as alone:
        shape = ["--sockets", sockets, "--rooms", rooms, "--messages", messages]
        return bench("fanout", "--url", alone.url, "--pid", alone.node.pid, *shape)["deliveries_per_s"]


MEASUREMENTS = [p1, p1_most, p2, p2_standalone, p3, p3_small]


def run_both(other, rounds, parts=()):
    """Measures `parts`, such as p1 and p3, or all."""
    lines, failed = [], []
    for measurement in MEASUREMENTS:
        if parts and measurement.__name__.split("_")[0] not in parts:
            continue
        say(measurement.__doc__)
        try:
            lines.append(ratio(measurement, other, rounds))
        except Failed as error:
            say(str(error))
            failed.append(measurement.__name__)
        finally:
            options.program = CHAT
    print(f"ratio   this build (range)   {other} (range)")
    print("\n".join(lines))
    if failed:
        raise Failed(f"no result: {' '.join(failed)}")


def ratio(measurement, other, rounds):
    """The line of one measurement."""
    figures = {CHAT: [], other: []}
    for number in range(rounds):
        # Which one begins changes, since the machine's state does.
        for program in sorted(figures, reverse=number % 2 == 1):
            options.program = program
            figures[program].append(measurement())
    this, before = (statistics.median(figures[program]) for program in (CHAT, other))
    spread = [f"{min(of):.4g}..{max(of):.4g}" for of in figures.values()]
    return f"{this / before:6.3f}  {this:>10.4g} ({spread[0]})  {before:>10.4g} ({spread[1]})  {measurement.__doc__}"
