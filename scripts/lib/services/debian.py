"""Installation with apt-get, as root or through `sudo -n`, without starting or enabling system services."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from services.problem import Problem, log_end, say

# invoke-rc.d asks this program before it starts a service; 101 forbids it.
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = "#!/bin/sh\n# Made by scripts/services during an installation.\nexit 101\n"
APT_SECONDS = 1800


def as_root() -> list[str]:
    return [] if os.geteuid() == 0 else ["sudo", "-n"]


def can_install() -> bool:
    if shutil.which("apt-get") is None:
        return False
    if not as_root():
        return True
    return shutil.which("sudo") is not None and subprocess.run([*as_root(), "true"], capture_output=True, timeout=30).returncode == 0


def install(packages: list[str], log: Path) -> None:
    say(f"services: installing {' '.join(packages)} (log: {log})")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as out, services_forbidden():
        # An update fails if one source is unreachable, although it has refreshed the others.
        if run(["apt-get", "-q", "update"], out) != 0:
            say("services: apt-get update failed; installing from the lists that are there")
        options = ["-q", "-y", "-o", "DPkg::Lock::Timeout=300"]
        result = run(["apt-get", *options, "install", "--no-install-recommends", *packages], out)
        if result == 0 and Path("/run/systemd/system").is_dir():
            for package in packages:
                run(["systemctl", "disable", "--quiet", package], out)
    if result != 0:
        raise Problem(f"apt-get could not install {' '.join(packages)}\n{log_end(log)}")


def run(command: list[str], out: object) -> int:
    command = [*as_root(), "env", "DEBIAN_FRONTEND=noninteractive", *command]
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, timeout=APT_SECONDS).returncode
    except subprocess.TimeoutExpired:
        raise Problem(f"{' '.join(command)} takes longer than {APT_SECONDS} s") from None


@contextmanager
def services_forbidden() -> Iterator[None]:
    """While packages are installed, no system service is started. A policy of the system's own stays as it is."""
    try:
        # Ours, if an earlier run was killed.
        ours = not POLICY.exists() or POLICY.read_text() == POLICY_TEXT
    except (OSError, UnicodeDecodeError):
        ours = False
    if not ours:
        yield
        return
    # SIGTERM ends the program as an exception does, so that the file is removed.
    before = signal.signal(signal.SIGTERM, lambda *_: exit_by_signal())
    try:
        subprocess.run([*as_root(), "tee", str(POLICY)], input=POLICY_TEXT.encode(), stdout=subprocess.DEVNULL, timeout=30, check=True)
        subprocess.run([*as_root(), "chmod", "755", str(POLICY)], timeout=30, check=True)
        yield
    finally:
        subprocess.run([*as_root(), "rm", "-f", str(POLICY)], timeout=30)
        signal.signal(signal.SIGTERM, before)


def exit_by_signal() -> None:
    raise SystemExit(128 + signal.SIGTERM)
