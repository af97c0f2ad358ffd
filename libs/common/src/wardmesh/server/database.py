"""The database: a bounded pool, and transactions that belong to a tenant.

    async with database.transaction(tenant) as connection:
        await connection.execute("insert into secret (path) values ($1)", path)

What always holds: a statement runs inside a transaction whose settings came with its BEGIN, in one round trip; the
connection is clean again when the next one gets it, and that costs no round trip of its own (it goes with COMMIT).
A block that ends without an exception is durably committed when it has ended, unless it said `may_be_forgotten`. A
block in which a statement failed outside a savepoint is never reported as committed, even if the exception was
swallowed.

On failure: the errors of `wardmesh.server.database_errors`, nothing else of the driver's. When the server is away, a
call fails within `DatabaseLimits.acquire_seconds`, retryably; connections are made anew by whoever comes next, so
the pool heals by itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Self, TypeAlias, TypeVar

import asyncpg
from opentelemetry import trace

from wardmesh.errors import WardmeshError
from wardmesh.server.database_errors import (
    FROM_ASYNCPG,
    FROM_DRIVER,
    CommitUnknown,
    ConstraintConflict,
    DatabaseBusy,
    DatabaseDefect,
    DatabaseRefused,
    DatabaseUnavailable,
    translate,
)
from wardmesh.server.tenant import TenantContext, begin_as_relay, begin_as_tenant

__all__ = [
    "CommitUnknown",
    "Connection",
    "ConstraintConflict",
    "Database",
    "DatabaseBusy",
    "DatabaseDefect",
    "DatabaseLimits",
    "DatabaseRefused",
    "DatabaseUnavailable",
    "TenantContext",
]

# Deferred constraints are checked first, while the tenant's settings still stand. If the transaction has failed, the
# first statement of COMMIT raises, whereas a bare COMMIT would quietly roll back.
_CLEAN: Final = "RESET ROLE; RESET ALL; CLOSE ALL; UNLISTEN *; SELECT pg_advisory_unlock_all()"
_COMMIT: Final = f"SET CONSTRAINTS ALL IMMEDIATE; {_CLEAN}; COMMIT"
_COMMIT_SOON: Final = f"SET CONSTRAINTS ALL IMMEDIATE; {_CLEAN}; SET LOCAL synchronous_commit = off; COMMIT"
_ROLLBACK: Final = f"ROLLBACK; {_CLEAN}"
_ROLLBACK_SECONDS: Final = 2.0  # a connection that takes longer is dropped instead
_CLOSE_SECONDS: Final = 5.0
_OPEN_RETRY_SECONDS: Final = 0.2
_MILLISECONDS: Final = 1_000

_T = TypeVar("_T")
_Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
_Raw: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
_tracer = trace.get_tracer("wardmesh.server.database")


@dataclass(frozen=True, slots=True)
class DatabaseLimits:
    """Every wait is bounded; the sum stays below the 30 s that a call may take."""

    connections: int = 10
    """Of one process. Five services of two replicas each stay within PostgreSQL's default of 100."""
    acquire_seconds: float = 3.0
    statement_seconds: float = 10.0
    lock_seconds: float = 5.0
    transaction_seconds: float = 25.0

    def server_settings(self, application: str) -> dict[str, str]:
        """What every connection starts with, and RESET ALL returns to."""
        return {
            "application_name": application,
            "statement_timeout": str(round(self.statement_seconds * _MILLISECONDS)),
            "lock_timeout": str(round(self.lock_seconds * _MILLISECONDS)),
            "transaction_timeout": str(round(self.transaction_seconds * _MILLISECONDS)),
            "idle_in_transaction_session_timeout": str(round(self.transaction_seconds * _MILLISECONDS)),
            # Values of parameters stay out of the server's log also when a statement fails.
            "log_parameter_max_length_on_error": "0",
            "jit": "off",  # our statements are short; compiling them takes longer than running them
        }


BeforeCommit: TypeAlias = "Callable[[Connection], Awaitable[object]]"


