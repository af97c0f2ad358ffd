"""What every `VaultStore` does: run on the fake, and on a real PostgreSQL through the service's own role."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wardmesh.contracts import secrets as contracts
from wardmesh.contracts.operation import Level
from wardmesh.ids import UserId
from wardmesh_secrets.domain import SealedVersion, StoredScopeKey, StoredSealingKey, covers, patterns_covering
from wardmesh_secrets.ports import VaultStore

SEALED = SealedVersion(1, b"wrapped", b"ciphertext")


def scope_key(now: datetime, generation: int = 1) -> StoredScopeKey:
    return StoredScopeKey(generation, "local:1", b"wrapped", now)


def sealing_key(now: datetime, key_id: str = "k1") -> StoredSealingKey:
    return StoredSealingKey(key_id, key_id.encode().ljust(32), "local:1", b"wrapped", now)


async def put(store: VaultStore, person: Any, path: str, now: datetime) -> int:
    async with store.transaction(person.ask()) as rows:
        await rows.add_scope_key(scope_key(now))
        version = await rows.next_version(path, now)
        await rows.add_version(path, version, SEALED, now)
    return version


async def paths(store: VaultStore, person: Any, **filters: Any) -> list[str]:
    query = {"prefix": "", "after": None, "limit": 500, "readable_by": None} | filters
    async with store.transaction(person.ask(), read_only=True) as rows:
        return [secret.path for secret in await rows.secrets(**query)]


async def test_an_empty_workspace(store: VaultStore, admin: Any) -> None:
    async with store.transaction(admin.ask(), read_only=True) as rows:
        assert await rows.present_sealing_key() is None
        assert await rows.sealing_key("k1") is None
        assert await rows.scope_key() is None
        assert await rows.version("a", None) is None
        assert await rows.grants(principal=None, limit=10) == []
        assert not await rows.holds_grant(admin.caller.principal, ["a"])


async def test_the_first_sealing_key_stays(store: VaultStore, admin: Any, now: datetime) -> None:
    for key_id in ("k1", "k2"):
        async with store.transaction(admin.ask()) as rows:
            await rows.add_sealing_key(sealing_key(now, key_id))
    async with store.transaction(admin.ask(), read_only=True) as rows:
        assert await rows.present_sealing_key() == sealing_key(now, "k1")
        assert await rows.sealing_key("k1") == sealing_key(now, "k1")
        assert await rows.sealing_key("k2") is None


async def test_replicas_that_begin_at_once_agree_on_keys(store: VaultStore, admin: Any, now: datetime) -> None:
    async def begin(number: int) -> tuple[Any, Any]:
        async with store.transaction(admin.ask()) as rows:
            await rows.add_sealing_key(sealing_key(now, f"k{number}"))
            await rows.add_scope_key(StoredScopeKey(1, "local:1", bytes([number]), now))
            return await rows.present_sealing_key(), await rows.scope_key()

    assert len(set(await asyncio.gather(*[begin(number) for number in range(5)]))) == 1


async def test_the_newest_scope_key_is_the_one(store: VaultStore, admin: Any, now: datetime) -> None:
    async with store.transaction(admin.ask()) as rows:
        await rows.add_scope_key(scope_key(now))
        await rows.add_scope_key(scope_key(now, 2))
        await rows.add_scope_key(StoredScopeKey(2, "local:1", b"too late", now))
        assert await rows.scope_key() == scope_key(now, 2)


async def test_versions(store: VaultStore, admin: Any, now: datetime) -> None:
    later = now + timedelta(seconds=5)
    assert await put(store, admin, "a/b", now) == 1
    assert await put(store, admin, "a/b", later) == 2
    async with store.transaction(admin.ask(), read_only=True) as rows:
        newest = await rows.version("a/b", None)
        assert newest is not None
        assert (newest.path, newest.version, newest.created_at) == ("a/b", 2, later)
        assert (newest.sealed, newest.scope_key) == (SEALED, scope_key(now))
        assert await rows.version("a/b", 2) == newest
        first = await rows.version("a/b", 1)
        assert first is not None
        assert first.version == 1
        assert await rows.version("a/b", 3) is None
        assert await rows.version("a", None) is None
        [secret] = await rows.secrets(prefix="", after=None, limit=10, readable_by=None)
        assert (secret.versions, secret.created_at, secret.updated_at) == (2, now, later)


async def test_writers_at_once_get_a_number_each(store: VaultStore, admin: Any, now: datetime) -> None:
    versions = await asyncio.gather(*[put(store, admin, "a", now) for _ in range(8)])
    assert sorted(versions) == list(range(1, 9))


async def test_nothing_of_a_block_that_raises(store: VaultStore, admin: Any, now: datetime) -> None:
    async def fail_at_the_end() -> None:
        async with store.transaction(admin.ask()) as rows:
            await rows.add_scope_key(scope_key(now))
            await rows.add_version("a", await rows.next_version("a", now), SEALED, now)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await fail_at_the_end()
    assert await paths(store, admin) == []
    assert await put(store, admin, "a", now) == 1


async def test_another_workspace_sees_and_touches_nothing(
    store: VaultStore, admin: Any, person: Callable[..., Any], now: datetime
) -> None:
    stranger = person(Level.OWNER)
    # One of the same organization is as much a stranger.
    neighbour = stranger.but(organization=admin.caller.organization)
    await put(store, admin, "a", now)
    async with store.transaction(admin.ask()) as rows:
        await rows.add_sealing_key(sealing_key(now))
        await rows.add_grant("a", stranger.caller.principal, now)
    for other in (stranger, neighbour):
        assert await paths(store, other) == []
        async with store.transaction(other.ask()) as rows:
            assert await rows.version("a", None) is None
            assert await rows.sealing_key("k1") is None
            assert await rows.scope_key() is None
            assert await rows.grants(principal=None, limit=10) == []
            assert not await rows.remove_grant("a", stranger.caller.principal)
        assert await put(store, other, "a", now) == 1
    async with store.transaction(admin.ask(), read_only=True) as rows:
        assert await rows.holds_grant(stranger.caller.principal, ["a"])


async def test_pages(store: VaultStore, admin: Any, now: datetime) -> None:
    for path in ("b", "a/c", "a", "a-b", "A", "a/b"):
        await put(store, admin, path, now)
    assert await paths(store, admin) == ["A", "a", "a-b", "a/b", "a/c", "b"]
    assert await paths(store, admin, prefix="a/") == ["a/b", "a/c"]
    assert await paths(store, admin, limit=2) == ["A", "a"]
    assert await paths(store, admin, after="a", limit=2) == ["a-b", "a/b"]
    assert await paths(store, admin, prefix="_") == []
    assert await paths(store, admin, prefix="%") == []


async def test_grants(store: VaultStore, admin: Any, person: Callable[..., Any], now: datetime) -> None:
    one, two = sorted([UserId.new(), UserId.new()])
    async with store.transaction(admin.ask(contracts.GRANT)) as rows:
        made = await rows.add_grant("a/*", one, now)
        assert (made.pattern, made.principal, made.granted_by) == ("a/*", one, admin.caller.principal)
        assert await rows.add_grant("a/*", one, now + timedelta(days=1)) == made
        await rows.add_grant("b", two, now)
        await rows.add_grant("a", two, now)
        found = await rows.grants(principal=None, limit=10)
        assert [(grant.principal, grant.pattern) for grant in found] == [(one, "a/*"), (two, "a"), (two, "b")]
        assert await rows.grants(principal=one, limit=10) == [made]
        assert len(await rows.grants(principal=None, limit=2)) == 2
        assert await rows.holds_grant(one, ["x", "a/*"])
        assert not await rows.holds_grant(one, ["a", "b"])
        assert not await rows.holds_grant(one, [])
        assert await rows.remove_grant("a/*", one)
        assert not await rows.remove_grant("a/*", one)
        assert not await rows.holds_grant(one, ["a/*"])


names = st.text("ab.", min_size=1, max_size=2)
some_paths = st.lists(names, min_size=1, max_size=3).map("/".join)
some_patterns = st.builds(lambda path, below: path + below, some_paths, st.sampled_from(["", "/*"]))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stored=st.sets(some_paths, min_size=1, max_size=6), granted=st.sets(some_patterns, min_size=1, max_size=3))
async def test_what_is_listed_is_what_grants_cover(
    store: VaultStore, person: Callable[..., Any], now: datetime, stored: set[str], granted: set[str]
) -> None:
    admin = person(Level.ADMIN)
    agent = person(Level.RESTRICTED, like=admin, permissions=["secret.read", "secret.list"])
    for path in stored:
        await put(store, admin, path, now)
    async with store.transaction(admin.ask()) as rows:
        for pattern in granted:
            await rows.add_grant(pattern, agent.caller.principal, now)
    readable = {path for path in stored if any(covers(pattern, path) for pattern in granted)}
    assert await paths(store, agent, readable_by=agent.caller.principal) == sorted(readable)
    async with store.transaction(agent.ask(), read_only=True) as rows:
        for path in stored:
            assert await rows.holds_grant(agent.caller.principal, patterns_covering(path)) == (path in readable)
