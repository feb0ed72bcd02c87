"""Docker Compose, with a program in place of `docker` that writes down how it was called."""

import os
import unittest
from unittest import mock

from support import Isolated

from services import cli, debian
from services.instance import Instance
from services.compose import FILE

DOCKER = """#!/bin/sh
printf '%s\\n' "$*" >>"$DOCKER_CALLS"
case "$*" in *' ps '*redis) printf 'exited\\n' ;; *' ps '*) printf 'running\\n' ;; esac
"""


class Compose(Isolated):
    def setUp(self):
        super().setUp()
        docker = self.scratch / "docker"
        docker.write_text(DOCKER)
        docker.chmod(0o755)
        self.calls = self.scratch / "calls"
        os.environ["PATH"] = f"{self.scratch}:{os.environ['PATH']}"
        os.environ["DOCKER_CALLS"] = str(self.calls)
        os.environ["CHAT_REDIS_PORT"] = "26379"
        missing = [mock.patch.object(server, "find", return_value=None) for server in cli.SERVERS.values()]
        for patch in [*missing, mock.patch.object(debian, "can_install", return_value=False), mock.patch("builtins.print")]:
            patch.start()
            self.addCleanup(patch.stop)

    def test_every_command_goes_to_docker_until_the_instance_is_wiped(self):
        project = f"compose -p chat-services-{Instance.load().hash} -f {os.path.realpath(self.directory)}/compose.yaml"
        expected = {
            ("up",): (0, "up -d --wait --wait-timeout 180 postgres redis rabbitmq"),
            ("start", "redis"): (0, "up -d --wait --wait-timeout 180 redis"),
            ("kill", "rabbitmq"): (0, "kill -s KILL rabbitmq"),
            ("stop", "redis", "postgres"): (0, "stop redis postgres"),
            ("pause", "redis"): (0, "pause redis"),
            ("resume", "redis"): (0, "unpause redis"),
            ("status",): (1, "ps --all --format {{.State}} rabbitmq"),
            ("rabbitmqctl", "-q", "status"): (0, "exec -T rabbitmq rabbitmqctl -q status"),
            ("down",): (0, "down"),
            ("down", "--wipe"): (0, "down --volumes"),
        }
        for arguments, (code, call) in expected.items():
            self.assertEqual(cli.main(arguments), code, arguments)
            self.assertEqual(self.calls.read_text().splitlines()[-1], f"{project} {call}")
        self.assertFalse(self.directory.exists())

    def test_the_file_has_the_ports_of_the_instance(self):
        cli.main(["up"])
        text = (self.directory / "compose.yaml").read_text()
        for port in ("127.0.0.1:15432:5432", "127.0.0.1:26379:6379", "127.0.0.1:15673:5672", "127.0.0.1:15674:15672"):
            self.assertIn(f'"{port}"', text)
        self.assertNotIn("{{", text)
        self.assertIn("{{", FILE)
        # Without the variable: the port is remembered.
        del os.environ["CHAT_REDIS_PORT"]
        self.assertEqual(Instance.load().ports["redis"], 26379)


if __name__ == "__main__":
    unittest.main()
