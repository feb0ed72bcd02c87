"""The command line of scripts/services, its output, and ports that are remembered."""

import os
import shutil
import subprocess
import sys
import unittest
from unittest import mock

from support import SCRIPTS, Isolated, quiet

from services import cli, debian
from services.instance import Instance
from services.problem import Problem

SCRIPT = SCRIPTS / "services"


class CommandLine(Isolated):
    def services(self, *arguments, **environment):
        return subprocess.run([SCRIPT, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)

    def test_help_names_every_command(self):
        for arguments in ([], ["help"], ["-h"], ["--help"], ["up", "--help"], ["down", "--help"]):
            done = self.services(*arguments)
            self.assertEqual((done.returncode, done.stderr), (0, ""), arguments)
            for command in cli.COMMANDS:
                self.assertIn(f"\n  {command} ", done.stdout)

    def test_wrong_usage_is_refused_with_exit_code_2(self):
        wrong = [
            ["restart"],
            ["up", "mysql"],
            ["start"],
            ["start", "mysql"],
            ["stop"],
            ["kill", "redis", "mysql"],
            ["pause"],
            ["resume"],
            ["install"],
            ["down", "redis"],
            ["status", "redis"],
            ["env", "redis"],
        ]
        for arguments in wrong:
            done = self.services(*arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""), arguments)
            self.assertIn("see scripts/services --help", done.stderr)
        self.assertFalse(self.directory.exists())

    def test_a_wrong_port_names_its_variable(self):
        for port in ("0", "65536", "x", "-1", "1e3"):
            done = self.services("env", CHAT_REDIS_PORT=port)
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"CHAT_REDIS_PORT={port} is not a port number", done.stderr)

    def test_commands_on_an_instance_that_does_not_exist(self):
        done = self.services("status")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stdout, r"(?m)^postgres +down .*\nredis +down .*\nrabbitmq +down ")
        self.assertEqual(self.services("down").returncode, 0)
        self.assertEqual(self.services("stop", "redis").returncode, 0)
        done = self.services("pause", "redis")
        self.assertEqual((done.returncode, done.stderr), (1, "services: redis is not running\n"))
        done = self.services("rabbitmqctl", "status")
        self.assertEqual(done.returncode, 1)
        self.assertIn("scripts/services up", done.stderr)
        self.assertFalse(self.directory.exists())

    def test_python_is_installed_for_up_and_named_for_other_commands(self):
        # A PATH with the few programs that the start script needs, and an apt-get that installs only Python.
        tools = self.scratch / "bin"
        tools.mkdir()
        for program in ("bash", "dirname", "id", "env", "mktemp", "rm", "ln"):
            (tools / program).symlink_to(shutil.which(program))
        done = self.services("env", PATH=str(tools))
        self.assertEqual(done.returncode, 1)
        self.assertIn("apt-get install python3", done.stderr)

        for name, text in {"sudo": '[ "$1" = -n ] && shift && exec "$@"', "apt-get": f"ln -sf {sys.executable} {tools}/python3"}.items():
            (tools / name).write_text(f"#!/bin/sh\n{text}\n")
            (tools / name).chmod(0o755)
        (tools / "true").symlink_to(shutil.which("true"))
        done = self.services("up", "mysql", PATH=str(tools))
        self.assertEqual((done.returncode, done.stdout[:29]), (2, "services: installing python3 "))
        self.assertIn("unknown server: mysql", done.stderr)


class Addresses(Isolated):
    def test_a_shell_can_evaluate_env(self):
        directory = self.scratch / "it's a $HOME"
        command = (
            f'eval "$({SCRIPT} env)"; printf "%s\\n" "$DATABASE_URL" "$AMQP_URL" "$REDIS_URL" "$RABBITMQ_API_URL" "$CHAT_SERVICES_DIR"'
        )
        environment = {**os.environ, "CHAT_SERVICES_DIR": str(directory), "CHAT_AMQP_PORT": "25673"}
        said = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60).stdout
        self.assertEqual(
            said.splitlines(),
            [
                "postgres://chat:chat@127.0.0.1:15432/chat",
                "amqp://guest:guest@127.0.0.1:25673/%2f",
                "redis://127.0.0.1:16379",
                "http://guest:guest@127.0.0.1:25674/api",
                os.path.realpath(directory),
            ],
        )


