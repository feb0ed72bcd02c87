"""Benchmarks of chat: the program behind `scripts/bench`.

cluster.py   the processes that are measured: edges, workers, baselines, and the private servers
parts.py     the measurements; each returns what goes into target/bench/PART.json
compare.py   two versions of the program side by side
page.py      docs/benchmarks.md and its charts, from these files
cli.py       the command line
"""
