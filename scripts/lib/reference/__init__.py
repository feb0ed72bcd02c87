"""The generated documentation: the program behind `scripts/docs`.

cli.py       the command line: `cargo doc`, the two references, and the page that links all three
rest.py      the REST reference, from docs/openapi.json
sockets.py   the socket reference, from docs/asyncapi.json
schema.py    JSON schemas as HTML
layout.py    the frame of a page, and the Markdown of descriptions
"""
