"""Processes: recognized by their command line and start time, never by a pid from a file."""

import contextlib
import dataclasses
import io
import os
import pwd
import signal
import socket
import subprocess
import sys
import textwrap
import time
import unittest
import warnings
from unittest import mock

from support import Isolated, quiet

from services import cli, processes
from services.postgres import Postgres
from services.problem import Problem
from services.redis import Redis
from services.server import Programs

# Listens after a moment and answers as Redis does. Its arguments are ignored, as its name comes from the caller.
FAKE = textwrap.dedent(
    """
    import signal, socket, sys, time
    if "ignore" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "fail" in sys.argv: sys.exit("no such directive: fail")
    time.sleep(float(sys.argv[2]))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(sys.argv[1])))
    listener.listen()
    while True:
        connection = listener.accept()[0]
        if connection.recv(64): connection.sendall(b"+PONG\\r\\n")
        connection.close()
    """
)


class FakeRedis(Redis):
    """Redis in name: a Python program that answers PING."""

    options = ("0.2",)

    def find(self):
        return Programs(self.instance.directory, (7,))

    def configure(self, programs):
        program = programs.directory / "redis-server"
        program.write_text(FAKE)
        return [sys.executable, str(program), str(self.port), *self.options, self.marker()]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Fake(Isolated):
    def setUp(self):
        super().setUp()
        # A server outlives the program that started it.
        warnings.filterwarnings("ignore", "subprocess .* is still running", ResourceWarning)
        self.settings["CHAT_REDIS_PORT"] = str(free_port())
        self.directory.mkdir()
        # The fake belongs to us, not to the user `redis`.
        for patch in (
            mock.patch("services.server.user_of", return_value=current_user()),
            mock.patch("services.instance.user_of", return_value=current_user()),
        ):
            patch.start()
            self.addCleanup(patch.stop)
        self.server = FakeRedis(self.instance())
        self.addCleanup(self.end)

    def end(self):
        process = self.server.process()
        if process:
            processes.send_tree(process, signal.SIGKILL)

    def up(self, **options):
        """`up` of the fake alone; returns what it printed."""
        for name, value in options.items():
            setattr(self.server, name, value)
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            try:
                cli.bring_up([self.server])
            except Problem as problem:
                return f"{out.getvalue()}{error.getvalue()}{problem}"
        return out.getvalue()


def current_user():
    return pwd.getpwuid(os.geteuid()).pw_name


class Lifecycle(Fake):
    def test_start_pause_resume_stop(self):
        self.assertEqual(self.server.state(), "down")
        self.assertRegex(self.up(), "redis: starting on .*\nredis: ready after 0 s")
        self.assertEqual(self.server.state(), "up")
        self.assertIn("already up", self.up())
        quiet(self.server.pause)
        self.assertEqual(self.server.state(), "paused")
        self.assertRegex(self.up(), "redis: resuming\nredis: ready")
        quiet(self.server.pause)
        # A frozen server can be stopped.
        self.assertEqual(quiet(cli.stop_all, self.server.instance, ()), "")
        self.assertIn("redis: stopped", quiet(self.server.finish_stop, self.server.begin_stop()))
        self.assertEqual(self.server.state(), "down")

    def test_an_interrupted_up_is_resumed(self):
        quiet(self.server.begin)
        pid = self.server.process().pid
        self.assertEqual(self.server.state(), "starting")
        # The next `up` knows nothing of the first one.
        self.server = FakeRedis(self.instance())
        self.assertRegex(self.up(), "redis: already starting\nredis: ready")
        self.assertEqual(self.server.process().pid, pid)

    def test_a_server_whose_files_were_deleted_is_started_anew(self):
        self.up()
        first = self.server.process().pid
        self.server.base.rmdir()
        self.assertIn("its files were deleted", self.up())
        self.assertNotEqual(self.server.process().pid, first)

    def test_a_server_that_ends_while_starting_shows_its_log(self):
        said = self.up(options=("0", "fail"))
        self.assertIn("redis: it ended while starting\n--- the end of", said)
        self.assertIn("no such directive: fail", said)
        self.assertIn("not up: redis", said)

    def test_a_server_that_is_never_ready_is_given_up(self):
        self.assertIn("redis: not ready after 0 s", self.up(options=("600",), ready_seconds=0.3))

    def test_a_taken_port_is_named_with_its_variable(self):
        with socket.create_server(("127.0.0.1", self.server.port)), mock.patch("services.server.PORT_SECONDS", 0.1):
            self.assertIn(f"port {self.server.port} is taken by another program; choose another one with CHAT_REDIS_PORT", self.up())

    def test_a_server_that_does_not_stop_is_killed(self):
        self.up(options=("0", "ignore"))
        with mock.patch("services.server.STOP_SECONDS", 0.3):
            said = quiet(self.server.finish_stop, self.server.begin_stop())
        self.assertRegex(said, "redis: did not stop within 0.3 s\nredis: killed")
        self.assertEqual(self.server.state(), "down")


class Reuse(Fake):
    """A pid that now belongs to another program."""

    def bystander(self, *command):
        child = subprocess.Popen(command or ["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        return child

    def test_a_process_of_another_start_time_gets_no_signal(self):
        child = self.bystander()
        process = processes.read(child.pid)
        before = dataclasses.replace(process, started=process.started - 1)
        self.assertTrue(processes.is_alive(process))
        self.assertFalse(processes.is_alive(before))
        processes.send(before, signal.SIGKILL)
        self.assertEqual(processes.send_tree(before, signal.SIGKILL), [])
        self.assertEqual(processes.wait_gone([before], 5), [])
        time.sleep(0.1)
        self.assertIsNone(child.poll())

    def test_a_stale_pid_file_is_not_killed_but_removed(self):
        child = self.bystander()
        server = Postgres(self.instance())
        server.data.mkdir(parents=True)
        lock = server.data / "postmaster.pid"
        lock.write_text(f"{child.pid}\n{server.data}\n")
        self.assertIn("not running", quiet(server.kill))
        self.assertIn("not running", quiet(cli.stop_all, server.instance, ("postgres",)))
        self.assertIsNone(child.poll())
        server._remove_if_stale(lock)
        self.assertFalse(lock.exists())

    def test_another_program_that_names_our_files_is_not_our_server(self):
        child = self.bystander("tail", "-f", "/dev/null", self.server.marker())
        self.assertEqual(self.server.state(), "down")
        self.assertIsNone(child.poll())

    def test_a_zombie_is_gone(self):
        child = subprocess.Popen(["true"])
        self.addCleanup(child.wait)
        process = processes.Process(child.pid, 0, os.getpid(), "R", ("true",))
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        self.assertIsNone(processes.read(process.pid))

    def test_the_tree_of_a_process(self):
        child = self.bystander("bash", "-c", "sleep 600 & sleep 600 & wait")
        root = processes.read(child.pid)
        end = time.monotonic() + 10
        while len(processes.tree(root)) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        found = processes.tree(root)
        self.assertEqual((len(found), found[0].pid), (3, child.pid))
        processes.send_tree(root, signal.SIGKILL)
        self.assertEqual(processes.wait_gone(found, 10), [])


if __name__ == "__main__":
    unittest.main()
