"""Redis (or Valkey), without persistence."""

from __future__ import annotations

import socket
from pathlib import Path

from services.server import Programs, Server, on_path, version_of

# The process title must name the file: that is how a running server is recognized.
SETTINGS = """\
bind 127.0.0.1
port {port}
dir {base}
daemonize no
save ""
appendonly no
protected-mode yes
maxclients 10000
proc-title-template "redis-server {{listen-addr}} {{config-file}}"
"""


class Redis(Server):
    name = "redis"
    package = "redis-server"
    minimum = (7,)
    programs = ("redis-server", "valkey-server")

    @property
    def settings(self) -> Path:
        return self.base / "redis.conf"

    def marker(self) -> str:
        return str(self.settings)

    def find(self) -> Programs | None:
        for program in self.programs:
            for directory in on_path(program):
                version = version_of(directory / program)
                if version >= self.minimum:
                    return Programs(directory, version)
        return None

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def configure(self, programs: Programs) -> list[str]:
        self.write(self.settings, SETTINGS.format(port=self.port, base=self.base))
        program = next(name for name in self.programs if (programs.directory / name).exists())
        return [programs[program], str(self.settings)]
