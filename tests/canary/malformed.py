"""Requests that a contract refuses, made from one that it takes: a secret in every place where none belongs.

Pure. What always holds: whatever is returned is refused by the contract's model or its limit. What a model would take
(a name may be any text) is left out, because it is stored by design.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from pydantic import ValidationError
from tests.canary.pouch import among_hard_characters

from wardmesh.contracts.operation import AnyContract

Path = tuple[str | int, ...]
OVER_LONG_TIMES: Final = 300
"""Repetitions that make any text field too long (`SecretText` takes 4096 characters)."""


def variations(contract: AnyContract, taken: dict[str, Any], core: str, field: str) -> Iterator[tuple[str, bytes]]:
    """Yield descriptions and bodies that carry the secret `core`; one has a field that is called `field`."""
    for how, body in _bodies(contract, taken, core, field):
        if len(body) > contract.max_body_bytes or _is_refused(contract, body):
            yield how, body


def _bodies(contract: AnyContract, taken: dict[str, Any], core: str, field: str) -> Iterator[tuple[str, bytes]]:
    text = among_hard_characters(core)
    wrong: dict[str, Any] = {
        "text": text,
        "a list": [text],
        "an object": {"value": text},
        "over-long text": text * OVER_LONG_TIMES,
    }
    for path in _paths(taken):
        for what, value in wrong.items():
            yield f"{what} at {path}", _json(_put(taken, path, partial(_instead, value)))
        yield f"an unknown field at {path}", _json(_put(taken, path, partial(_with, "unknown", text)))
    yield "the name of an unknown field", _json({**taken, field: 1})
    for what, value in wrong.items():
        yield f"{what} instead of an object", _json(value)
    whole = _json({"unknown": text, **taken})
    yield "JSON that is cut off inside the secret", whole[: whole.index(core.encode()) + len(core) - 1]
    yield "JSON that is cut off behind it", whole[: whole.index(core.encode()) + len(core)]
    yield "two documents", whole + whole
    yield "no JSON", text.encode()
    yield "a form", f"password={core}&token={core}".encode()
    yield "JSON in UTF-16", whole.decode().encode("utf-16")
    yield "bytes that are no UTF-8", b'{"password": "\xff' + core.encode() + b'\xff"}'
    yield "text with a zero byte", _json({"unknown": f"{core}\x00{core}"})
    yield "a number that is none", b'{"password": 1e' + core.encode() + b"}"
    yield "too deep", b"[" * 5_000 + _json(text) + b"]" * 5_000
    yield "too long", _json({"unknown": core * (contract.max_body_bytes // len(core) + 1)})


def _paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every value in a document, the document itself first."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield from _paths(value[0], (*path, 0))


def _put(document: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(document)
    changed = copy.copy(document)
    changed[path[0]] = _put(document[path[0]], path[1:], change)
    return changed


def _instead(new: Any, _old: Any) -> Any:
    return new


def _with(name: str, text: str, old: Any) -> Any:
    return {**old, name: text} if isinstance(old, dict) else {name: text}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _is_refused(contract: AnyContract, body: bytes) -> bool:
    try:
        contract.request.model_validate_json(body)
    except ValidationError:
        return True
    return False
