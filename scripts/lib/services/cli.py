"""The command line of `scripts/services`."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Callable, Sequence

from services import debian
from services.compose import Compose, is_available
from services.instance import Instance
from services.postgres import Postgres
from services.problem import Problem, UsageError, say, warn
from services.rabbitmq import RabbitMQ
from services.redis import Redis
from services.server import Server, Starting

USAGE = """\
Private PostgreSQL, Redis and RabbitMQ on loopback, for development and tests.

Usage: scripts/services COMMAND

  up [SERVER...]       install what is missing, start, and wait until ready (default: all three)
  down [--wipe]        stop all three; --wipe also deletes their data and logs
  status               print one line per server; exit code 0 only if all three are up
  env                  print the addresses, for: eval "$(scripts/services env)"

  start SERVER...      start again and wait until ready
  stop SERVER...       stop cleanly
  kill SERVER...       send SIGKILL to every process of the server
  pause SERVER...      freeze it (SIGSTOP)
  resume SERVER...     continue it (SIGCONT)
  rabbitmqctl ARG...   run rabbitmqctl against the private broker
  install PACKAGE...   install Debian packages in the same way as `up`

SERVER is postgres, redis or rabbitmq.

Missing servers are installed with apt-get, as root or where `sudo -n` works. Their system services
are neither started nor enabled. Elsewhere, Docker Compose runs all three if an engine is running.
Otherwise `up` prints what to install and exits with 1.

Environment variables (an instance remembers its ports; RabbitMQ also uses the two ports after its
management port):
  CHAT_SERVICES_DIR       directory of the instance  target/services
  CHAT_PG_PORT            PostgreSQL                 15432
  CHAT_REDIS_PORT         Redis                      16379
  CHAT_AMQP_PORT          RabbitMQ                   15673
  CHAT_RABBIT_MGMT_PORT   RabbitMQ's management API  CHAT_AMQP_PORT + 1

A second instance with its own CHAT_SERVICES_DIR and ports runs beside the first. The servers keep no
secrets and trust every local user: they are for development only.

