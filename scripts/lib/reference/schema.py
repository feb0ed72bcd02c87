"""JSON schemas as HTML: the subset that chat's OpenAPI and AsyncAPI documents use."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from reference.layout import anchor, code, inline, markdown, table

Schema = dict[str, Any]

LIMITS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "more than",
    "exclusiveMaximum": "less than",
    "minLength": "shortest",
    "maxLength": "longest",
    "minItems": "fewest items",
    "maxItems": "most items",
    "pattern": "pattern",
    "default": "default",
}


def name_of(reference: str) -> str:
    return reference.rsplit("/", 1)[-1]


def link(reference: str) -> str:
    name = name_of(reference)
    return f'<a href="#{anchor("schema", name)}">{escape(name)}</a>'


def type_of(schema: Schema | bool) -> str:
    """The type in a few words, with links to named schemas."""
    if isinstance(schema, bool):
        return "any value" if schema else "no value"
    if "$ref" in schema:
        return link(schema["$ref"])
    if "const" in schema:
        return code(json.dumps(schema["const"], ensure_ascii=False))
    for key in ("oneOf", "anyOf", "allOf"):
        if key in schema:
            # An entry beside a reference may only describe it.
            types = [type_of(one) for one in schema[key] if set(one) - {"description", "title", "nullable", "default"}]
            return (" and " if key == "allOf" else " or ").join(dict.fromkeys(types)) + nullable(schema)
    if "enum" in schema:
        return " or ".join(code(json.dumps(value, ensure_ascii=False)) for value in schema["enum"]) + nullable(schema)
    kinds = schema.get("type", "object" if "properties" in schema else "any value")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    words = [f"array of {type_of(schema['items'])}" if kind == "array" and "items" in schema else escape(kind) for kind in kinds]
    values = schema.get("additionalProperties")
    if isinstance(values, dict) and values:
        words = [f"map of {type_of(values)}" if word == "object" else word for word in words]
    form = f" ({escape(schema['format'])})" if "format" in schema else ""
    return " or ".join(words) + form + nullable(schema)


def nullable(schema: Schema) -> str:
    return " or null" if schema.get("nullable") else ""


def remarks(schema: Schema) -> str:
    """The description and the limits."""
    limits = [f"{words}: {code(json.dumps(schema[key], ensure_ascii=False))}" for key, words in LIMITS.items() if key in schema]
    parts = [markdown(description_of(schema))]
    if limits:
        parts.append(f'<p class="note">{"; ".join(limits)}</p>')
    if schema.get("deprecated"):
        parts.append("<p><strong>Deprecated.</strong></p>")
    return "".join(parts)


def description_of(schema: Schema) -> str:
    own = schema.get("description")
    return own or next((one["description"] for one in schema.get("allOf", []) if "$ref" not in one and "description" in one), "")


def fields(schema: Schema) -> str:
    """The table of an object's fields; inner objects follow it."""
    required = schema.get("required", [])
    rows, inner = [], []
    for name, field in schema.get("properties", {}).items():
        # `true` is the schema of any value.
        field = {} if isinstance(field, bool) else field
        rows.append([code(name), type_of(field), "yes" if name in required else "", remarks(field)])
        item = field.get("items", field)
        if isinstance(item, dict) and item.get("properties"):
            inner.append(f"<h4>{code(name)}</h4>{fields(item)}")
    return table(["field", "type", "required", ""], rows) + "".join(inner)


def variants(schema: Schema) -> str:
    """The values of a choice, each with its description."""
    choices = [one for key in ("oneOf", "anyOf") for one in schema.get(key, [])]
    rows = [[type_of(one), inline(one.get("description", ""))] for one in choices]
    inner = "".join(fields(one) for one in choices if one.get("properties"))
    return table(["value", ""], rows) + inner


def body(schema: Schema) -> str:
    """A schema where it is used: a link if it has a name, otherwise all of it."""
    if "$ref" in schema:
        return f"<p>{link(schema['$ref'])}</p>"
    if schema.get("properties"):
        return markdown(schema.get("description")) + fields(schema)
    return f"<p>{type_of(schema)}</p>{remarks(schema)}"


def named(schemas: dict[str, Schema]) -> str:
    """The section with every named schema."""
    parts = []
    for name, schema in sorted(schemas.items()):
        text = remarks(schema)
        if schema.get("properties"):
            text += fields(schema)
        elif schema.get("oneOf") or schema.get("anyOf"):
            text += variants(schema)
        else:
            text += f"<p>{type_of(schema)}</p>"
        parts.append(f'<article id="{anchor("schema", name)}"><h3>{code(name)}</h3>{text}</article>')
    return f'<section><h2 id="schemas">Schemas</h2>{"".join(parts)}</section>' if parts else ""


def contents(schemas: dict[str, Schema]) -> tuple[str, list[tuple[str, str]]]:
    return "Schemas", [(f"#{anchor('schema', name)}", name) for name in sorted(schemas)]
