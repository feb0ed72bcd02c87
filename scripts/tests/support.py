"""Shared by the tests of the scripts. Importing it makes scripts/lib importable."""

import contextlib
import io
import os
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

SCRIPTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SCRIPTS / "lib"))

from services.instance import Instance  # noqa: E402


class Isolated(unittest.TestCase):
    """Each test has a directory of its own for an instance, and none of the caller's settings."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = Path(scratch.name)
        self.directory = self.scratch / "instance"
        self.settings = {"CHAT_SERVICES_DIR": str(self.directory)}
        chosen = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
        patch = mock.patch.dict(os.environ, {**chosen, **self.settings}, clear=True)
        patch.start()
        self.addCleanup(patch.stop)

    def instance(self, **ports):
        return Instance.load({**self.settings, **ports})


def quiet(action, *arguments):
    """Calls it, and returns what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        action(*arguments)
    return out.getvalue()