Exit code: 0 done, 1 failed, 2 wrong usage.
"""

# RabbitMQ takes the longest to start, so it is started first.
SERVERS: dict[str, type[Server]] = {"rabbitmq": RabbitMQ, "postgres": Postgres, "redis": Redis}
ALL = ("postgres", "redis", "rabbitmq")


def main(arguments: Sequence[str]) -> int:
    try:
        return run(list(arguments))
    except UsageError as error:
        warn(f"services: {error} (see scripts/services --help)")
        return 2
    except Problem as error:
        warn(f"services: {error}")
        return 1
    except BrokenPipeError:
        # The reader of our output is gone, as in `scripts/services status | head -1`. Python flushes once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        warn("services: interrupted; run the command again to continue")
        return 128 + signal.SIGINT


def run(arguments: list[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if command in ("-h", "--help", "help") or (command in COMMANDS and command != "rabbitmqctl" and rest[:1] == ["--help"]):
        print(USAGE, end="")
        return 0
    if command not in COMMANDS:
        raise UsageError(f"unknown command: {command}")
    return COMMANDS[command](command, rest)


def servers_of(names: list[str]) -> tuple[str, ...]:
    """The servers named on the command line, or all."""
    for name in names:
        if name not in ALL:
            raise UsageError(f"unknown server: {name}")
    return tuple(dict.fromkeys(names)) or ALL


def required(command: str, rest: list[str]) -> list[str]:
    if not rest:
        raise UsageError(f"{command} needs at least one {'package' if command == 'install' else 'server'}")
    return rest


def nothing(command: str, rest: list[str]) -> None:
    if rest:
        raise UsageError(f"{command} takes no arguments")


def made(instance: Instance, names: tuple[str, ...]) -> list[Server]:
    return [SERVERS[name](instance) for name in SERVERS if name in names]


# ---- commands


def up(command: str, rest: list[str]) -> int:
    names = servers_of(required(command, rest) if command == "start" else rest)
    with Instance.load().locked():
        # Read under the lock: another `up` may just have chosen the ports.
        instance = Instance.load()
        compose = Compose(instance)
        if not compose.runs_this_instance():
            refuse_moved_ports(instance)
            if provide(instance, names):
                instance.prepare(names)
                instance.save_ports()
                bring_up(made(instance, names))
                return 0
            if not is_available():
                raise Problem(what_to_install(instance, names))
        instance.save_ports()
        compose.write()
        compose.up(names)
    return 0


def refuse_moved_ports(instance: Instance) -> None:
    """A running server listens on its old port: a new port would lose track of it."""
    for name, port in instance.remembered.items():
        server = "rabbitmq" if name == "management" else name
        if instance.ports[name] != port and SERVERS[server](instance).process():
            raise Problem(
                f"{server} of {instance.directory} runs on port {port}; run `scripts/services down` "
                f"before you move it to {instance.ports[name]}"
            )


def missing(instance: Instance, names: tuple[str, ...]) -> list[str]:
    """The Debian packages of the servers that are not installed. Servers run without Docker only on Linux."""
    is_linux = sys.platform.startswith("linux")
    return [server.package for server in made(instance, names) if not is_linux or server.found() is None]


def provide(instance: Instance, names: tuple[str, ...]) -> bool:
    """Installs what is missing; False if that is not possible here."""
    packages = missing(instance, names)
    if not packages:
        return True
    if not debian.can_install():
        return False
    debian.install(packages, instance.directory / "install.log")
    packages = missing(instance, names)
    if packages:
        raise Problem(f"apt-get has no version that is new enough: {what_to_install(instance, names)}")
    return True


def what_to_install(instance: Instance, names: tuple[str, ...]) -> str:
    packages = missing(instance, names)
    needed = [f"{one.__name__} {'.'.join(map(str, one.minimum))}" for one in SERVERS.values() if one.package in packages]
    fedora = {"postgresql": "postgresql-server", "redis-server": "valkey"}
    return "\n".join(
        [
            f"not installed: {', '.join(needed)} or newer",
            f"  Debian, Ubuntu:  sudo apt-get install --no-install-recommends {' '.join(packages)}",
            f"  Fedora:          sudo dnf install {' '.join(fedora.get(package, package) for package in packages)}",
            "  elsewhere:       start a Docker engine with Compose",
            "Then run this command again.",
        ]
    )


def bring_up(servers: list[Server]) -> None:
    """Starts the servers side by side and waits until all are ready or have failed."""
    starting: list[Starting] = []
    failed: list[str] = []

    def attempt(server: Server, action: Callable[[], object]) -> object:
        try:
            return action()
        except Problem as problem:
            warn(str(problem))
            failed.append(server.name)
            return None

    for server in servers:
        begun = attempt(server, server.begin)
        if isinstance(begun, Starting):
            starting.append(begun)
    while starting:
        starting = [one for one in starting if attempt(one.server, one.is_done) is False]
        time.sleep(0.05)
    if failed:
        raise Problem(f"not up: {', '.join(failed)}")


def down(command: str, rest: list[str]) -> int:
    if rest not in ([], ["--wipe"]):
        raise UsageError("down takes only --wipe")
    instance = Instance.load()
    if not instance.directory.is_dir():
        # Servers can outlive their directory.
        stop_all(instance, ALL)
        return 0
    with instance.locked():
        compose = Compose(instance)
        if compose.runs_this_instance():
            compose.down(wipe=bool(rest))
        else:
            stop_all(instance, ALL)
        if rest:
            instance.wipe(ALL)
            say("services: data deleted")
    return 0


def stop_all(instance: Instance, names: tuple[str, ...]) -> None:
    asked = [(server, server.begin_stop()) for server in made(instance, names)]
    for server, processes in asked:
        server.finish_stop(processes)


def control(command: str, rest: list[str]) -> int:
    names = servers_of(required(command, rest))
    instance = Instance.load()
    compose = Compose(instance)
    if compose.runs_this_instance():
        compose.control(command, names)
    elif command == "stop":
        stop_all(instance, names)
    else:
        for server in made(instance, names):
            getattr(server, command)()
    return 0


def status(command: str, rest: list[str]) -> int:
    nothing(command, rest)
    instance = Instance.load()
    compose = Compose(instance)
    if compose.runs_this_instance():
        return 0 if compose.status(ALL) else 1
    say(f"{'SERVER':<10} {'STATE':<9} {'VERSION':<9} PORT")
    states = []
    for name in ALL:
        server = SERVERS[name](instance)
        states.append(server.state())
        management = f" (management {instance.ports['management']})" if name == "rabbitmq" else ""
        say(f"{name:<10} {states[-1]:<9} {server.version(states[-1]):<9} {server.address}{management}")
    return 0 if all(state == "up" for state in states) else 1


def env(command: str, rest: list[str]) -> int:
    nothing(command, rest)
    print(Instance.load().exports(), end="")
    return 0


def rabbitmqctl(command: str, rest: list[str]) -> int:
    instance = Instance.load()
    compose = Compose(instance)
    return compose.rabbitmqctl(rest) if compose.runs_this_instance() else RabbitMQ(instance).run_ctl(rest)


def install(command: str, rest: list[str]) -> int:
    packages = required(command, rest)
    if not debian.can_install():
        raise Problem(f"apt-get cannot be used here (it needs root or `sudo -n`); install these yourself: {' '.join(packages)}")
    debian.install(packages, Instance.load().directory / "install.log")
    return 0


COMMANDS: dict[str, Callable[[str, list[str]], int]] = {
    "up": up,
    "down": down,
    "status": status,
    "env": env,
    "start": up,
    "stop": control,
    "kill": control,
    "pause": control,
    "resume": control,
    "rabbitmqctl": rabbitmqctl,
    "install": install,
}