class Connection:
    """A connection inside a transaction. Valid until the block ends, for one task at a time."""

    def __init__(
        self, raw: _Raw, tenant: TenantContext | None, before_commit: Iterable[BeforeCommit], *, read_only: bool
    ) -> None:
        self._raw = raw
        self._read_only = read_only
        self._commit_statement = _COMMIT
        self._failed = False
        self._ended = False
        self._savepoints = 0
        self._before_commit = list(before_commit)
        self._after_commit: list[Callable[[], object]] = []
        self.tenant = tenant
        """On whose behalf; none for a relay."""

    @property
    def raw(self) -> _Raw:
        """The driver's connection, for what is not wrapped here (COPY). Never BEGIN, COMMIT or SET on it."""
        return self._raw

    async def execute(self, statement: str, *values: object) -> str:
        """Run `statement` and return its command tag, as `UPDATE 1`."""
        return await self._run(self._raw.execute, statement, *values)

    async def executemany(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """Run `statement` once for each row, pipelined."""
        await self._run(self._raw.executemany, statement, rows)

    async def fetch(self, statement: str, *values: object) -> list[asyncpg.Record]:
        return await self._run(self._raw.fetch, statement, *values)

    async def fetchrow(self, statement: str, *values: object) -> asyncpg.Record | None:
        return await self._run(self._raw.fetchrow, statement, *values)

    async def fetchval(self, statement: str, *values: object) -> Any:
        """Return the first column of the first row, or None; its type is the statement's, so check or annotate it."""
        return await self._run(self._raw.fetchval, statement, *values)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Undo the block alone if it raises, so that the transaction can go on."""
        self._savepoints += 1
        name = f"s{self._savepoints}"
        await self.execute(f"SAVEPOINT {name}")
        try:
            yield
        except Exception:  # a cancellation ends the whole transaction anyway, and must not be delayed
            await self.execute(f"ROLLBACK TO SAVEPOINT {name}")
            self._failed = False
            raise
        await self.execute(f"RELEASE SAVEPOINT {name}")

    def may_be_forgotten(self) -> None:
        """Commit without waiting for the disk: for what is written again if a crash of the server takes it back."""
        self._commit_statement = _COMMIT_SOON

    def before_commit(self, hook: BeforeCommit) -> None:
        """Run `hook` in this transaction, last; if it raises, nothing is committed."""
        self._before_commit.append(hook)

    def after_commit(self, hook: Callable[[], object]) -> None:
        """Call `hook` once the transaction is durable. It MUST NOT raise: there is nothing left to undo."""
        self._after_commit.append(hook)

    async def _run(self, method: Callable[..., Awaitable[_T]], *arguments: object) -> _T:
        if self._ended:
            raise DatabaseDefect("the connection was used after its block had ended")
        try:
            return await method(*arguments)
        except FROM_DRIVER as error:
            self._failed = True
            raise _translate_on(self._raw, error) from None

    async def _commit(self) -> None:
        # A hook may add another: the audit gate runs after what the handler has registered, and so on.
        while self._before_commit:
            await self._before_commit.pop(0)(self)
        if self._failed:
            raise DatabaseDefect("a statement failed and the exception was swallowed; use a savepoint")
        try:
            await self._raw.execute(self._commit_statement)
        except FROM_DRIVER as error:
            translated = _translate_on(self._raw, error)
            in_doubt = isinstance(translated, DatabaseUnavailable) or isinstance(error, TimeoutError)
            if in_doubt and not self._read_only:  # what only read has nothing to be in doubt of
                raise CommitUnknown() from None
            raise translated from None
        for committed in self._after_commit:
            committed()


class Database:
    """A pool of connections of one service's role."""

    def __init__(self, dsn: str, *, application: str, limits: DatabaseLimits | None = None) -> None:
        self._dsn = dsn  # has the password: never shown
        self._application = application
        self._limits = limits or DatabaseLimits()
        self._pool: _Pool | None = None

    def __repr__(self) -> str:
        return f"Database(application={self._application!r})"

    async def open(self, *, wait_seconds: float = 30.0) -> Self:
        """Open the pool and wait until the database answers; `DatabaseUnavailable` if it does not in that time."""
        limits = self._limits
        self._pool = await asyncpg.create_pool(
            self._dsn,
            init_size=0,  # the server may come later than we do
            min_size=0,
            max_size=limits.connections,
            max_inactive_connection_lifetime=300,
            timeout=limits.acquire_seconds,
            # The client's bound is the wider one: it is for a server that has stopped answering.
            command_timeout=limits.statement_seconds + 2,
            server_settings=limits.server_settings(self._application),
            init=_set_codecs,
            reset=_nothing,  # done with COMMIT and ROLLBACK
        )
        deadline = monotonic() + wait_seconds
        while True:
            try:
                await self.ping()
            except (DatabaseUnavailable, DatabaseBusy):
                if monotonic() > deadline:
                    await self.close()
                    raise
                await asyncio.sleep(_OPEN_RETRY_SECONDS)
            else:
                return self

    async def close(self) -> None:
        """Close the pool: wait shortly for those who are at it, then cut them off."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ping(self) -> None:
        """Raise `DatabaseUnavailable` or `DatabaseBusy` unless the database answers."""
        async with self._begun("BEGIN READ ONLY", None, (), read_only=True):
            pass

    @asynccontextmanager
    async def transaction(
        self, tenant: TenantContext, *, read_only: bool = False, before_commit: Iterable[BeforeCommit] = ()
    ) -> AsyncIterator[Connection]:
        """Run the block in a transaction that sees the rows of `tenant`, and no others."""
        begin = begin_as_tenant(tenant, read_only=read_only)
        async with self._begun(begin, tenant, before_commit, read_only=read_only) as connection:
            yield connection

    @asynccontextmanager
    async def relay_transaction(self, role: str) -> AsyncIterator[Connection]:
        """Run the block as an outbox relay's role: all tenants' rows, of the outbox alone."""
        async with self._begun(begin_as_relay(role), None, ()) as connection:
            yield connection

    @asynccontextmanager
    async def _begun(
        self,
        begin: str,
        tenant: TenantContext | None,
        before_commit: Iterable[BeforeCommit],
        *,
        read_only: bool = False,
    ) -> AsyncIterator[Connection]:
        with _tracer.start_as_current_span(
            "postgresql.transaction",
            kind=trace.SpanKind.CLIENT,
            attributes={"db.system.name": "postgresql", "db.namespace": self._application},
        ):
            pool, raw = await self._acquire()
            connection = Connection(raw, tenant, before_commit, read_only=read_only)
            try:
                await connection.execute(begin)
                yield connection
                await connection._commit()
            except FROM_ASYNCPG as error:  # of a statement on `raw`
                translated = _translate_on(raw, error)
                await _roll_back(raw)
                raise translated from None
            except BaseException:
                await _roll_back(raw)
                raise
            finally:
                connection._ended = True
                await _release(pool, raw)

    async def _acquire(self) -> tuple[_Pool, _Raw]:
        if self._pool is None:
            raise DatabaseUnavailable("The database is not open.")
        try:
            return self._pool, await self._pool.acquire(timeout=self._limits.acquire_seconds)
        except FROM_DRIVER as error:
            raise translate(error) from None


async def _roll_back(raw: _Raw) -> None:
    """Leave a connection that is clean, or none."""
    if _is_gone(raw):
        return
    try:
        async with asyncio.timeout(_ROLLBACK_SECONDS):
            await raw.execute(_ROLLBACK)
    except FROM_DRIVER:
        _drop(raw)
    except BaseException:
        _drop(raw)
        raise


async def _release(pool: _Pool, raw: _Raw) -> None:
    try:
        await pool.release(raw)
    except FROM_DRIVER:
        _drop(raw)  # the outcome of the transaction is known by now; a lost connection does not change it


def _drop(raw: _Raw) -> None:
    with suppress(asyncpg.InterfaceError):
        raw.terminate()


def _is_gone(raw: _Raw) -> bool:
    """Whether the connection is lost; the pool takes a lost one back at once, and its proxy then refuses every call."""
    try:
        return raw.is_closed()
    except asyncpg.InterfaceError:
        return True


def _translate_on(raw: _Raw, error: Exception) -> WardmeshError:
    translated = translate(error)
    if isinstance(translated, DatabaseDefect) and translated.sqlstate is None and _is_gone(raw):
        return DatabaseUnavailable("The connection to the database broke.")
    return translated


async def _set_codecs(raw: asyncpg.Connection[asyncpg.Record]) -> None:
    await raw.set_type_codec("jsonb", schema="pg_catalog", encoder=_to_json, decoder=json.loads)


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


async def _nothing(_raw: object) -> None:
    pass
