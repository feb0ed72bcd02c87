""".env.example names what the program reads, with addresses that fit scripts/services."""

import re
import unittest

from support import SCRIPTS, Isolated

ROOT = SCRIPTS.parent


class Example(Isolated):
    def setUp(self):
        super().setUp()
        lines = [line for line in (ROOT / ".env.example").read_text().splitlines() if line and not line.startswith("#")]
        self.values = dict(line.split("=", 1) for line in lines)
        self.assertEqual(len(self.values), len(lines))

    def test_every_well_known_name_is_there(self):
        sources = "".join(file.read_text() for file in sorted((ROOT / "src/config").glob("*.rs")))
        table = re.search(r"const WELL_KNOWN\b.*?= &\[(.*?)\];", sources, re.DOTALL)
        names = re.findall(r'\(\s*"([A-Z_]+)"', table[1])
        self.assertGreater(len(names), 5)
        self.assertEqual(set(self.values), {*names, "CHAT__AUTH__SECRET", "CHAT_CONFIG"})

    def test_the_addresses_are_those_of_the_services(self):
        for line in self.instance().exports().splitlines():
            name, value = line.removeprefix("export ").split("=", 1)
            if name != "CHAT_SERVICES_DIR":
                self.assertEqual(self.values[name], value.strip("'"))

    def test_secrets_are_empty(self):
        for name in ("CHAT__AUTH__SECRET", "SENDGRID_API_KEY", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"):
            self.assertEqual(self.values[name], "")

    def test_no_value_needs_quotes(self):
        for value in self.values.values():
            self.assertRegex(value, r"^[^\s'\"$#\\]*$")


if __name__ == "__main__":
    unittest.main()
