"""The common part of all three servers: start, wait until ready, stop, kill, pause and resume."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from services import processes
from services.instance import VARIABLES, Instance, child_environment, run_as, user_of
from services.problem import Problem, log_end, say
from services.processes import Process

STOP_SECONDS = 60
PORT_SECONDS = 2
MAX_OPEN_FILES = 262144  # RabbitMQ allocates memory for each file that it may open


@dataclass(frozen=True)
class Programs:
    directory: Path
    version: tuple[int, ...]

    def __getitem__(self, name: str) -> str:
        return str(self.directory / name)


class Server:
    """One server of one instance. The subclasses implement the differences."""

    name: str
    package: str  # of Debian
    minimum: tuple[int, ...]
    programs: tuple[str, ...]  # what the process table calls it
    stop_signal = signal.SIGTERM
    ready_seconds = 90.0

    def __init__(self, instance: Instance):
        self.instance = instance
        self._found: Programs | None = None

    # ---- for the subclasses

    def find(self) -> Programs | None:
        """The server's programs, if a version that is new enough is installed."""
        raise NotImplementedError

    def found(self) -> Programs | None:
        """The same, looked for only until they are found."""
        self._found = self._found or self.find()
        return self._found

    def marker(self) -> str:
        """The words of the command line by which a process of this instance is recognized."""
        raise NotImplementedError

    def configure(self, programs: Programs) -> list[str]:
        """Writes the configuration, makes the data directory if it is missing, and returns the command."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return child_environment()

    def is_ready(self) -> bool:
        raise NotImplementedError

    def version(self, state: str) -> str:
        """The version for `status`; "-" if it cannot be told."""
        programs = self.found()
        return ".".join(map(str, programs.version)) if programs else "-"

    def ports(self) -> list[tuple[int, str]]:
        """The ports that must be free, each with the variable that changes it."""
        return [(self.port, VARIABLES[self.name])]

    def logs(self) -> list[Path]:
        return [self.log]

    def after_stop(self) -> None:
        """Ends what the server leaves behind."""

    # ---- where it is

    @property
    def port(self) -> int:
        return self.instance.ports[self.name]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def base(self) -> Path:
        return self.instance.state / self.name

    @property
    def log(self) -> Path:
        return self.instance.directory / f"{self.name}.log"

    @property
    def user(self) -> str:
        return user_of(self.name)

    def process(self) -> Process | None:
        """The running server. Pid files are not used: they go stale."""
        return processes.find(self.programs, self.marker())

    def state(self) -> str:
        """`down`, `paused`, `starting` or `up`."""
        process = self.process()
        if process is None:
            return "down"
        if process.stopped:
            return "paused"
        return "up" if self.is_ready() else "starting"

    # ---- files

    def own(self, path: Path) -> None:
        """Makes a directory that only the server's user can enter, or gives a file to that user."""
        if not path.is_file():
            path.mkdir(exist_ok=True)
            path.chmod(0o700)
        shutil.chown(path, self.user)

    def write(self, path: Path, text: str) -> None:
        path.write_text(text)
        self.own(path)

    def log_ends(self) -> str:
        return "\n".join(filter(None, map(log_end, self.logs())))

    # ---- starting

    def begin(self) -> Starting | None:
        """Starts or resumes the server; None if it is up already."""
        process, state = self.process(), self.state()
        if process and state != "down" and not self.base.is_dir():
            say(f"{self.name}: its files were deleted; starting anew")
            self.kill()
            process, state = None, "down"
        if state == "up":
            say(f"{self.name}: already up on {self.address}")
            return None
        if process is None:
            return self._start()
        if state == "paused":
            say(f"{self.name}: resuming")
            processes.send_tree(process, signal.SIGCONT)
        else:
            say(f"{self.name}: already starting")
        return Starting(self, process)

    def _start(self) -> Starting:
        programs = self.found()
        if programs is None:
            raise Problem(f"{self.name}: not installed")
        self._require_free_ports()
        say(f"{self.name}: starting on {self.address}")
        self.own(self.base)
        command = self.configure(programs)
        if self.log.exists():
            self.log.replace(self.log.with_name(self.log.name + ".old"))
        raise_file_limit()
        with open(self.log, "wb") as log:
            child = subprocess.Popen(
                command,
                cwd=self.base,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # away from this terminal
                **run_as(self.user),
            )
        process = processes.read(child.pid)
        if process is None:
            raise Problem(f"{self.name}: it ended at once\n{self.log_ends()}")
        return Starting(self, process, child)

    def _require_free_ports(self) -> None:
        """The threads of a killed process end a little after it does, and its ports with them."""
        end = time.monotonic() + PORT_SECONDS
        for port, variable in self.ports():
            while is_open(port):
                if time.monotonic() >= end:
                    raise Problem(f"{self.name}: port {port} is taken by another program; choose another one with {variable}")
                time.sleep(0.05)

    # ---- stopping

    def begin_stop(self) -> list[Process] | None:
        """Asks the server to stop; returns the processes to wait for, or None if it is not running."""
        process = self.process()
        if process is None:
            return None
        # A frozen server would not see the signal.
        found = processes.send_tree(process, signal.SIGCONT)
        processes.send(process, self.stop_signal)
        return found

    def finish_stop(self, waited: list[Process] | None) -> None:
        if waited is None:
            say(f"{self.name}: not running")
        elif processes.wait_gone(waited, STOP_SECONDS):
            say(f"{self.name}: did not stop within {STOP_SECONDS} s")
            self.kill()
        else:
            say(f"{self.name}: stopped")
        self.after_stop()

    def kill(self) -> None:
        process = self.process()
        if process is None:
            say(f"{self.name}: not running")
            return
        left = processes.wait_gone(processes.send_tree(process, signal.SIGKILL), STOP_SECONDS)
        if left:
            raise Problem(f"{self.name}: process {left[0].pid} is still there {STOP_SECONDS} s after SIGKILL")
        say(f"{self.name}: killed")

    def pause(self) -> None:
        processes.send_tree(self._running(), signal.SIGSTOP)
        say(f"{self.name}: paused")

    def resume(self) -> None:
        processes.send_tree(self._running(), signal.SIGCONT)
        say(f"{self.name}: resumed")

    def _running(self) -> Process:
        process = self.process()
        if process is None:
            raise Problem(f"{self.name} is not running")
        return process


