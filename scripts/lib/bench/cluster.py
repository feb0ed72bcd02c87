"""The processes that are measured, each with a database, queues and a port of its own."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from services.cli import SERVERS
from services.instance import Instance

ROOT = Path(__file__).resolve().parents[3]
CHAT = ROOT / "target/release/chat"
OUT = ROOT / "target/bench"
# The name in `chat bench` of the servers without chat's logic, which show what the libraries and the machine can do.
BASELINE = "baseline"
ADDRESSES: dict[str, str] = {}  # as `scripts/services env` prints them


class Failed(Exception):
    """A measurement or a command that it needs has failed."""


class Options:
    quick = False
    verbose = False
    # The program that serves; the load generator is always CHAT.
    program = CHAT


options = Options()


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(*command, env=None, stdin="", timeout=1800):
    """Runs a command and returns what it printed."""
    command = [str(word) for word in command]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **(env or {})},
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=None if options.verbose else subprocess.PIPE,
            text=True,
            timeout=timeout,
            cwd=ROOT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{' '.join(command)}: {error}") from None
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr or ''}{done.stdout[-2000:]}")
    return done.stdout


# ---- the private servers


def servers_up():
    run(ROOT / "scripts/services", "up")
    for line in run(ROOT / "scripts/services", "env").splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        ADDRESSES[name] = value.strip("'")


def server_pids():
    """The private servers' processes; none if Docker runs them."""
    instance = Instance.load()
    found = {name: server(instance).process() for name, server in SERVERS.items()}
    return {name: process.pid for name, process in found.items() if process}


def database_url(name):
    return ADDRESSES["DATABASE_URL"].rsplit("/", 1)[0] + "/" + name


def sql(text, database="postgres"):
    return run("psql", "-qtA", "-v", "ON_ERROR_STOP=1", "-c", text, database_url(database))


def drop_database(name):
    """While autovacuum works in a database, only a superuser can drop it: try again for a minute."""
    for _ in range(60):
        try:
            return sql(f"DROP DATABASE {name} WITH (FORCE)")
        except Failed as refused:
            last = refused
            time.sleep(1)
    say(f"    not dropped: {last}")


