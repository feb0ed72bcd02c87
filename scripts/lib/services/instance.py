"""An instance: the directory in which the three servers keep their files, and their ports."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Mapping

from services.problem import Problem, say

ROOT = Path(__file__).resolve().parents[3]
ELSEWHERE = Path("/var/tmp")
LOCK_SECONDS = 600  # an installation may take minutes
# PostgreSQL's Unix socket needs up to 24 bytes more, and the system allows 107.
MAX_PATH = 80

# Name, variable, default. A default of None is one above the port before.
PORTS: tuple[tuple[str, str, int | None], ...] = (
    ("postgres", "CHAT_PG_PORT", 15432),
    ("redis", "CHAT_REDIS_PORT", 16379),
    ("rabbitmq", "CHAT_AMQP_PORT", 15673),
    ("management", "CHAT_RABBIT_MGMT_PORT", None),
)
VARIABLES = {name: variable for name, variable, _ in PORTS}


def user_of(server: str) -> str:
    """The system user that a server runs as: its own if we are root and it exists, otherwise ours."""
    if os.geteuid() == 0:
        try:
            return pwd.getpwnam(server).pw_name
        except KeyError:
            pass
    return pwd.getpwuid(os.geteuid()).pw_name


def run_as(user: str) -> dict[str, object]:
    """The arguments of subprocess that make the child run as this user."""
    entry = pwd.getpwnam(user)
    if entry.pw_uid == os.geteuid():
        return {}
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": os.getgrouplist(user, entry.pw_gid)}


def child_environment() -> dict[str, str]:
    """Our environment without the caller's settings for other servers (PGHOST, RABBITMQ_NODENAME, ERL_FLAGS …)."""
    foreign = re.compile(r"PG[A-Z]|RABBITMQ_|ERL_|NOTIFY_SOCKET$|LC_|LANG")
    return {**{name: value for name, value in os.environ.items() if not foreign.match(name)}, "LC_ALL": "C"}


def is_ours(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.geteuid()


class Instance:
    def __init__(self, directory: Path, environment: Mapping[str, str]):
        self.directory = directory
        self.remembered = self._remembered_ports()
        self.ports = self._choose_ports(environment)

    @classmethod
    def load(cls, environment: Mapping[str, str] = os.environ) -> Instance:
        """The instance that CHAT_SERVICES_DIR names."""
        name = environment.get("CHAT_SERVICES_DIR") or ROOT / "target/services"
        return cls(Path(os.path.realpath(name)), environment)

    # ---- files

    @property
    def hash(self) -> str:
        return hashlib.sha256(str(self.directory).encode()).hexdigest()[:10]

    @property
    def _elsewhere(self) -> Path:
        return ELSEWHERE / f"chat-services-{self.hash}"

    @property
    def state(self) -> Path:
        """Where the data is: the directory itself, or below /var/tmp where the servers cannot use that."""
        link = self.directory / "state"
        if link.is_symlink():
            return Path(os.readlink(link))
        # `cargo clean` removes the link; the data is still there.
        return self._elsewhere if is_ours(self._elsewhere) else self.directory

    def prepare(self, servers: tuple[str, ...]) -> None:
        """Makes the directory of the data. It moves to /var/tmp if one of the servers cannot use this one."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.state == self.directory and all(self._is_usable_by(server) for server in servers):
            return
        state = self.state if self.state != self.directory else self._elsewhere
        if not os.path.lexists(state):
            state.mkdir(mode=0o711)
            say(f"services: the data is in {state}, since the servers cannot use {self.directory}")
        # Everybody can write /var/tmp: do not use a directory that another user made there.
        if not is_ours(state):
            raise Problem(f"{state} belongs to another user; remove it")
        link = self.directory / "state"
        if not link.is_symlink():
            link.symlink_to(state)

    def _is_usable_by(self, server: str) -> bool:
        # The start scripts of RabbitMQ do not quote their paths.
        if len(str(self.directory)) > MAX_PATH or re.search(r"[^A-Za-z0-9_./+-]", str(self.directory)):
            return False
        test = ["test", "-x", str(self.directory)]
        return subprocess.run(test, cwd="/", timeout=10, **run_as(user_of(server))).returncode == 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One command at a time may start or delete servers of this instance."""
        path = self.directory / "lock"
        end = time.monotonic() + LOCK_SECONDS
        while True:
            self.directory.mkdir(parents=True, exist_ok=True)
            with open(path, "a+") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() >= end:
                        file.seek(0)
                        raise Problem(f"{path} is still locked after {LOCK_SECONDS} s by process {file.read() or '?'}") from None
                    time.sleep(0.1)
                    continue
                # `down --wipe` of another process may have deleted the file that we have just locked.
                if not path.exists() or os.stat(path).st_ino != os.fstat(file.fileno()).st_ino:
                    continue
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                yield
                return

    def wipe(self, servers: tuple[str, ...]) -> None:
        """Deletes the data and the logs, and nothing else: CHAT_SERVICES_DIR may name a directory with other files."""
        if self.state != self.directory:
            if os.path.lexists(self.state) and not is_ours(self.state):
                raise Problem(f"{self.state} belongs to another user; it is not deleted")
            shutil.rmtree(self.state, ignore_errors=True)
        for server in servers:
            shutil.rmtree(self.directory / server, ignore_errors=True)
        names = ["state", "ports", "install.log", "postgres.initdb.log", "compose.yaml", "rabbitmq.conf", "lock"]
        names += [f"{server}.log{suffix}" for server in servers for suffix in ("", ".old")]
        for name in names:
            (self.directory / name).unlink(missing_ok=True)
        try:
            self.directory.rmdir()
        except OSError:
            pass

    # ---- ports

    def _remembered_ports(self) -> dict[str, int]:
        try:
            lines = (self.directory / "ports").read_text().splitlines()
        except OSError:
            return {}
        words = (line.split() for line in lines)
        return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[0] in VARIABLES and pair[1].isdigit()}

    def _choose_ports(self, environment: Mapping[str, str]) -> dict[str, int]:
        """The environment's ports, else those that this instance used before, else the defaults."""
        ports: dict[str, int] = {}
        previous = 0
        for name, variable, default in PORTS:
            given = environment.get(variable) or ""
            if given:
                if not (given.isascii() and given.isdigit() and 0 < int(given) < 65536):
                    raise Problem(f"{variable}={given} is not a port number")
                port = int(given)
            else:
                port = self.remembered.get(name) or default or previous + 1
            ports[name] = previous = port
        return ports

    def save_ports(self) -> None:
        text = "".join(f"{name} {port}\n" for name, port in self.ports.items())
        new = self.directory / "ports.new"
        new.write_text(text)
        new.replace(self.directory / "ports")

    # ---- addresses

    def exports(self) -> str:
        """Shell commands that export the addresses."""
        ports = self.ports
        values = {
            "DATABASE_URL": f"postgres://chat:chat@127.0.0.1:{ports['postgres']}/chat",
            "AMQP_URL": f"amqp://guest:guest@127.0.0.1:{ports['rabbitmq']}/%2f",
            "REDIS_URL": f"redis://127.0.0.1:{ports['redis']}",
            "RABBITMQ_API_URL": f"http://guest:guest@127.0.0.1:{ports['management']}/api",
            "CHAT_SERVICES_DIR": str(self.directory),
        }
        return "".join(f"export {name}={quote(value)}\n" for name, value in values.items())


def quote(value: str) -> str:
    """A word of the shell, always in quotes."""
    return "'" + value.replace("'", "'\\''") + "'"