class Starting:
    """A server that has been started and is not ready yet."""

    def __init__(self, server: Server, process: Process, child: subprocess.Popen[bytes] | None = None):
        self.server = server
        self.process = process
        self.child = child
        self.begun = time.monotonic()

    def is_done(self) -> bool:
        """True once the server is ready; a problem if it has ended or takes too long."""
        name, seconds = self.server.name, time.monotonic() - self.begun
        if self.server.is_ready():
            say(f"{name}: ready after {seconds:.0f} s")
            return True
        ended = self.child.poll() is not None if self.child else not processes.is_alive(self.process)
        if ended:
            raise Problem(f"{name}: it ended while starting\n{self.server.log_ends()}")
        if seconds >= self.server.ready_seconds:
            raise Problem(f"{name}: not ready after {self.server.ready_seconds:.0f} s\n{self.server.log_ends()}")
        return False


def raise_file_limit() -> None:
    """The servers inherit our limit of open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def is_open(port: int) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False


def version_of(program: Path) -> tuple[int, ...]:
    """The first number with dots that `PROGRAM --version` prints."""
    try:
        said = subprocess.run([str(program), "--version"], env=child_environment(), capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"\d+(\.\d+)+|\d+", said)
    return tuple(map(int, match[0].split("."))) if match else ()


def on_path(program: str) -> list[Path]:
    """The directory of a program in PATH, links resolved."""
    found = shutil.which(program)
    return [Path(os.path.realpath(found)).parent] if found else []