def rabbitmq(method, path):
    """A request to RabbitMQ's management API."""
    scheme, user, place = re.match(r"(\w+://)(.*)@(.*)", ADDRESSES["RABBITMQ_API_URL"]).groups()
    token = base64.b64encode(user.encode()).decode()
    request = urllib.request.Request(f"{scheme}{place}/{path}", method=method, headers={"Authorization": f"Basic {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def redis(*arguments):
    return run("redis-cli", "-u", ADDRESSES["REDIS_URL"], *arguments)


# ---- chat's processes


OPEN_LIMITS = {
    "CHAT__LIMITS__MESSAGES_PER_SECOND": "1000000000",
    "CHAT__LIMITS__BURST": "1000000000",
    "CHAT__LIMITS__REGISTRATIONS_PER_MINUTE": "1000000000",
    "CHAT__EDGE__MAX_CONNECTIONS": "16000",
    "CHAT__AUTH__SECRET": "a secret that only this benchmark knows, and its users",
    "RUST_LOG": "warn",
}


# Settings that earlier versions do not have; they refuse to start with unknown ones.
NEW_LIMITS = {"CHAT__EDGE__MAX_SOCKETS_PER_USER": "100000"}


def open_limits():
    return {**OPEN_LIMITS, **(NEW_LIMITS if options.program == CHAT else {})}


class Node:
    """A chat process that is ready."""

    def __init__(self, role, *arguments, env=None):
        OUT.mkdir(parents=True, exist_ok=True)
        self.role = role
        self.log = open(OUT / f"{role}.log", "a")
        self.process = subprocess.Popen(
            [str(options.program), role, *map(str, arguments)],
            env={**os.environ, **open_limits(), **(env or {})},
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        line = self.process.stdout.readline()
        if "ready" not in line:
            raise Failed(f"chat {role} did not start: {line} see {self.log.name}")
        self.url = next(iter(re.findall(r"http://\S+", line)), None)
        self.pid = self.process.pid

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.process.kill()
        self.process.wait()
        self.log.close()


class Cluster:
    """Edges and workers with a database and queues of their own."""

    count = 0

    def __init__(self, edges=1, workers=1, **settings):
        Cluster.count += 1
        self.name = f"bench{os.getpid()}_{Cluster.count}"
        sql(f"CREATE DATABASE {self.name}")
        self.env = {
            "DATABASE_URL": database_url(self.name),
            "AMQP_URL": ADDRESSES["AMQP_URL"],
            "REDIS_URL": ADDRESSES["REDIS_URL"],
            "CHAT__QUEUE__PREFIX": self.name,
            "CHAT__EDGE__DRAIN": "0s",
            **settings,
        }
        run(options.program, "migrate", env=self.env)
        self.edges = [Node("edge", "--port", 0, env=self.env) for _ in range(edges)]
        self.workers = [self.worker() for _ in range(workers)]

    def worker(self):
        return Node("worker", env=self.env)

    @property
    def url(self):
        return ",".join(edge.url for edge in self.edges)

    @property
    def pids(self):
        own = [f"edge{i or ''}={edge.pid}" for i, edge in enumerate(self.edges)]
        own += [f"worker{i or ''}={worker.pid}" for i, worker in enumerate(self.workers)]
        return ",".join(own + [f"{name}={pid}" for name, pid in server_pids().items()])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for node in self.edges + self.workers:
            node.stop()
        for queue in json.loads(rabbitmq("GET", "queues?columns=name")):
            if queue["name"].startswith(f"{self.name}."):
                rabbitmq("DELETE", f"queues/%2F/{queue['name']}")
        keys = redis("--scan", "--pattern", f"{self.name}:*").split()
        for some in range(0, len(keys), 1000):
            redis("unlink", *keys[some : some + 1000])
        drop_database(self.name)


class Standalone:
    """One process with a data directory of its own."""

    def __init__(self, **settings):
        self.data = OUT / "standalone"
        shutil.rmtree(self.data, ignore_errors=True)
        self.node = Node("standalone", "--port", 0, "--data", self.data, env={"CHAT__EDGE__DRAIN": "0s", **settings})
        self.url = self.node.url
        self.pids = f"standalone={self.node.pid}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.node.stop()
        shutil.rmtree(self.data, ignore_errors=True)


@contextlib.contextmanager
def baseline(*arguments):
    """The server without chat's logic, once it listens: its pid, its HTTP address and that of its sockets."""
    port = 3900 + os.getpid() % 500 * 2
    command = [str(CHAT), "bench", BASELINE, "serve", "--port", str(port), *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_listening(process, port)
        yield process.pid, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
    finally:
        process.kill()
        process.wait()


def wait_listening(process, port):
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise Failed(f"chat bench {BASELINE} serve does not listen on port {port}")


# ---- the load generator


def bench(*arguments, env=None):
    """Runs `chat bench` and returns its JSON. Exit code 1 (messages were lost, doubled or reordered) is a result, too."""
    command = [CHAT, "bench", *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=1800, cwd=ROOT)
    if not done.stdout:
        raise Failed(f"{' '.join(map(str, command))}: {done.stderr}")
    return json.loads(done.stdout)


class Paused:
    """A `chat bench` whose users have joined. It sends after `send()`."""

    def __init__(self, cluster, *arguments):
        self.process = subprocess.Popen(
            [str(CHAT), "bench", "--url", cluster.url, "--pause", *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if line.startswith("ready"):
                return
        raise Failed(f"chat bench ended before it was ready: {''.join(lines)}")

    def send(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self):
        out, error = self.process.communicate(timeout=1800)
        if not out:
            raise Failed(f"chat bench printed no result: {error}")
        return json.loads(out)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
