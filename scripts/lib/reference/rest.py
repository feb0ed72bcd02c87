"""The REST reference, from an OpenAPI 3 document."""

from __future__ import annotations

from html import escape
from typing import Any

from reference import schema
from reference.layout import anchor, code, inline, markdown, page, table

METHODS = ("get", "post", "put", "patch", "delete", "head", "options", "trace")


def render(spec: dict[str, Any]) -> str:
    schemas = spec.get("components", {}).get("schemas", {})
    described = {tag["name"]: tag.get("description", "") for tag in spec.get("tags", [])}
    by_tag: dict[str, list[tuple[str, str, dict[str, Any]]]] = {name: [] for name in described}
    for path, item in spec["paths"].items():
        for method in METHODS:
            if method in item:
                operation = {**item[method], "parameters": item.get("parameters", []) + item[method].get("parameters", [])}
                for tag in operation.get("tags") or ["Other"]:
                    by_tag.setdefault(tag, []).append((method, path, operation))
    by_tag = {tag: operations for tag, operations in by_tag.items() if operations}
    sections = "".join(section(tag, described.get(tag, ""), operations, spec) for tag, operations in by_tag.items())
    body = markdown(spec["info"].get("description")) + security_schemes(spec) + sections + schema.named(schemas)
    contents = [
        (tag, [(f"#{anchor(method, path)}", f"{method.upper()} {path}") for method, path, _ in operations])
        for tag, operations in by_tag.items()
    ]
    return page(f"REST reference of {spec['info']['title']} {spec['info']['version']}", body, [*contents, schema.contents(schemas)])


def security_schemes(spec: dict[str, Any]) -> str:
    schemes = spec.get("components", {}).get("securitySchemes", {})
    rows = [[code(name), escape(one.get("scheme", one["type"])), markdown(one.get("description"))] for name, one in schemes.items()]
    return f"<h2>Credentials</h2>{table(['name', 'scheme', ''], rows)}" if rows else ""


def section(tag: str, description: str, operations: list[tuple[str, str, dict[str, Any]]], spec: dict[str, Any]) -> str:
    articles = "".join(article(method, path, operation, spec) for method, path, operation in operations)
    return f'<section><h2 id="{anchor("tag", tag)}">{escape(tag)}</h2>{markdown(description)}{articles}</section>'


def article(method: str, path: str, operation: dict[str, Any], spec: dict[str, Any]) -> str:
    summary = operation.get("summary") or operation.get("operationId") or ""
    parts = [
        f'<article id="{anchor(method, path)}"><h3>{escape(summary)}</h3><p>{code(f"{method.upper()} {path}")}</p>',
        markdown(operation.get("description")),
        credentials(operation.get("security", spec.get("security", []))),
        "<p><strong>Deprecated.</strong></p>" if operation.get("deprecated") else "",
    ]
    if operation["parameters"]:
        parts.append(f"<h4>Parameters</h4>{parameters(operation['parameters'])}")
    if "requestBody" in operation:
        optional = "" if operation["requestBody"].get("required") else " (optional)"
        parts.append(f"<h4>Request body{optional}</h4>{markdown(operation['requestBody'].get('description'))}")
        parts.append(content(operation["requestBody"].get("content", {})))
    parts.append(f"<h4>Answers</h4>{answers(operation['responses'])}</article>")
    return "".join(parts)


def credentials(security: list[dict[str, Any]]) -> str:
    if not any(security):
        return '<p class="note">No credentials.</p>'
    names = " or ".join(" and ".join(map(code, one)) for one in security if one)
    return f'<p class="note">Credentials: {names}{" (optional)" if {} in security else ""}.</p>'


def parameters(listed: list[dict[str, Any]]) -> str:
    rows = []
    for one in listed:
        described = {**one.get("schema", {}), "description": one.get("description") or one.get("schema", {}).get("description", "")}
        required = "yes" if one.get("required") else ""
        rows.append([code(one["name"]), escape(one["in"]), schema.type_of(one.get("schema", {})), required, schema.remarks(described)])
    return table(["name", "in", "type", "required", ""], rows)


def content(kinds: dict[str, Any]) -> str:
    return "".join(f"<p>{code(kind)}</p>{schema.body(one.get('schema', {}))}" for kind, one in kinds.items())


def answers(responses: dict[str, Any]) -> str:
    rows = []
    for status, one in responses.items():
        bodies = [f"{schema.type_of(body.get('schema', {}))} ({code(kind)})" for kind, body in one.get("content", {}).items()]
        headers = [
            f"<p>Header {code(name)}: {inline(header.get('description', ''))}</p>" for name, header in one.get("headers", {}).items()
        ]
        rows.append([code(status), "<br>".join(bodies), markdown(one.get("description")) + "".join(headers)])
    return table(["status", "body", ""], rows)
