"""The references from docs/openapi.json and docs/asyncapi.json, and the Markdown and the schemas that they are made of."""

import contextlib
import html
import io
import json
import os
import re
import tempfile
import unittest
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

from support import SCRIPTS, quiet

from reference import cli, layout, rest, schema, sockets

DOCS = SCRIPTS.parent / "docs"


class Links(HTMLParser):
    """The ids, the links and the text of a page. Fails on a tag that is not closed."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.open, self.loaded, self.text = [], [], [], [], ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        self.loaded += [tag] if tag in ("script", "link", "img", "iframe", "object") or "src" in found else []
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        last = self.open.pop()
        assert last == tag, f"{last} ended by {tag} at {self.getpos()}"

    def handle_data(self, data):
        self.text += data


class Generated(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.out = Path(scratch.name) / "doc"
        with mock.patch.dict(os.environ, CARGO_TARGET_DIR=scratch.name):
            cls.said = quiet(cli.main, ["--no-rust"])
        cls.pages = {name: Links((cls.out / name / "index.html").read_text()) for name in ("", "rest", "sockets")}

    def test_pages_are_well_formed_complete_and_load_nothing(self):
        for name, page in self.pages.items():
            self.assertEqual(page.loaded, [], name)
            self.assertEqual(len(page.ids), len(set(page.ids)), name)
            for link in page.links:
                if link.startswith("#"):
                    self.assertIn(link[1:], page.ids, name)
                elif not link.startswith("https://"):
                    self.assertTrue((self.out / name / link).exists(), link)
            self.assertNotRegex((self.out / name / "index.html").read_text(), r"@import|url\(")

    def test_the_index_links_all_three(self):
        self.assertEqual(self.pages[""].links[::2], ["rest/index.html", "sockets/index.html"])
        self.assertIn("without --no-rust", self.pages[""].text)
        (self.out / "chat").mkdir()
        (self.out / "chat/index.html").touch()
        self.addCleanup((self.out / "chat/index.html").unlink)
        self.assertIn("chat/index.html", Links(cli.index(self.out)).links)

    def test_every_operation_and_every_event_is_there(self):
        spec = json.loads((DOCS / "openapi.json").read_text())
        for path, item in spec["paths"].items():
            for method, operation in item.items():
                self.assertIn(layout.anchor(method, path), self.pages["rest"].ids)
                self.assertIn(operation["summary"], self.pages["rest"].text)
        for kind, name in (("rest", "openapi"), ("sockets", "asyncapi")):
            for one in json.loads((DOCS / f"{name}.json").read_text())["components"]["schemas"]:
                self.assertIn(layout.anchor("schema", one), self.pages[kind].ids)
        for name in json.loads((DOCS / "asyncapi.json").read_text())["operations"]:
            self.assertIn(layout.anchor("operation", name), self.pages["sockets"].ids)


class CommandLine(unittest.TestCase):
    def fails(self, *arguments, **environment):
        error = io.StringIO()
        with mock.patch.dict(os.environ, environment), contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            code = cli.main(list(arguments))
        return code, error.getvalue()

    def test_help_and_wrong_usage(self):
        self.assertIn("Usage: scripts/docs", quiet(cli.main, ["--help"]))
        self.assertEqual(self.fails("--rust")[0], 2)

    def test_cargo_that_is_missing_is_named(self):
        code, said = self.fails(PATH="/nowhere", CARGO_HOME="/nowhere")
        self.assertEqual((code, said), (1, "docs: cargo is missing; install Rust (https://rustup.rs), or use --no-rust\n"))

    def test_the_crate_is_documented_by_cargo(self):
        with tempfile.TemporaryDirectory() as scratch:
            cargo, calls = Path(scratch) / "cargo", Path(scratch) / "calls"
            for exit_code in (0, 101):
                cargo.write_text(f"#!/bin/sh\necho $* >{calls}\nexit {exit_code}\n")
                cargo.chmod(0o755)
                code, said = self.fails(PATH=f"{scratch}:{os.environ['PATH']}", CARGO_TARGET_DIR=scratch)
                self.assertEqual(calls.read_text(), "doc --workspace --no-deps --document-private-items --locked\n")
                self.assertEqual((code, said), (1, "docs: cargo doc failed\n") if exit_code else (0, ""))

    def test_sources_that_cannot_be_used_are_named(self):
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "openapi.json"
            with self.assertRaisesRegex(cli.Problem, r"openapi\.json is missing; `scripts/check --fix` writes it"):
                cli.render(file, rest.render)
            file.write_text("{")
            with self.assertRaisesRegex(cli.Problem, r"openapi\.json is not JSON"):
                cli.render(file, rest.render)
            file.write_text("{}")
            with self.assertRaisesRegex(cli.Problem, r"openapi\.json is not as expected: KeyError: 'paths'"):
                cli.render(file, rest.render)


class Markdown(unittest.TestCase):
    def test_blocks(self):
        text = "One\nparagraph.\n\n- a\n- b\n  more\n\n| code | meaning |\n|---|---|\n| `1` | **no** |\n\n```\na < b\n```"
        made = layout.markdown(text)
        self.assertIn("<p>One paragraph.</p><ul><li>a</li><li>b more</li></ul>", made)
        self.assertIn("<td><code>1</code></td><td><strong>no</strong></td>", made)
        self.assertIn("<pre><code>a &lt; b</code></pre>", made)
        self.assertEqual(layout.markdown(None), "")

    def test_html_is_escaped_and_code_is_left_alone(self):
        self.assertEqual(layout.inline("<b> `**x** <i>`"), "&lt;b&gt; <code>**x** &lt;i&gt;</code>")

    def test_only_web_links(self):
        self.assertIn('<a href="https://a.example/?b&amp;c">x</a>', layout.inline("[x](https://a.example/?b&c)"))
        self.assertNotIn("href", layout.inline("[x](javascript:alert)"))


class Schemas(unittest.TestCase):
    def test_types(self):
        reference = {"$ref": "#/components/schemas/Room"}
        link = '<a href="#schema-Room">Room</a>'
        for one, words in (
            (reference, link),
            ({"type": "string", "format": "uuid", "nullable": True}, "string (uuid) or null"),
            ({"type": ["integer", "null"]}, "integer or null"),
            ({"type": "array", "items": reference}, f"array of {link}"),
            ({"allOf": [reference, {"description": "The room."}]}, link),
            ({"anyOf": [reference, {"type": "null"}]}, f"{link} or null"),
            ({"enum": ["a", None]}, "<code>&quot;a&quot;</code> or <code>null</code>"),
            ({"type": "object", "additionalProperties": {"type": "integer"}}, "map of integer"),
            ({"const": 1}, "<code>1</code>"),
            ({}, "any value"),
            (True, "any value"),
        ):
            self.assertEqual(schema.type_of(one), words)

    def test_fields(self):
        one = {
            "required": ["a"],
            "properties": {
                "a": {"type": "string", "maxLength": 8, "default": "x"},
                "b": {"type": "array", "items": {"type": "object", "properties": {"c": {"description": "Deep."}}}},
                "d": True,
            },
        }
        text = html.unescape(re.sub("<[^>]+>", " ", schema.fields(one)))
        self.assertRegex(text, r'a +string +yes +longest: +8 ; default: +"x"')
        self.assertRegex(text, r"b +array of object")
        self.assertRegex(text, r"c +any value +Deep\.")
        self.assertRegex(text, r"d +any value")

    def test_references_are_followed(self):
        spec = {"a": {"b/c": {"$ref": "#/d"}}, "d": {"e": 1}}
        self.assertEqual(sockets.resolve("#/a/b~1c", spec), {"e": 1})


if __name__ == "__main__":
    unittest.main()
