"""`scripts/bench --compare`: both programs are measured in turns, and the ratio is that of the medians."""

import contextlib
import io
import sys
import unittest
from pathlib import Path
from unittest import mock

import support  # noqa: F401

from bench import cli, compare
from bench.cluster import CHAT, options


class Compare(unittest.TestCase):
    def test_the_arguments_are_taken_out(self):
        other = Path(sys.executable)
        found = cli.compare_arguments(["--quick", "--compare", str(other), "--rounds", "5", "-v"])
        self.assertEqual(found, (other.resolve(), 5, ["--quick", "-v"]))
        self.assertEqual(cli.compare_arguments(["p1"]), (None, 3, ["p1"]))

    def test_a_missing_program_is_wrong_usage(self):
        for wrong in (["--compare"], ["--compare", "/no/such/program"], ["--compare", sys.executable, "--rounds", "0"]):
            with contextlib.redirect_stderr(io.StringIO()) as said:
                self.assertEqual(cli.main(wrong), 2)
            self.assertIn("unknown", said.getvalue())

    def test_the_programs_take_turns(self):
        other, order = Path(sys.executable), []

        def measurement():
            """Something; per second"""
            order.append(options.program)
            return 10 if options.program == CHAT else 8

        with (
            mock.patch.object(compare, "MEASUREMENTS", [measurement]),
            contextlib.redirect_stdout(io.StringIO()) as printed,
            contextlib.redirect_stderr(io.StringIO()),
        ):
            compare.run_both(other, 2)
        self.assertEqual(order[0], order[3])
        self.assertEqual(order[1], order[2])
        self.assertNotEqual(order[0], order[1])
        self.assertEqual(options.program, CHAT)
        self.assertIn("1.250", printed.getvalue())


if __name__ == "__main__":
    unittest.main()
