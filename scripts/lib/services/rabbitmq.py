"""RabbitMQ: a node of its own, with the management API and an Erlang name server (epmd) of its own."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import subprocess
from pathlib import Path

from services.instance import child_environment, run_as
from services.problem import Problem
from services.server import Programs, Server, is_open, on_path

SETTINGS = """\
listeners.tcp.local = 127.0.0.1:{port}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
disk_free_limit.absolute = 50MB
log.file.level = warning
"""


class RabbitMQ(Server):
    name = "rabbitmq"
    package = "rabbitmq-server"
    minimum = (3, 10)
    programs = ("beam.smp", "erl", "erlexec", "rabbitmq-server")

    @property
    def management(self) -> int:
        return self.instance.ports["management"]

    @property
    def epmd(self) -> int:
        return self.management + 2

    @property
    def node(self) -> str:
        return f"chat{self.port}@localhost"

    def ports(self) -> list[tuple[int, str]]:
        # The distribution port follows the management port. An epmd that is there already is used.
        return super().ports() + [(port, "CHAT_RABBIT_MGMT_PORT") for port in (self.management, self.management + 1)]

    def logs(self) -> list[Path]:
        return [self.log, self.base / "log" / f"{self.node}.log"]

    def marker(self) -> str:
        return f"-chat_services {self.base}"

    def find(self) -> Programs | None:
        """Debian's /usr/sbin/rabbitmq-server is a wrapper that changes directory and user: it is not used."""
        for directory in (Path("/usr/lib/rabbitmq/bin"), *on_path("rabbitmq-server")):
            if all((directory / name).exists() for name in ("rabbitmq-server", "rabbitmqctl")) and shutil.which("erl"):
                # Erlang would take a second to tell the version.
                return Programs(directory, ())
        return None

    def environment(self) -> dict[str, str]:
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            **child_environment(),
            "HOME": str(self.base),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_CONF_ENV_FILE": str(self.base / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(self.base / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.base / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.base / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.base / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.base / "log"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(self.base / "mnesia" / f"{self.node}-feature_flags"),
            "RABBITMQ_DIST_PORT": str(self.management + 1),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": loopback,
            "RABBITMQ_CTL_ERL_ARGS": loopback,
            "ERL_EPMD_PORT": str(self.epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # Makes the start script become the server instead of supervising it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def configure(self, programs: Programs) -> list[str]:
        self.own(self.base / "mnesia")
        self.own(self.base / "log")
        self.write(self.base / "rabbitmq.conf", SETTINGS.format(port=self.port, management=self.management))
        self.write(self.base / "enabled_plugins", "[rabbitmq_management].\n")
        self.write(self.base / "rabbitmq-env.conf", "")
        # The start script passes its arguments on to Erlang, which ignores this one.
        return [programs["rabbitmq-server"], *self.marker().split()]

    def is_ready(self) -> bool:
        return is_open(self.port) and self.running_version() is not None

    def version(self, state: str) -> str:
        return (self.running_version() if state == "up" else None) or "-"

    def running_version(self) -> str | None:
        """The version as the management API tells it; None if it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.management, timeout=5)
        credentials = base64.b64encode(b"guest:guest").decode()
        try:
            connection.request("GET", "/api/overview", headers={"Authorization": f"Basic {credentials}"})
            return json.load(connection.getresponse()).get("rabbitmq_version")
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()

    def after_stop(self) -> None:
        """epmd stays when the node has ended. It refuses to end while another node is registered with it."""
        program = shutil.which("epmd")
        if program and is_open(self.epmd):
            environment = {**child_environment(), "ERL_EPMD_PORT": str(self.epmd)}
            subprocess.run([program, "-kill"], env=environment, capture_output=True, timeout=30)

    def run_ctl(self, arguments: list[str]) -> int:
        programs = self.find()
        if programs is None or not self.base.is_dir():
            raise Problem("there is no broker yet: run `scripts/services up`")
        command = [programs["rabbitmqctl"], *arguments]
        return subprocess.run(command, cwd=self.base, env=self.environment(), **run_as(self.user)).returncode
