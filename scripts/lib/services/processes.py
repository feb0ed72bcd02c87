"""The process table (Linux /proc), signals, and waiting for processes to end.

A process is known by its pid and its start time together. A pid alone may by now belong to another program.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    pid: int
    started: int  # in clock ticks since boot
    parent: int
    state: str  # R, S, D, T (stopped), Z (zombie) …
    args: tuple[str, ...]

    @property
    def stopped(self) -> bool:
        return self.state in "Tt"

    @property
    def programs(self) -> tuple[str, ...]:
        """The name of the program; if it is an interpreter, the name of its script comes second or third."""
        return tuple(os.path.basename(arg) for arg in self.args[:3])

    @property
    def command_line(self) -> str:
        return " ".join(self.args)


def read(pid: int) -> Process | None:
    """The process with this pid; None if it is gone or a zombie."""
    try:
        # "pid (name) state parent …"; the name may contain spaces and parentheses.
        fields = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        raw = (PROC / str(pid) / "cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    if len(fields) < 20 or fields[0] in "ZX":
        return None
    # A program that changes its title writes one string with spaces in place of the arguments.
    args = raw.decode(errors="replace").replace("\0", " ").split()
    return Process(pid, int(fields[19]), int(fields[1]), fields[0], tuple(args))


def table() -> dict[int, Process]:
    """Every living process by its pid; none where there is no /proc: servers run there only in Docker."""
    if not PROC.is_dir():
        return {}
    pids = (int(entry) for entry in os.listdir(PROC) if entry.isdigit())
    return {process.pid: process for process in map(read, pids) if process}


def find(programs: tuple[str, ...], marker: str) -> Process | None:
    """The process of one of these programs whose command line contains `marker` as whole words."""
    for process in sorted(table().values(), key=lambda one: one.pid):
        if f" {marker} " in f" {process.command_line} " and set(programs) & set(process.programs):
            return process
    return None


def is_alive(process: Process) -> bool:
    now = read(process.pid)
    return now is not None and now.started == process.started


def tree(root: Process) -> list[Process]:
    """The process and all its descendants, the process first."""
    children: dict[int, list[Process]] = {}
    for process in table().values():
        children.setdefault(process.parent, []).append(process)
    found, queue = [], [root] if is_alive(root) else []
    while queue:
        process = queue.pop()
        found.append(process)
        queue += children.get(process.pid, [])
    return found


def send(process: Process, number: signal.Signals) -> None:
    """Sends a signal, unless the process is gone, even if its pid is in use again."""
    if is_alive(process):
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            pass


def send_tree(root: Process, number: signal.Signals) -> list[Process]:
    """Sends a signal to the process and all its descendants; returns them."""
    if number != signal.SIGCONT:
        # A stopped parent starts no more children while the table is read.
        send(root, signal.SIGSTOP)
    found = tree(root)
    for process in found:
        send(process, number)
    return found


def wait_gone(processes: list[Process], seconds: float) -> list[Process]:
    """Waits until all have ended; returns those that live on after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        processes = [process for process in processes if is_alive(process)]
        if not processes or time.monotonic() >= end:
            return processes
        time.sleep(0.02)
