"""The OpenAPI page, made from the contracts: one path an operation, its models, and the errors that any of them has.

Pure. What always holds: an operation that has a contract is on the page, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from wardmesh.contracts.operation import AnyContract, Credential, Permission
from wardmesh.errors import PROBLEM_CONTENT_TYPE, Problem

REFERENCE: Final = "#/components/schemas/{model}"
JSON_TYPE: Final = "application/json"
_SCOPE_PARAMETER: Final = {
    "name": "scope",
    "in": "path",
    "required": True,
    "description": "An organization (org_…) or a workspace (ws_…): the one that the access token is for. `-` for "
    "operations that carry their own credential.",
    "schema": {"type": "string"},
}
_ERRORS: Final = {
    "400": "The body is not JSON, or wrong in another way than its form",
    "401": "Who asks is not established",
    "403": "It is established, and may not",
    "404": "No such operation, or nothing there for this caller",
    "409": "It conflicts with what is there",
    "413": "The body is over the operation's limit",
    "422": "The body does not fit the operation; `violations` names the fields",
    "429": "Too many requests; `Retry-After` says when to come back",
    "503": "Not available now; the same request may succeed later",
    "504": "The deadline has passed; the operation may have been carried out",
}


def document(contracts: Iterable[AnyContract], *, version: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the gateway."""
    contracts = list(contracts)
    names, components = _schemas(contracts)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "wardmesh",
            "version": version,
            "description": "Every operation of the mesh, over HTTP. The same as over NATS, through the same gates.",
        },
        "paths": {
            f"/v1/{{scope}}/{contract.service}/{contract.name}": {"post": _operation(contract, names)}
            for contract in contracts
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "responses": {
                status: {
                    "description": description,
                    "content": {PROBLEM_CONTENT_TYPE: {"schema": names[Problem, "serialization"]}},
                }
                for status, description in _ERRORS.items()
            },
        },
    }


def _schemas(contracts: list[AnyContract]) -> tuple[dict[Any, Any], dict[str, Any]]:
    requests = [(contract.request, "validation") for contract in contracts]
    responses = [(contract.response, "serialization") for contract in contracts]
    # pydantic's types for these pairs are its own; what matters is that each pair finds its reference.
    wanted: Any = list(dict.fromkeys([*requests, *responses, (Problem, "serialization")]))
    names, schema = models_json_schema(wanted, ref_template=REFERENCE)
    return names, schema["$defs"]


def _operation(contract: AnyContract, names: dict[Any, Any]) -> dict[str, Any]:
    carries_credential = isinstance(contract.access, Credential)
    return {
        "operationId": f"{contract.service}_{contract.name}",
        "summary": contract.summary,
        "description": _access(contract),
        "tags": [contract.service],
        "security": [] if carries_credential else [{"token": []}],
        "parameters": [_SCOPE_PARAMETER],
        "requestBody": {"required": True, "content": {JSON_TYPE: {"schema": names[contract.request, "validation"]}}},
        "responses": {
            "200": {
                "description": "Done",
                "content": {JSON_TYPE: {"schema": names[contract.response, "serialization"]}},
            },
            **{status: {"$ref": f"#/components/responses/{status}"} for status in _ERRORS},
        },
    }


def _access(contract: AnyContract) -> str:
    access = contract.access
    scopes = " or ".join(sorted(kind.name.lower() for kind in contract.scopes))
    if isinstance(access, Permission):
        return f"Needs the permission `{access.name}` (from level {access.level.label} on), in the scope of a {scopes}."
    return f"Needs no access token: {access.reason}."
