"""The same commands with Docker Compose, for systems on which the servers cannot be installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from services.instance import Instance
from services.problem import Problem, say

READY_SECONDS = 180
COMMAND_SECONDS = 1800  # the first `up` downloads the images

FILE = """\
services:
  postgres:
    image: postgres:16
    command: postgres -c max_connections=300 -c shared_buffers=1GB -c max_wal_size=4GB -c checkpoint_timeout=15min
    environment: {{ POSTGRES_USER: chat, POSTGRES_DB: chat, POSTGRES_HOST_AUTH_METHOD: trust }}
    ports: ["127.0.0.1:{postgres}:5432"]
    volumes: ["postgres:/var/lib/postgresql/data"]
    shm_size: 256mb
    healthcheck:
      test: ["CMD", "pg_isready", "-q", "-h", "127.0.0.1", "-U", "chat"]
      interval: 1s
      timeout: 3s
      retries: 90
  redis:
    image: redis:7
    command: ["redis-server", "--save", "", "--appendonly", "no", "--maxclients", "10000"]
    ports: ["127.0.0.1:{redis}:6379"]
    healthcheck:
      test: ["CMD", "redis-cli", "ping"]
      interval: 1s
      timeout: 3s
      retries: 90
  rabbitmq:
    image: rabbitmq:3.13-management
    hostname: chat{rabbitmq}
    ports: ["127.0.0.1:{rabbitmq}:5672", "127.0.0.1:{management}:15672"]
    volumes:
      - "rabbitmq:/var/lib/rabbitmq"
      - "./rabbitmq.conf:/etc/rabbitmq/conf.d/90-chat.conf:ro"
    healthcheck:
      test: ["CMD", "rabbitmq-diagnostics", "-q", "check_port_connectivity"]
      interval: 3s
      timeout: 20s
      retries: 30
volumes:
  postgres:
  rabbitmq:
"""
RABBITMQ_SETTINGS = "disk_free_limit.absolute = 50MB\nlog.console.level = warning\n"


def is_available() -> bool:
    """Whether an engine runs and Compose is installed."""
    if shutil.which("docker") is None:
        return False
    try:
        asked = (subprocess.run(["docker", *words], capture_output=True, timeout=60) for words in (["info"], ["compose", "version"]))
        return all(done.returncode == 0 for done in asked)
    except (OSError, subprocess.TimeoutExpired):
        return False


class Compose:
    def __init__(self, instance: Instance):
        self.instance = instance

    @property
    def file(self) -> Path:
        return self.instance.directory / "compose.yaml"

    def runs_this_instance(self) -> bool:
        """Once Docker runs an instance, every command goes there, until `down --wipe`."""
        return self.file.exists()

    def write(self) -> None:
        self.file.write_text(FILE.format(**self.instance.ports))
        (self.instance.directory / "rabbitmq.conf").write_text(RABBITMQ_SETTINGS)

    def run(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        command = ["docker", "compose", "-p", f"chat-services-{self.instance.hash}", "-f", str(self.file), *arguments]
        try:
            return subprocess.run(command, text=True, timeout=COMMAND_SECONDS, **options)
        except subprocess.TimeoutExpired:
            raise Problem(f"{' '.join(command)} takes longer than {COMMAND_SECONDS} s") from None

    def must(self, *arguments: str) -> None:
        if self.run(*arguments).returncode != 0:
            raise Problem(f"docker compose {arguments[0]} failed")

    def up(self, servers: tuple[str, ...]) -> None:
        if self.run("up", "-d", "--wait", "--wait-timeout", str(READY_SECONDS), *servers).returncode != 0:
            self.run("logs", "--tail", "25", *servers)
            raise Problem("Docker Compose could not start the servers")

    def down(self, wipe: bool) -> None:
        self.must("down", *(["--volumes"] if wipe else []))

    def control(self, command: str, servers: tuple[str, ...]) -> None:
        words = {"stop": ["stop"], "kill": ["kill", "-s", "KILL"], "pause": ["pause"], "resume": ["unpause"]}
        self.must(*words[command], *servers)

    def status(self, servers: tuple[str, ...]) -> bool:
        say(f"{'SERVER':<10} {'STATE':<9} PORT")
        states = []
        for server in servers:
            said = self.run("ps", "--all", "--format", "{{.State}}", server, capture_output=True).stdout.strip()
            states.append({"running": "up", "": "down", "exited": "down", "created": "down"}.get(said, said))
            say(f"{server:<10} {states[-1]:<9} 127.0.0.1:{self.instance.ports[server]} (Docker)")
        return all(state == "up" for state in states)

    def rabbitmqctl(self, arguments: list[str]) -> int:
        return self.run("exec", "-T", "rabbitmq", "rabbitmqctl", *arguments).returncode
