"""The API's document (OpenAPI 3.1), written from its routes: what is not in it is no part of the API."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cxrnode import __version__
from cxrnode.web.view import View

_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def document(views: Sequence[View]) -> dict[str, Any]:
    """The document of these routes."""
    paths: dict[str, dict[str, Any]] = {}
    for view in views:
        paths.setdefault(view.path, {})[view.method.lower()] = _operation(view)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cxrnode",
            "version": __version__,
            "description": "What the node read, said and sent. Research software, not a medical device.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "`cxrnode users token NAME`"},
                "session": {"type": "apiKey", "in": "cookie", "name": "cxrnode_session"},
            },
        },
    }


def _operation(view: View) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "integer"}}
        for name in re.findall(r"\{(\w+)\}", view.path)
    ]
    parameters += [{"name": name, "in": "query", "schema": dict(schema)} for name, schema in view.query.items()]
    answer = {"type": "object", "required": sorted(view.answer), "properties": dict(view.answer)}
    responses: dict[str, Any] = {
        "200": {"description": view.summary, "content": {"application/json": {"schema": answer}}}
    }
    if view.method == "GET":
        responses["304"] = {"description": "It is as If-None-Match says"}
        responses["200"]["headers"] = {"ETag": {"schema": {"type": "string"}}}
    errors = {"401": "Not logged in", "403": "Not for this role", "409": "It cannot be done", "503": "Not now"}
    if "{" in view.path:
        errors["404"] = "There is none"
    for status, said in errors.items():
        if view.role is not None or status not in ("401", "403"):
            schema = {"$ref": "#/components/schemas/Error"}
            responses[status] = {"description": said, "content": {"application/json": {"schema": schema}}}
    name = (view.page.__doc__ or "").strip()
    found: dict[str, Any] = {
        "operationId": view.page.__name__,
        "summary": view.summary,
        "description": name,
        "responses": responses,
        "security": [{"token": []}, {"session": []}] if view.role is not None else [],
    }
    if view.role is not None:
        found["x-role"] = view.role.word
    if parameters:
        found["parameters"] = parameters
    if view.body:
        required = [key for key, schema in view.body.items() if schema.get("minLength")]
        fields: dict[str, Any] = {"type": "object", "properties": {key: dict(one) for key, one in view.body.items()}}
        if required:
            fields["required"] = required
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": fields}}}
    return found
