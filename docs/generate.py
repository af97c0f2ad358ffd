"""Writes what of the prose follows from the code: `make docs`, or `python -m docs.generate`.

A Markdown file has places for it, each between two comments:

    <!-- begin operations secrets -->
    …
    <!-- end -->

What always holds: text outside such places is left alone, and running it twice changes nothing the second time.
`tests/docs/test_generated.py` fails if a file is not as this would write it.

On failure: `KeyError` for a place that nobody knows how to fill.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Final

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from pydantic.fields import FieldInfo

from wardmesh.contracts import ALL, PERMISSIONS, of_service
from wardmesh.contracts.operation import AnyContract, Credential, Durability, Level, ScopeKind
from wardmesh.errors import BY_CODE, TokenExpired, TokenRevoked, WardmeshError
from wardmesh.server.broker import BUCKETS, OWNED_STREAMS, PRIVATE_BUCKETS, stream_of_bucket
from wardmesh.server.settings import ServiceSettings
from wardmesh.server.streams import MIB, Choices, declared

ROOT: Final = Path(__file__).resolve().parent.parent
_PLACE: Final = re.compile(r"(<!-- begin (?P<what>[a-z]+)(?: (?P<of>[a-z]+))? -->\n).*?(<!-- end -->)", re.DOTALL)
_KINDS: Final = {"usr": "user", "agt": "agent", "svc": "service account"}
_SCOPES: Final = {ScopeKind.ORG: "organization", ScopeKind.WORKSPACE: "workspace"}
_RECORDED: Final = {
    Durability.IN_TRANSACTION: "with the change",
    Durability.BEFORE_ANSWER: "before the answer",
    Durability.QUEUED: "soon after",
    Durability.REFUSALS_ONLY: "refusals only",
}


def documents() -> list[Path]:
    """Return every Markdown file of the project."""
    folders = (ROOT, ROOT / "docs", ROOT / "docs" / "adr", *ROOT.glob("libs/*"), *ROOT.glob("services/*"))
    return sorted(file for folder in folders for file in folder.glob("*.md"))


def filled(text: str) -> str:
    """Return a document with every place in it filled anew."""

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}{_MAKERS[match['what']](match['of'] or '')}\n{match[4]}"

    return _PLACE.sub(fill, text)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _scopes(contract: AnyContract) -> str:
    return " or ".join(label for kind, label in _SCOPES.items() if kind in contract.scopes)


def operations(service: str) -> str:
    """The operations of a service, and what each asks for and leaves behind."""

    def row(contract: AnyContract) -> list[str]:
        if isinstance(contract.access, Credential):
            permission = "its own credential"
        else:
            permission = f"`{contract.access.name}`, from {contract.access.level.label}"
        return [
            f"`{contract.name}`",
            contract.summary,
            permission,
            _scopes(contract),
            f"`{contract.audit.action}`, {_RECORDED[contract.audit.durability]}",
        ]

    return _table(("operation", "what it does", "needs", "asked in", "recorded as"), map(row, of_service(service)))


def roles(_: str) -> str:
    """Who may do what: every operation by level and kind of principal."""
    levels = [level for level in Level if level is not Level.RESTRICTED]

    def row(contract: AnyContract) -> list[str]:
        access = contract.access
        name = f"`{contract.key}`"
        if isinstance(access, Credential):
            return [name, "none: it carries its own credential", *["yes"] * len(levels), "all", _scopes(contract)]
        held = ["yes" if level >= access.level else "" for level in levels]
        return [name, f"`{access.name}`", *held, kinds(access.kinds), _scopes(contract)]

    def kinds(prefixes: frozenset[str]) -> str:
        if prefixes == set(_KINDS):
            return "all"
        return ", ".join(label for prefix, label in _KINDS.items() if prefix in prefixes)

    head = ("operation", "permission", *(level.label for level in levels), "kinds", "asked in")
    return _table(head, map(row, ALL.values()))


def counts(_: str) -> str:
    """How much of it there is."""
    return f"{len(ALL)} operations, {len(PERMISSIONS)} permissions."


def decisions(_: str) -> str:
    """The decisions, by number."""
    files = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    titles = (file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for file in files)
    return "\n".join(f"- [{title}]({file.name})" for file, title in zip(files, titles, strict=True))


def errors(_: str) -> str:
    """Every error code of the wire; what a service adds of its own has one of these."""

    def sent_again(kind: type[WardmeshError]) -> str:
        if issubclass(kind, TokenExpired | TokenRevoked):
            return "once, with a new token"
        if not kind.retryable:
            return ""
        return "if twice amounts to once" if kind.executed else "yes"

    theirs = [kind for kind in BY_CODE.values() if kind.__module__ == WardmeshError.__module__]
    leaves = [kind for kind in theirs if not any(issubclass(other, kind) and other is not kind for other in theirs)]
    return _table(
        ("status", "code", "what to do", "the client sends it again"),
        (
            [str(kind.status), f"`{kind.code}`", kind.advice, sent_again(kind)]
            for kind in sorted(leaves, key=lambda kind: (kind.status, kind.code))
        ),
    )


def settings(service: str) -> str:
    """The environment variables of a service, or those that all five have."""
    kind = ServiceSettings if not service else import_module(f"wardmesh_{service}.settings").Settings
    inherited = frozenset(ServiceSettings.model_fields) if service else frozenset[str]()
    sentences = _sentences(kind)
    return _table(
        ("variable", "default", ""),
        (
            [f"`WARDMESH_{name.upper()}`", _default(field), sentences.get(name, "")]
            for name, field in kind.model_fields.items()
            if name not in inherited
        ),
    )


def streams(_: str) -> str:
    """Every stream and bucket: who reads it, what it keeps, and what happens when it is full."""
    owners = {stream: service for service, owned in OWNED_STREAMS.items() for stream in owned}
    owners |= {stream_of_bucket(bucket): f"all; {owner} writes" for bucket, owner in BUCKETS.items()}
    owners |= {stream_of_bucket(bucket): owner for bucket, owner in PRIVATE_BUCKETS.items()}

    def row(config: StreamConfig) -> list[str]:
        queue = config.retention is RetentionPolicy.WORK_QUEUE
        kept = _age(config.max_age) if config.max_age else "until acknowledged" if queue else "always"
        size = f"{config.max_bytes // MIB} MiB" if config.max_bytes and config.max_bytes > 0 else "any"
        full = "–" if size == "any" else "the oldest go" if config.discard is DiscardPolicy.OLD else "refuses"
        where = "memory" if config.storage is StorageType.MEMORY else "disk"
        subjects = ", ".join(f"`{subject}`" for subject in config.subjects or ())
        return [
            f"`{config.name}`",
            subjects,
            owners[str(config.name)],
            kept,
            size,
            full if size != "any" else "–",
            where,
        ]

    head = ("stream", "takes", "read by", "keeps", "up to", "when full", "in")
    return _table(head, map(row, declared(Choices()).values()))


def _age(seconds: float) -> str:
    return f"{seconds / 86_400:g} d" if seconds >= 86_400 else f"{seconds / 3_600:g} h"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "none"
    return f"`{field.default}`"


def _sentences(kind: type) -> Mapping[str, str]:
    """Return what stands under each field of a class, which Python itself forgets."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    return dict(_documented(definition.body)) if isinstance(definition, ast.ClassDef) else {}


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for statement, following in pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            yield statement.target.id, " ".join(str(following.value.value).split())


_MAKERS: Final[Mapping[str, Callable[[str], str]]] = {
    "counts": counts,
    "decisions": decisions,
    "errors": errors,
    "operations": operations,
    "roles": roles,
    "settings": settings,
    "streams": streams,
}


def main() -> None:
    """Fill the places of every document."""
    for document in documents():
        text = document.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            document.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
