"""The command line of `scripts/bench`."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

from pathlib import Path

from bench import compare, page
from bench.cluster import CHAT, OUT, Failed, options, run, say, servers_up
from bench.parts import PARTS

USAGE = """\
Measures chat on this machine, part by part, and writes docs/benchmarks.md from the results.

Usage: scripts/bench [--quick] [--report] [-v] [PART...]
       scripts/bench --compare PROGRAM [--rounds N] [--quick] [-v] [p1] [p2] [p3]

  PART      p1 to p9, as docs/benchmarks.md numbers them, or scaling; default: all
  --quick   a few seconds for each part, to see that everything works; docs/ is not changed
  --report  measures nothing: writes docs/benchmarks.md again from the last results
  --compare PROGRAM
            runs this build and PROGRAM (a `chat` binary of another version) in turns, N times each
            (default 3): throughput, CPU time per message, latency and fan-out, with the ratio of the
            medians. docs/ is not changed
  -v        shows the warnings and the progress of the commands that it runs

Starts private servers (scripts/services up), builds a release binary, and gives every part its own
database, queues and processes. The load generator runs on this machine too: stop other programs first.
All parts together take about half an hour. Results: target/bench/*.json.

Exit code: 0 done, 1 a part failed (the others are written all the same), 2 wrong usage.
"""


def main(arguments):
    if "-h" in arguments or "--help" in arguments:
        print(USAGE, end="")
        return 0
    other, rounds, arguments = compare_arguments(arguments)
    unknown = [one for one in arguments if one not in (*PARTS, "--quick", "--report", "-v")]
    if unknown:
        print(f"bench: unknown: {' '.join(unknown)} (see scripts/bench --help)", file=sys.stderr)
        return 2
    options.quick, options.verbose = "--quick" in arguments, "-v" in arguments
    try:
        if "--report" in arguments:
            results = page.results()
            if not CHAT.exists():
                build()
            page.write_page(results)
            return 0
        if other is not None:
            prepare()
            compare.run_both(other, rounds, [one for one in arguments if one in PARTS])
            return 0
        return measure([one for one in arguments if one in PARTS] or list(PARTS))
    except Failed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def build():
    say("building")
    run("cargo", "build", "--release", "--locked")


def compare_arguments(arguments):
    """The program to compare with, the rounds, and the other arguments."""
    other, rounds, rest = None, 3, list(arguments)
    if "--compare" in rest:
        at = rest.index("--compare")
        if at + 1 < len(rest) and Path(rest[at + 1]).is_file():
            other = Path(rest[at + 1]).resolve()
            del rest[at : at + 2]
            if "--rounds" in rest:
                at = rest.index("--rounds")
                if at + 1 < len(rest) and rest[at + 1].isdecimal() and int(rest[at + 1]) > 0:
                    rounds = int(rest[at + 1])
                    del rest[at : at + 2]
    return other, rounds, rest


def prepare():
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    OUT.mkdir(parents=True, exist_ok=True)
    servers_up()
    build()


def measure(parts):
    prepare()
    failed = []
    for part in parts:
        started = time.monotonic()
        say(f"{part}: {PARTS[part].__doc__}")
        try:
            result = PARTS[part]()
        except (Failed, subprocess.TimeoutExpired) as error:
            # The results of the other parts are of use all the same.
            say(str(error))
            failed.append(part)
            continue
        say(f"    took {time.monotonic() - started:.0f} s")
        if not options.quick:
            page.save(part, PARTS[part].__doc__, result)
    if not options.quick:
        page.write_page(page.results())
    if failed:
        raise Failed(f"no result: {' '.join(failed)}")
    return 0
