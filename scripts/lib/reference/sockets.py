"""The socket reference, from an AsyncAPI 3 document."""

from __future__ import annotations

from typing import Any

from reference import schema
from reference.layout import anchor, code, markdown, page

# An operation says what the server does.
DIRECTIONS = {"receive": "Client to server", "send": "Server to client"}


def render(spec: dict[str, Any]) -> str:
    schemas = spec.get("components", {}).get("schemas", {})
    channels = "".join(
        f"<h2>Channel {code(one.get('address', name))}</h2>{markdown(one.get('description'))}" for name, one in spec["channels"].items()
    )
    sections, contents = [], []
    for action, heading in DIRECTIONS.items():
        operations = {name: one for name, one in spec["operations"].items() if one["action"] == action}
        articles = "".join(article(name, one, spec) for name, one in sorted(operations.items()))
        sections.append(f'<section><h2 id="{anchor(heading)}">{heading}</h2>{articles}</section>')
        contents.append((heading, [(f"#{anchor('operation', name)}", title(name, one)) for name, one in sorted(operations.items())]))
    body = markdown(spec["info"].get("description")) + channels + "".join(sections) + schema.named(schemas)
    return page(f"Socket reference of {spec['info']['title']} {spec['info']['version']}", body, [*contents, schema.contents(schemas)])


def title(name: str, operation: dict[str, Any]) -> str:
    """The event's name, or the operation's if it has several messages."""
    messages = operation.get("messages", [])
    return schema.name_of(messages[0]["$ref"]) if len(messages) == 1 else name


def article(name: str, operation: dict[str, Any], spec: dict[str, Any]) -> str:
    parts = [f'<article id="{anchor("operation", name)}"><h3>{code(title(name, operation))}</h3>', markdown(operation.get("summary"))]
    parts.append(markdown(operation.get("description")))
    parts += [message(one["$ref"], operation, spec) for one in operation.get("messages", [])]
    answers = operation.get("reply", {}).get("messages", [])
    if answers:
        parts.append("<h4>Answer</h4>")
        parts += [message(one["$ref"], operation, spec) for one in answers]
    return "".join(parts) + "</article>"


def message(reference: str, operation: dict[str, Any], spec: dict[str, Any]) -> str:
    name, one = schema.name_of(reference), resolve(reference, spec)
    summary = one.get("summary", "")
    heading = "" if name == title("", operation) else f"<p>{code(name)}</p>"
    text = markdown(summary) if summary != operation.get("summary") else ""
    return heading + text + markdown(one.get("description")) + schema.body(one.get("payload", {}))


def resolve(reference: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Follows `#/…` references to the end."""
    one: Any = spec
    for word in reference.removeprefix("#/").split("/"):
        one = one[word.replace("~1", "/").replace("~0", "~")]
    return resolve(one["$ref"], spec) if "$ref" in one else one
