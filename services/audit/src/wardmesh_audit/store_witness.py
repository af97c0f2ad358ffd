"""Cosignatures in PostgreSQL: those of our logs that witnesses gave, and how far we have cosigned others'.

What always holds: lines are only ever added; what we have cosigned moves forward only, whatever is asked for here
(migrations/0009_witnesses.sql).

On failure: the errors of `wardmesh.server.database_errors`; a transaction that failed has left nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Final

from wardmesh.crypto.checkpoint import Checkpoint
from wardmesh.crypto.merkle import EMPTY_ROOT
from wardmesh.crypto.note import Signature
from wardmesh.crypto.vkey import KeyIdentity
from wardmesh.ids import Scope
from wardmesh.server.context import Call
from wardmesh.server.database import Database
from wardmesh_audit.behalf import the_log
from wardmesh_audit.witness_ports import Reached
from wardmesh_audit.witness_rules import Latest

_LINES: Final = """
    select c.witness, c.key_id, c.signature
      from unnest($4::text[], $5::bytea[]) as wanted (witness, key_id)
      join audit.cosignatures c on c.scope_id = $1 and c.witness = wanted.witness and c.key_id = wanted.key_id
                               and c.size = $2 and c.text_hash = $3
"""
# One look at the end of the key for each: of a log that is cosigned every minute there are half a million rows a year.
_REACHED: Final = """
    select wanted.witness, wanted.key_id, latest.size, latest.time
      from unnest($2::text[], $3::bytea[]) as wanted (witness, key_id)
     cross join lateral (
           select c.size, c.time from audit.cosignatures c
            where c.scope_id = $1 and c.witness = wanted.witness and c.key_id = wanted.key_id
            order by c.size desc limit 1) as latest
"""
_KEEP: Final = """
    insert into audit.cosignatures (scope_id, size, text_hash, witness, key_id, signature, time)
    select $1, $2, $3, witness, key_id, signature, time
      from unnest($4::text[], $5::bytea[], $6::bytea[], $7::bigint[]) as given (witness, key_id, signature, time)
        on conflict do nothing
"""
_FIRST: Final = """
    insert into audit.witnessed (scope_id, origin, root) values (app.scope_id(), $1, $2) on conflict do nothing
"""
_LATEST: Final = """
    select size, root from audit.witnessed where scope_id = app.scope_id() and origin = $1 for update
"""
_ADVANCE: Final = """
    update audit.witnessed set size = $2, root = $3, note = $4, cosigned_at = now()
     where scope_id = app.scope_id() and origin = $1
"""


class PostgresCosignatures:
    """The port `CosignatureStore` on a real database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lines(self, scope: Scope, checkpoint: Checkpoint, keys: Sequence[KeyIdentity]) -> Sequence[Signature]:
        async with self._database.transaction(the_log(scope), read_only=True) as connection:
            rows = await connection.fetch(_LINES, scope, checkpoint.size, _hash(checkpoint), *_columns(keys))
        return [Signature(row["witness"], row["key_id"], row["signature"]) for row in rows]

    async def reached(self, scope: Scope, keys: Sequence[KeyIdentity]) -> Mapping[KeyIdentity, Reached]:
        async with self._database.transaction(the_log(scope), read_only=True) as connection:
            rows = await connection.fetch(_REACHED, scope, *_columns(keys))
        return {(row["witness"], row["key_id"]): Reached(row["size"], row["time"]) for row in rows}

    async def keep(self, scope: Scope, checkpoint: Checkpoint, lines: Mapping[Signature, int]) -> None:
        given = list(lines)
        async with self._database.transaction(the_log(scope)) as connection:
            await connection.execute(
                _KEEP,
                scope,
                checkpoint.size,
                _hash(checkpoint),
                *_columns([line.identity for line in given]),
                [line.signature for line in given],
                [lines[line] for line in given],
            )


class PostgresWitnessed:
    """The port `WitnessedStore` on a real database: a row's lock orders who asks about one log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def advance(self, call: Call, checkpoint: Checkpoint, note: str, allow: Callable[[Latest], None]) -> None:
        async with call.transaction(self._database) as connection:
            await connection.execute(_FIRST, checkpoint.origin, EMPTY_ROOT)
            row = await connection.fetchrow(_LATEST, checkpoint.origin)
            allow(Latest() if row is None else Latest(row["size"], row["root"]))
            await connection.execute(_ADVANCE, checkpoint.origin, checkpoint.size, checkpoint.root, note)


def _hash(checkpoint: Checkpoint) -> bytes:
    return sha256(checkpoint.text().encode()).digest()


def _columns(keys: Sequence[KeyIdentity]) -> tuple[list[str], list[bytes]]:
    return [name for name, _ in keys], [key_id for _, key_id in keys]
