"""The command line of `scripts/docs`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

from reference import rest, sockets
from reference.layout import page, table

ROOT = Path(__file__).resolve().parents[3]

USAGE = """\
Generates the documentation into target/doc.

Usage: scripts/docs [--no-rust]

  --no-rust   only the REST and the socket reference, which need neither Rust nor a build

  target/doc/index.html          links the three parts
  target/doc/chat/index.html     the crate, with private items (other crates are beside it)
  target/doc/rest/index.html     the REST reference, from docs/openapi.json
  target/doc/sockets/index.html  the socket reference, from docs/asyncapi.json

The two JSON files are what `chat openapi` and `chat asyncapi` print; `scripts/check --fix` updates
them. The references load nothing from another host. CARGO_TARGET_DIR moves target/.

Exit code: 0 done, 1 failed, 2 wrong usage.
"""

# Directory, file in docs/, renderer, heading, description.
REFERENCES: tuple[tuple[str, str, Callable[[dict[str, Any]], str], str, str], ...] = (
    ("rest", "openapi.json", rest.render, "REST reference", "every request and answer over HTTP"),
    ("sockets", "asyncapi.json", sockets.render, "Socket reference", "every event of the WebSocket"),
)


class Problem(Exception):
    pass


def main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    if arguments not in ([], ["--no-rust"]):
        print(f"docs: unknown: {' '.join(arguments)} (see scripts/docs --help)", file=sys.stderr)
        return 2
    out = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "doc"
    try:
        if not arguments:
            document_crate()
        write_references(ROOT / "docs", out)
    except (Problem, OSError) as error:
        print(f"docs: {error}", file=sys.stderr)
        return 1
    print(f"wrote {out / 'index.html'}")
    return 0


def document_crate() -> None:
    cargo = shutil.which("cargo") or shutil.which("cargo", path=Path(os.environ.get("CARGO_HOME") or "~/.cargo").expanduser() / "bin")
    if cargo is None:
        raise Problem("cargo is missing; install Rust (https://rustup.rs), or use --no-rust")
    if subprocess.run([cargo, "doc", "--workspace", "--no-deps", "--document-private-items", "--locked"], cwd=ROOT).returncode != 0:
        raise Problem("cargo doc failed")


def write_references(sources: Path, out: Path) -> None:
    # All are rendered before one is written.
    pages = {directory: render(sources / file, renderer) for directory, file, renderer, _, _ in REFERENCES}
    for directory, file, _, _, _ in REFERENCES:
        (out / directory).mkdir(parents=True, exist_ok=True)
        (out / directory / "index.html").write_text(pages[directory])
        shutil.copy(sources / file, out / directory / file)
    (out / "index.html").write_text(index(out))


def render(file: Path, renderer: Callable[[dict[str, Any]], str]) -> str:
    try:
        spec = json.loads(file.read_text())
    except FileNotFoundError:
        raise Problem(f"{file} is missing; `scripts/check --fix` writes it") from None
    except ValueError as error:
        raise Problem(f"{file} is not JSON: {error}; `scripts/check --fix` writes it again") from None
    try:
        return renderer(spec)
    except (KeyError, TypeError, AttributeError) as error:
        raise Problem(f"{file} is not as expected: {type(error).__name__}: {error}") from error


def index(out: Path) -> str:
    rows = [
        [f'<a href="{directory}/index.html">{heading}</a>', f'{description} (<a href="{directory}/{file}">{file}</a>)']
        for directory, file, _, heading, description in REFERENCES
    ]
    crate = '<a href="chat/index.html">Crate documentation</a>' if (out / "chat/index.html").exists() else "Crate documentation"
    missing = "" if crate.startswith("<") else "; run <code>scripts/docs</code> without <code>--no-rust</code>"
    rows.append([crate, f"the modules and types of the server{missing}"])
    return page("Documentation of chat", table(["part", "content"], rows))