class Ports(Isolated):
    def test_defaults(self):
        self.assertEqual(self.instance().ports, {"postgres": 15432, "redis": 16379, "rabbitmq": 15673, "management": 15674})

    def test_the_environment_wins_over_the_memory_and_the_memory_over_the_defaults(self):
        self.directory.mkdir()
        self.instance(CHAT_PG_PORT="25432", CHAT_AMQP_PORT="25673").save_ports()
        ports = self.instance(CHAT_REDIS_PORT="26379", CHAT_PG_PORT="").ports
        self.assertEqual(ports, {"postgres": 25432, "redis": 26379, "rabbitmq": 25673, "management": 25674})

    def test_a_damaged_memory_is_ignored(self):
        self.directory.mkdir()
        (self.directory / "ports").write_text("postgres\nredis 16380\nmysql 3306\nrabbitmq x\n\n")
        self.assertEqual(self.instance().ports, {"postgres": 15432, "redis": 16380, "rabbitmq": 15673, "management": 15674})

    def test_the_ports_of_a_running_server_are_not_changed(self):
        self.directory.mkdir()
        self.instance().save_ports()
        moved = self.instance(CHAT_REDIS_PORT="26379")
        cli.refuse_moved_ports(moved)
        with mock.patch.object(cli.SERVERS["redis"], "process", return_value=object()):
            with self.assertRaisesRegex(Problem, "redis of .* runs on port 16379"):
                cli.refuse_moved_ports(moved)
            cli.refuse_moved_ports(self.instance(CHAT_PG_PORT="25432"))


class Files(Isolated):
    def test_the_data_moves_where_the_servers_can_use_it(self):
        for directory in (self.scratch / "with space", self.scratch / ("long" * 30)):
            with mock.patch("services.instance.ELSEWHERE", self.scratch):
                instance = Instance.load({"CHAT_SERVICES_DIR": str(directory)})
                self.assertIn("the data is in", quiet(instance.prepare, ("redis",)))
                self.assertEqual(instance.state.parent, self.scratch)
                # Neither `cargo clean` nor a second `up` loses it.
                (directory / "state").unlink()
                state = Instance.load({"CHAT_SERVICES_DIR": str(directory)}).state
                self.assertEqual(state, instance.state)
                instance.prepare(("redis",))
                self.assertEqual((directory / "state").resolve(), instance.state.resolve())

    def test_a_directory_of_another_user_is_not_used(self):
        instance = Instance.load({"CHAT_SERVICES_DIR": str(self.scratch / "with space")})
        with mock.patch("services.instance.ELSEWHERE", self.scratch):
            (self.scratch / f"chat-services-{instance.hash}").symlink_to("/tmp")
            with self.assertRaisesRegex(Problem, "belongs to another user"):
                instance.prepare(("redis",))

    def test_wiping_deletes_only_what_was_made_here(self):
        instance = self.instance()
        self.directory.mkdir()
        instance.save_ports()
        (self.directory / "redis").mkdir()
        (self.directory / "redis.log").touch()
        (self.directory / "notes.txt").touch()
        instance.wipe(cli.ALL)
        self.assertEqual(os.listdir(self.directory), ["notes.txt"])
        (self.directory / "notes.txt").unlink()
        instance.wipe(cli.ALL)
        self.assertFalse(self.directory.exists())

    def test_the_lock_is_exclusive_and_its_wait_ends(self):
        instance = self.instance()
        with instance.locked(), mock.patch("services.instance.LOCK_SECONDS", 0.2):
            with self.assertRaisesRegex(Problem, f"still locked after 0.2 s by process {os.getpid()}"):
                with self.instance().locked():
                    self.fail("two commands at once")
        with self.instance().locked():
            pass


class Installation(Isolated):
    def test_services_are_forbidden_while_packages_are_installed(self):
        policy = self.scratch / "policy-rc.d"
        with mock.patch.object(debian, "POLICY", policy), mock.patch.object(debian, "as_root", return_value=[]):
            with self.assertRaises(SystemExit), debian.services_forbidden():
                self.assertEqual(subprocess.run([policy]).returncode, 101)
                os.kill(os.getpid(), 15)
            self.assertFalse(policy.exists())
            # Left by a run that was killed.
            policy.write_text(debian.POLICY_TEXT)
            with debian.services_forbidden():
                self.assertTrue(policy.exists())
            self.assertFalse(policy.exists())
            policy.write_text("#!/bin/sh\nexit 0\n")
            with debian.services_forbidden():
                self.assertEqual(policy.read_text(), "#!/bin/sh\nexit 0\n")
            self.assertTrue(policy.exists())

    def test_what_is_missing_is_named_where_it_cannot_be_installed(self):
        for patch in (
            mock.patch.object(cli.SERVERS["redis"], "find", return_value=None),
            mock.patch.object(cli.SERVERS["postgres"], "find", return_value=None),
            mock.patch.object(debian, "can_install", return_value=False),
            mock.patch.object(cli, "is_available", return_value=False),
        ):
            patch.start()
            self.addCleanup(patch.stop)
        with self.assertRaises(Problem) as caught:
            cli.up("up", ["postgres", "redis"])
        self.assertIn("not installed: Postgres 14, Redis 7 or newer", str(caught.exception))
        self.assertIn("apt-get install --no-install-recommends postgresql redis-server\n", str(caught.exception))


if __name__ == "__main__":
    unittest.main()
