"""The frame of a page, and the Markdown of descriptions.

A page is one file: no script, and nothing is loaded from another host.
"""

from __future__ import annotations

import re
from html import escape

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --link: #0a58ca; }
@media (prefers-color-scheme: dark) { :root { --link: #7db4ff; } }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; }
a { color: var(--link); }
.page { display: grid; grid-template-columns: 17rem minmax(0, 1fr); }
nav { position: sticky; top: 0; height: 100vh; overflow: auto; padding: 1rem; border-right: 1px solid var(--line); font-size: 0.875rem; }
nav ul { list-style: none; margin: 0 0 1rem; padding: 0; }
nav li { overflow-wrap: anywhere; }
main { padding: 1rem 2rem 4rem; max-width: 70rem; }
section { border-top: 1px solid var(--line); margin-top: 2rem; }
article { margin-top: 2rem; scroll-margin-top: 1rem; }
h2, h3, h4 { line-height: 1.25; scroll-margin-top: 1rem; }
h4 { margin: 1.25rem 0 0.25rem; }
code, pre { font: 0.875em/1.5 ui-monospace, monospace; background: var(--soft); border-radius: 3px; padding: 0 0.2em; }
h3 code { font-size: 0.9em; }
pre { padding: 0.75rem; overflow-x: auto; }
pre code { background: none; padding: 0; }
.table { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.5rem 0; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.75rem 0.3rem 0; border-bottom: 1px solid var(--line); }
td > :first-child { margin-top: 0; }
td > :last-child { margin-bottom: 0; }
.note { opacity: 0.75; }
@media (max-width: 50rem) {
  .page { display: block; }
  nav { position: static; height: auto; border-right: 0; }
  main { padding: 1rem; }
}
"""


def page(title: str, body: str, contents: list[tuple[str, list[tuple[str, str]]]] | None = None) -> str:
    """A whole page. `contents` are headings, each with links: (address, text)."""
    groups = []
    for heading, links in contents or []:
        items = "".join(f'<li><a href="{escape(address)}">{escape(text)}</a></li>' for address, text in links)
        groups.append(f"<p><strong>{escape(heading)}</strong></p><ul>{items}</ul>")
    main = f"<main><h1>{escape(title)}</h1>{body}</main>"
    if groups:
        main = f'<div class="page"><nav aria-label="Contents">{"".join(groups)}</nav>{main}</div>'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{main}</body></html>\n"
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table. The cells are HTML."""
    if not rows:
        return ""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def anchor(*words: str) -> str:
    """The id of a heading."""
    return re.sub(r"[^A-Za-z0-9]+", "-", " ".join(words)).strip("-")


def code(text: object) -> str:
    return f"<code>{escape(str(text))}</code>"


def inline(text: str) -> str:
    """`code`, **bold** and [links](address) of one paragraph, as HTML."""
    parts = []
    for part in re.split(r"(`[^`]+`)", text):
        if len(part) > 2 and part[0] == part[-1] == "`":
            parts.append(code(part[1:-1]))
            continue
        part = escape(part)
        part = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", part)
        part = re.sub(r"\[([^\]]+)\]\((https?://[^)\s]+|#[^)\s]+)\)", r'<a href="\2">\1</a>', part)
        parts.append(part)
    return "".join(parts)


def markdown(text: str | None) -> str:
    """The Markdown that the specifications use, as HTML: paragraphs, tables, lists, fenced code, and what `inline` knows."""
    blocks = []
    for block in re.split(r"\n\s*\n", (text or "").strip()):
        lines = block.splitlines()
        if not lines:
            continue
        if lines[0].startswith("```"):
            blocks.append(f"<pre><code>{escape(chr(10).join(line for line in lines if not line.startswith('```')))}</code></pre>")
        elif len(lines) > 1 and lines[0].startswith("|") and re.fullmatch(r"[|\s:-]+", lines[1]):
            head, rows = cells(lines[0]), [cells(line) for line in lines[2:]]
            blocks.append(table(head, [[inline(cell) for cell in row] for row in rows]))
        elif all(re.match(r"[-*] |  ", line) for line in lines):
            items = re.split(r"\n[-*] ", "\n" + block)[1:]
            blocks.append("<ul>" + "".join(f"<li>{inline(' '.join(item.split()))}</li>" for item in items) + "</ul>")
        else:
            blocks.append(f"<p>{inline(' '.join(lines))}</p>")
    return "".join(blocks)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
