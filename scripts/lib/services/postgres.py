"""PostgreSQL: a cluster of its own, with the role and the database `chat`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from services import processes
from services.instance import child_environment, run_as
from services.problem import Problem, log_end
from services.server import Programs, Server, on_path, version_of

INITDB_SECONDS = 120

# fsync, full_page_writes and synchronous_commit stay on: tests kill this server and count what it kept.
SETTINGS = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{base}'
max_connections = 300
shared_buffers = 1GB
max_wal_size = 4GB
checkpoint_timeout = 15min
log_line_prefix = '%m [%p] %q%u@%d '
"""

# The superuser only through the socket, whose directory no other user can enter.
ACCESS = """\
local all all trust
host  all chat 127.0.0.1/32 trust
"""

FIRST_STATEMENTS = """\
CREATE ROLE chat LOGIN CREATEDB
CREATE DATABASE chat OWNER chat
"""


class Postgres(Server):
    name = "postgres"
    package = "postgresql"
    minimum = (14,)
    programs = ("postgres", "postmaster")
    # SIGTERM would wait for the clients; SIGINT is PostgreSQL's fast shutdown.
    stop_signal = signal.SIGINT

    @property
    def data(self) -> Path:
        return self.base / "data"

    def marker(self) -> str:
        return f"-D {self.data}"

    def find(self) -> Programs | None:
        """The version that the data was made with, else the newest."""
        try:
            made_with = int((self.data / "PG_VERSION").read_text())
        except (OSError, ValueError):
            made_with = None
        installed = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin"), *on_path("postgres")]
        found = [
            Programs(directory, version_of(directory / "postgres"))
            for directory in installed
            if all((directory / program).exists() for program in ("postgres", "initdb", "pg_isready"))
        ]
        fitting = [one for one in found if one.version >= self.minimum and made_with in (None, one.version[0])]
        return max(fitting, key=lambda one: one.version, default=None)

    def is_ready(self) -> bool:
        programs = self.found()
        if programs is None:
            return False
        ask = [programs["pg_isready"], "-q", "-t", "2", "-h", "127.0.0.1", "-p", str(self.port)]
        try:
            return subprocess.run(ask, env=child_environment(), capture_output=True, timeout=10).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def configure(self, programs: Programs) -> list[str]:
        if self.user == "root":
            raise Problem("postgres: it refuses to run as root, and there is no user `postgres`")
        if not (self.data / "PG_VERSION").exists():
            self._make_cluster(programs)
        self.write(self.data / "chat.conf", SETTINGS.format(port=self.port, base=self.base))
        self.write(self.data / "pg_hba.conf", ACCESS)
        for lock in (self.data / "postmaster.pid", self.base / f".s.PGSQL.{self.port}.lock"):
            self._remove_if_stale(lock)
        return [programs["postgres"], "-D", str(self.data)]

    def _make_cluster(self, programs: Programs) -> None:
        """Made beside its place and then moved, so that an interrupted run leaves no unfinished cluster there."""
        for unfinished in self.base.glob("data.new*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        # A name of its own: the initdb of a killed run may still be writing.
        new = self.data.with_name(f"data.new.{os.getpid()}")
        log = self.instance.directory / "postgres.initdb.log"
        log.write_bytes(b"")
        initdb = [programs["initdb"], "-D", str(new), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        self._run(initdb, "", log)
        with open(new / "postgresql.conf", "a") as settings:
            settings.write("include_if_exists 'chat.conf'\n")
        # Without listening: nothing can connect before the cluster is complete.
        self._run([programs["postgres"], "--single", "-D", str(new), "-c", "exit_on_error=true", "postgres"], FIRST_STATEMENTS, log)
        new.rename(self.data)

    def _run(self, command: list[str], text: str, log: Path) -> None:
        with open(log, "ab") as out:
            try:
                done = subprocess.run(
                    command,
                    input=text.encode(),
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    cwd=self.base,
                    env=child_environment(),
                    timeout=INITDB_SECONDS,
                    **run_as(self.user),
                )
            except subprocess.TimeoutExpired:
                raise Problem(f"postgres: {command[0]} takes longer than {INITDB_SECONDS} s\n{log_end(log)}") from None
        if done.returncode != 0:
            raise Problem(f"postgres: {command[0]} failed\n{log_end(log)}")

    def _remove_if_stale(self, lock: Path) -> None:
        """PostgreSQL does not start if the pid in its lock file belongs to any process of the same user, or to a zombie."""
        try:
            holder = processes.read(int(lock.read_text().split("\n", 1)[0]))
        except (OSError, ValueError):
            holder = None
        if holder is None or not set(self.programs) & set(holder.programs):
            lock.unlink(missing_ok=True)
