"""Errors that end a command, and how messages are printed."""

from __future__ import annotations

import sys
from pathlib import Path


class Problem(Exception):
    """The command cannot be carried out: exit code 1."""


class UsageError(Exception):
    """The command line is wrong: exit code 2."""


def say(text: str) -> None:
    print(text, flush=True)


def warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def log_end(path: Path, lines: int = 25) -> str:
    """The last lines of a log under a heading; empty if there is none."""
    try:
        text = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join([f"--- the end of {path}", *text[-lines:]]) if text else ""
