"""docs/benchmarks.md is written from the results alone."""

import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import support  # noqa: F401

from bench import cli, page
from bench.cluster import Failed

LATENCY = {"p50": 2.84, "p99": 9.04, "p999": 18.8, "max": 31.7}
CPU = {"worker": 16.8, "edge": 31.9}


def step(rate, steady=True):
    return {"rate": rate, "steady": steady, "latency_ms": LATENCY, "cpu_us_per_message": CPU, "accepted": 10 * rate}


def connects(per_s, failed=0):
    return {"per_s": per_s, "failed": failed, "connections": 15000, "open_ms": LATENCY, "cpu_us_per_connection": CPU}


def answers(per_s):
    return {"per_s": per_s, "answer_bytes": 9000, "latency_ms": LATENCY, "cpu_us_per_request": CPU}


def deliveries(per_s):
    return {"deliveries_per_s": per_s, "server_cpu_us_per_delivery": 0.62}


def growth(series, x, cost):
    return {"series": series, "x": x, "server_us": cost, "per_delivery_us": cost / x, "p50": 1.5, "cpu": CPU}


BURST = {"rate": 40000, "accepted_per_s": 39999.7, "errors": {}, "accept_ms": LATENCY, "cpu_us_per_message": CPU}
RESULTS = {
    "p1": {
        "steps": [step(15000), step(30000), step(32500, steady=False)],
        "few": [step(31250)],
        "baseline": {"stored_per_s": 10450, "accepted_per_s": 10451, "cpu_us_per_message": CPU},
        "burst": [BURST, {**BURST, "rate": 60000, "accepted_per_s": 55000, "errors": {"busy": 7}}],
    },
    "p2": {"cluster": step(1000), "standalone": step(1000)},
    "p3": [{"name": "one room", "chat": deliveries(1765642), "baseline": deliveries(1485281)}],
    "p4": {
        **{key: 2**20 for key in ("before_bytes", "connected_bytes", "after_burst_bytes")},
        **{"bytes_per_connection": 3031, "bytes_per_connection_after_burst": 3304, "connections": 15000, "rooms_each": 3},
    },
    "p5": {"chat": connects(8895), "baseline": connects(23000)},
    "p6": {"chat": answers(9600), "baseline": answers(10000)},
    "p7": {"waiting": 1000000, "stored": 1000000, "seconds": 20.8, "per_s": 48008, "live": step(200), "curve": [[0.0, 0], [20.8, 1000000]]},
    "p8": [growth("rooms", 1, 100.0), growth("rooms", 100000, 122.0), growth("members", 1, 100.0), growth("members", 30, 90.0)],
    "p9": [step(15000), step(17500, steady=False)],
    "scaling": {},
}


class Page(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.out, self.docs = Path(scratch.name) / "out", Path(scratch.name) / "docs"
        self.out.mkdir()
        self.docs.mkdir()
        self.plots = []
        for name, value in {"OUT": self.out, "DOCS": self.docs, "run": self.plot, "say": lambda text: None}.items():
            patch = mock.patch.object(page, name, value)
            patch.start()
            self.addCleanup(patch.stop)

    def plot(self, *command, stdin):
        self.assertEqual(command[1:], ("bench", "plot"))
        self.plots.append(json.loads(stdin))
        return "<svg/>"

    def write(self, **results):
        for part, result in results.items():
            kept = {"date": "2026-11-28", "machine": "2 cores", "versions": "Redis 7", "title": f"About {part}.", "result": result}
            (self.out / f"{part}.json").write_text(json.dumps(kept))
        (self.out / "scaling.html").write_text("<html><svg>curve</svg></html>")
        page.write_page(page.results())
        return (self.docs / "benchmarks.md").read_text()

    def test_every_part_has_a_section_and_its_targets(self):
        text = self.write(**RESULTS)
        self.assertEqual([line for line in text.splitlines() if line.startswith("#")][1:3], ["## P1: About p1.", "## P2: About p2."])
        self.assertIn("measured on 2026-11-28. 2 cores; Redis 7.", text)
        for row in (
            "| P1 | durable messages per second, end to end | ≥ 15,000 | 30,000 | holds |",
            "|  | … compared with the baseline without batches | ≥ 1.5 × | 2.87 × | holds |",
            "|  | accepted per second while no worker runs | ≥ 40,000 | 40,000 | **missed** |",
            "|  | latency p50, standalone | ≤ 4 ms | 2.8 ms | holds |",
            "| P3 | deliveries, one room | ≥ 0.85 × baseline | 1.19 × | holds |",
            "| P4 | memory per socket, 15,000 idle in 3 rooms | ≤ 4 KiB | 2.96 KiB | holds |",
            "| P5 | connect, authenticate, join: 15,000 | ≥ 0.6 × baseline, no failures | 0.39 ×, 0 failed | **missed** |",
            "| P6 | recent history over REST | ≥ 0.7 × baseline | 0.96 × | holds |",
            "| P7 | drain of 1,000,000 messages | ≥ 25,000/s | 48,008/s | holds |",
            "| P8 | CPU µs per message, rooms 1 → 100,000 | within 15 % | +22% | **missed** |",
            "|  | CPU µs per delivery, members 1 → 30 | within 15 % | -97% | holds |",
            "| P9 | durable messages per second, standalone | ≥ 15,000 | 15,000 | holds |",
        ):
            self.assertIn(row + "\n", text)
        self.assertIn("| 32,500 | no | 3 / 9 | edge 31.9, worker 16.8 |", text)
        self.assertEqual([plot["x"] for plot in self.plots], ["seconds", "rooms", "members"])
        self.assertEqual((self.docs / "benchmarks/scaling.svg").read_text(), "<svg>curve</svg>")
        self.assertTrue((self.docs / "scaling-curve.html").exists())

    def test_parts_without_a_result_are_left_out(self):
        (self.docs / "benchmarks.notes.md").write_text("## Notes\n")
        text = self.write(p9=RESULTS["p9"])
        self.assertEqual([line for line in text.splitlines() if line.startswith("#")], ["# Benchmarks", "## Notes", "## P9: About p9."])

    def test_a_report_without_results_is_refused(self):
        with self.assertRaisesRegex(Failed, "run scripts/bench without --report first"):
            page.results()


class CommandLine(unittest.TestCase):
    def test_parts_and_pages_agree(self):
        self.assertEqual(list(cli.PARTS), list(page.PAGES))

    def test_wrong_usage(self):
        with mock.patch("builtins.print") as said:
            self.assertEqual(cli.main(["p1", "p10", "--fast"]), 2)
            self.assertIn("unknown: p10 --fast", said.call_args[0][0])
            self.assertEqual(cli.main(["--help"]), 0)


if __name__ == "__main__":
    unittest.main()
