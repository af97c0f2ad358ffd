"""Policies, holds and pruning: the contract of their ports, on the fakes and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import count

import pytest
from fake_log import FakeLog
from fake_retention import FakeRetention
from keeper import Keeper, Outbox, reader
from makers import Person, candidates, event, make_person

from wardmesh.audit_pruning import ACTION, read_announcement
from wardmesh.contracts.audit import (
    HOLDS,
    LIFT_HOLD,
    MAX_HOLDS,
    PLACE_HOLD,
    PRUNINGS,
    RETENTION,
    SetRetention,
)
from wardmesh.contracts.operation import Category, Level
from wardmesh.crypto.merkle import leaf_hash, root_of
from wardmesh.ids import OrgId, ServiceId, WorkspaceId
from wardmesh.server.database_errors import DatabaseDefect, DatabaseRefused
from wardmesh_audit.errors import LogDamaged, NoSuchHold, TooManyHolds
from wardmesh_audit.keeping import DROPPED, FOR_EVER, NEVER, kept_to
from wardmesh_audit.pruner import Pruner
from wardmesh_audit.store import PostgresStore
from wardmesh_audit.store_retention import PostgresRetention

MONTHS = count()
TOOL = Category.TOOL_CALL


@pytest.fixture(params=["fake", "postgresql"])
def keeper(request: pytest.FixtureRequest) -> Keeper:
    if request.param == "fake":
        log = FakeLog()
        return Keeper(log, FakeRetention(log), None)
    outbox = Outbox()
    database = request.getfixturevalue("database")
    return Keeper(PostgresStore(database), PostgresRetention(database, outbox), outbox)


@pytest.fixture
def owner() -> Person:
    return make_person(level=Level.OWNER)


@pytest.fixture
def long_ago() -> datetime:
    """The fifteenth of a month that no other test uses, so that its partition has this test's entries alone."""
    number = next(MONTHS)
    return datetime(2020 + number // 6, 2 * (number % 6) + 1, 15, 12, tzinfo=UTC)


def now() -> datetime:
    return datetime.now(UTC)


def pruner(keeper: Keeper) -> Pruner:
    return Pruner(keeper.retention, now)


async def prune_all(keeper: Keeper) -> None:
    """Prune until nothing moves, sealing what is announced in between."""
    for _ in range(20):
        moved = await pruner(keeper).round()
        sealed = await keeper.relay()
        if not (moved or sealed):
            return
    raise AssertionError("pruning does not end")


class TestKeeping:
    def test_an_entry_is_kept_for_its_days_and_to_the_end_of_the_month(self) -> None:
        received = datetime(2026, 1, 31, 23, 30, tzinfo=UTC)

        def kept(category: Category, days: int | None, closed_to: date = NEVER) -> date:
            policy = {} if days is None else {category: days}
            return kept_to(event(category=category), "secrets", received, policy, closed_to)

        assert kept(TOOL, None) == FOR_EVER
        assert kept(TOOL, 1) == date(2026, 3, 1)
        assert kept(TOOL, 334) == date(2027, 1, 1)
        assert kept(TOOL, 1, date(2026, 3, 1)) == date(2026, 4, 1)
        assert kept(TOOL, 1, date(2026, 12, 1)) == date(2027, 1, 1)
        # The floor, whatever the policy came to say.
        assert kept(Category.AUTHENTICATION, 1) == date(2026, 6, 1)

    def test_what_the_log_says_of_pruning_is_kept_for_ever(self) -> None:
        policy = {Category.ADMINISTRATION: 90}
        said = event(category=Category.ADMINISTRATION, action=ACTION, actor=ServiceId.nil())
        theirs = event(category=Category.ADMINISTRATION, action=ACTION)
        assert kept_to(said, "audit", now(), policy, NEVER) == FOR_EVER
        assert kept_to(said, "bridge", now(), policy, NEVER) != FOR_EVER
        assert kept_to(theirs, "audit", now(), policy, NEVER) != FOR_EVER

    @pytest.mark.parametrize("category", list(Category))
    def test_no_policy_is_below_the_floor(self, category: Category) -> None:
        security = category not in {Category.TOOL_CALL, Category.MODEL_USAGE, Category.ACTION_EXECUTION,
                                    Category.DATA_SYNC, Category.WEBHOOK}  # fmt: skip
        if security:
            with pytest.raises(ValueError, match="90 days at least"):
                SetRetention(category=category, days=89)
        else:
            SetRetention(category=category, days=1)
        SetRetention(category=category, days=90)
        SetRetention(category=category)


async def test_a_policy_is_for_every_category_and_is_remembered(keeper: Keeper, owner: Person) -> None:
    unset = await keeper.retention.policy(owner.ask(RETENTION))
    assert {each.category for each in unset.categories} == set(Category)
    assert {each.days for each in unset.categories} == {None}
    assert unset.changed_by is None
    await keeper.keep(owner, {TOOL: 30, Category.AUTHENTICATION: 365})
    await keeper.keep(owner, {TOOL: 31, Category.AUTHENTICATION: None})
    policy = await keeper.retention.policy(owner.ask(RETENTION))
    assert {each.category: each.days for each in policy.categories if each.days} == {TOOL: 31}
    assert policy.changed_by == owner.caller.principal
    assert (await keeper.retention.policy(make_person().ask(RETENTION))).changed_by is None


async def test_policies_that_are_set_at_once_are_all_in_force(keeper: Keeper, owner: Person) -> None:
    await asyncio.gather(*(keeper.keep(owner, {category: 100}) for category in Category))
    policy = await keeper.retention.policy(owner.ask(RETENTION))
    assert {each.days for each in policy.categories} == {100}


async def test_what_is_set_later_is_for_what_is_sealed_later(keeper: Keeper, owner: Person, long_ago: datetime) -> None:
    scope = owner.scope
    await keeper.seal(scope, event(category=TOOL), at=long_ago)
    await keeper.keep(owner, {TOOL: 400})
    await keeper.seal(scope, event(category=TOOL), event(category=Category.WEBHOOK), at=long_ago)
    await keeper.keep(owner, {TOOL: 30})
    await keeper.seal(scope, event(category=TOOL), at=long_ago)
    kept = await keeper.log.kept(reader(owner), start=0, end=10)
    later, sooner = (kept_to(event(category=TOOL), "secrets", long_ago, {TOOL: days}, NEVER) for days in (400, 30))
    assert [(run.first, run.last, run.kept_to) for run in kept.runs] == [(1, 1, later), (3, 3, sooner)]
    assert kept.pruned() == set()


async def test_a_year_that_no_clock_should_say_is_kept_for_ever(keeper: Keeper, owner: Person) -> None:
    """A broker whose clock is far off must not fill the catalog, nor stop the sealing."""
    await keeper.keep(owner, {TOOL: 30})
    for at in (datetime(1970, 1, 1, tzinfo=UTC), datetime(2300, 1, 1, tzinfo=UTC)):
        await keeper.seal(owner.scope, event(category=TOOL), at=at)
    assert await keeper.readable(owner) == [0, 1]
    if isinstance(keeper.log, PostgresStore):
        assert (await keeper.log.kept(reader(owner), start=0, end=2)).runs == ()


async def test_pruning_from_end_to_end(keeper: Keeper, owner: Person, long_ago: datetime) -> None:
    scope = owner.scope
    await keeper.keep(owner, {TOOL: 30})
    for _ in range(3):
        await keeper.seal(scope, *[event(category=TOOL) for _ in range(4)], event(), at=long_ago)
    before = await keeper.leaves(owner)
    await keeper.seal(scope, event(category=TOOL), at=now())
    gone = {index for index in range(15) if index % 5 != 4}

    assert await pruner(keeper).round()
    assert len(await keeper.readable(owner)) == 16, "it was announced, and the log does not say so yet"
    (pruning,) = await keeper.retention.prunings(owner.ask(PRUNINGS), 10)
    assert not pruning.pruned
    assert (pruning.first, pruning.last, pruning.entries) == (0, 13, 12)
    await pruner(keeper).round()
    assert len(await keeper.readable(owner)) == 16

    await prune_all(keeper)
    assert set(await keeper.readable(owner)) == set(range(17)) - gone
    (pruning,) = await keeper.retention.prunings(owner.ask(PRUNINGS), 10)
    assert pruning.pruned
    kept = await keeper.log.kept(reader(owner), start=0, end=17)
    assert kept.pruned() == gone

    said = read_announcement((await keeper.leaves(owner))[-1].leaf, 16)
    assert said is not None
    assert (said.first, said.last, said.entries, said.digest) == (0, 13, 12, pruning.digest.hex())
    # The tree is what it was: every hash, also of what is gone.
    hashes = [leaf_hash(stored.leaf) for stored in before]
    hashes += [leaf_hash(stored.leaf) for stored in (await keeper.leaves(owner))[-2:]]
    assert (await keeper.log.head(reader(owner))).root == root_of(hashes)


async def test_an_event_that_was_pruned_does_not_come_again(keeper: Keeper, owner: Person, long_ago: datetime) -> None:
    once = event(category=TOOL)
    await keeper.keep(owner, {TOOL: 30})
    await keeper.seal(owner.scope, once, at=long_ago)
    await prune_all(keeper)
    await keeper.seal(owner.scope, once, at=now())
    assert await keeper.readable(owner) == [1]  # what the log says of pruning


async def test_what_comes_late_is_not_sealed_into_a_closed_month(
    keeper: Keeper, owner: Person, long_ago: datetime
) -> None:
    await keeper.keep(owner, {TOOL: 30})
    await keeper.seal(owner.scope, event(category=TOOL), at=long_ago)
    assert await pruner(keeper).round()
    await keeper.seal(owner.scope, event(category=TOOL), at=long_ago)
    await prune_all(keeper)
    first, second = await keeper.retention.prunings(owner.ask(PRUNINGS), 10)
    assert (first.entries, second.entries) == (1, 1)
    assert first.kept_to > second.kept_to
    assert await keeper.readable(owner) == [2, 3]


async def test_a_hold_stops_it_and_lifting_lets_it_go_on(
    keeper: Keeper, owner: Person, person: Callable[..., Person], long_ago: datetime
) -> None:
    other = person(level=Level.OWNER)
    for each in (owner, other):
        await keeper.keep(each, {TOOL: 30})
        await keeper.seal(each.scope, event(category=TOOL), at=long_ago)
    hold = await keeper.hold(owner)
    await prune_all(keeper)
    assert await keeper.readable(owner) == [0]
    assert await keeper.retention.prunings(owner.ask(PRUNINGS), 10) == []
    # Another scope's entries in the same partition are gone for their readers, although they lie there.
    assert await keeper.readable(other) == [1]

    again = await keeper.hold(owner)
    await keeper.retention.lift_hold(owner.ask(LIFT_HOLD), hold.number, "over")
    await prune_all(keeper)
    assert await keeper.readable(owner) == [0]
    await keeper.retention.lift_hold(owner.ask(LIFT_HOLD), again.number, "over")
    await prune_all(keeper)
    assert await keeper.readable(owner) == [1]


async def test_a_hold_between_announcing_and_pruning_keeps_everything(
    keeper: Keeper, owner: Person, long_ago: datetime
) -> None:
    await keeper.keep(owner, {TOOL: 30})
    await keeper.seal(owner.scope, event(category=TOOL), at=long_ago)
    assert await pruner(keeper).round()
    await keeper.relay()
    hold = await keeper.hold(owner)
    (pruning,) = await keeper.retention.prunings(owner.ask(PRUNINGS), 10)
    with pytest.raises(DatabaseRefused):
        await keeper.retention.prune(owner.scope, pruning.kept_to)
    await prune_all(keeper)
    assert await keeper.readable(owner) == [0, 1]
    await keeper.retention.lift_hold(owner.ask(LIFT_HOLD), hold.number, "over")
    await prune_all(keeper)
    assert await keeper.readable(owner) == [1]


async def test_holds_are_numbered_listed_and_bounded(keeper: Keeper, owner: Person) -> None:
    placed = [await keeper.hold(owner) for _ in range(3)]
    assert [hold.number for hold in placed] == [1, 2, 3]
    lifted = await keeper.retention.lift_hold(owner.ask(LIFT_HOLD), 2, "over")
    assert (lifted.lifted_by, lifted.lifted_because, lifted.reason) == (owner.caller.principal, "over", "a lawsuit")
    again = await keeper.retention.lift_hold(owner.ask(LIFT_HOLD), 2, "twice")
    assert again.lifted_because == "over"
    assert [hold.number for hold in await keeper.retention.holds(owner.ask(HOLDS), 10)] == [3, 1, 2]
    with pytest.raises(NoSuchHold):
        await keeper.retention.lift_hold(owner.ask(LIFT_HOLD), 4, "none")
    with pytest.raises(NoSuchHold):
        await keeper.retention.lift_hold(make_person(level=Level.OWNER).ask(LIFT_HOLD), 1, "somebody else's")
    for _ in range(MAX_HOLDS - 2):
        await keeper.hold(owner)
    with pytest.raises(TooManyHolds):
        await keeper.retention.place_hold(owner.ask(PLACE_HOLD), "one more")


async def test_two_pruners_at_once_announce_once(keeper: Keeper, owner: Person, long_ago: datetime) -> None:
    await keeper.keep(owner, {TOOL: 30})
    await keeper.seal(owner.scope, *[event(category=TOOL) for _ in range(20)], at=long_ago)
    for _ in range(6):
        await asyncio.gather(*(pruner(keeper).round() for _ in range(4)))
        await keeper.relay()
    (pruning,) = await keeper.retention.prunings(owner.ask(PRUNINGS), 10)
    assert pruning.pruned
    assert await keeper.readable(owner) == [20]


async def test_a_crash_after_any_step_is_gone_on_from(keeper: Keeper, owner: Person, long_ago: datetime) -> None:
    """Every step by itself, as a process does that dies after it, and then everything anew."""
    store, scope = keeper.retention, owner.scope
    await keeper.keep(owner, {TOOL: 30})
    await keeper.seal(scope, event(category=TOOL), at=long_ago)
    day = kept_to(event(category=TOOL), "secrets", long_ago, {TOOL: 30}, NEVER)
    assert await store.close(scope, day) == 1
    assert await store.close(scope, day) == 1
    with pytest.raises(DatabaseRefused):
        await store.prune(scope, day)  # nothing says so
    await pruner(keeper).round()
    with pytest.raises(DatabaseRefused):
        await store.prune(scope, day)  # the log does not say so yet
    await keeper.relay()
    await store.prune(scope, day)
    await store.prune(scope, day)
    assert await keeper.readable(owner) == [1]
    await prune_all(keeper)
    assert [each.kept_to for each in await store.prunings(owner.ask(PRUNINGS), 10)] == [day]


async def test_what_nobody_was_told_of_does_not_end(keeper: Keeper, owner: Person, long_ago: datetime) -> None:
    await keeper.keep(owner, {TOOL: 30})
    await keeper.log.seal(owner.scope, candidates(owner.scope, event(category=TOOL), received_at=long_ago))
    await pruner(keeper).round()
    assert await keeper.retention.prunings(owner.ask(PRUNINGS), 10) == []
    await keeper._published(owner.scope)
    await prune_all(keeper)
    assert await keeper.readable(owner) == [1]


@pytest.mark.parametrize("off", [timedelta(hours=2), -timedelta(hours=2), timedelta(days=40_000)])
async def test_clocks_that_differ_prune_nothing(
    keeper: Keeper, owner: Person, long_ago: datetime, off: timedelta
) -> None:
    await keeper.keep(owner, {TOOL: 30})
    await keeper.seal(owner.scope, event(category=TOOL), at=long_ago)
    with pytest.raises(DatabaseDefect):
        await keeper.retention.prunable(now() + off, 10)
    with pytest.raises(DatabaseDefect):
        await keeper.retention.drop(now() + off, event(action=DROPPED))
    assert not await Pruner(keeper.retention, lambda: now() + off).round()
    assert await keeper.readable(owner) == [0]


async def test_a_month_whose_end_has_not_come_cannot_be_closed(keeper: Keeper, owner: Person) -> None:
    await keeper.keep(owner, {TOOL: 30})
    await keeper.seal(owner.scope, event(category=TOOL), at=now())
    with pytest.raises(DatabaseRefused):
        await keeper.retention.close(owner.scope, date(now().year + 1, 1, 1))
    await prune_all(keeper)
    assert await keeper.readable(owner) == [0]


async def test_what_was_dropped_is_told_in_the_meshs_own_log(keeper: Keeper, owner: Person, long_ago: datetime) -> None:
    await keeper.keep(owner, {TOOL: 30})
    await keeper.seal(owner.scope, event(category=TOOL), at=long_ago)
    day = kept_to(event(category=TOOL), "secrets", long_ago, {TOOL: 30}, NEVER)
    await pruner(keeper).round()
    await keeper.relay()
    assert await pruner(keeper).round()
    told = [said for scope, said in await keeper.relay() if scope == OrgId.nil()]
    assert [(said.action, said.targets) for said in told] == [(DROPPED, (f"entries_{day:%Y_%m}",))]


async def test_scopes_are_pruned_apart(keeper: Keeper, person: Callable[..., Person], long_ago: datetime) -> None:
    """A workspace and an organization, whose logs are in the same partitions."""
    everybody = [person(WorkspaceId.new(), Level.OWNER), person(OrgId.new(), Level.OWNER)]
    for each in everybody:
        await keeper.keep(each, {TOOL: 30})
        await keeper.seal(each.scope, event(category=TOOL), event(), at=long_ago)
    await prune_all(keeper)
    for each in everybody:
        assert await keeper.readable(each) == [1, 2]
        assert len(await keeper.retention.prunings(each.ask(PRUNINGS), 10)) == 1


async def test_a_tampered_entry_does_not_end(owner: Person, long_ago: datetime) -> None:
    """It is evidence, and nobody could tell afterwards."""
    log = FakeLog()
    keeper = Keeper(log, FakeRetention(log), None)
    await keeper.keep(owner, {TOOL: 30})
    await keeper.seal(owner.scope, event(category=TOOL), event(category=TOOL), at=long_ago)
    log.rows[owner.scope].entries[1] = b"{}"
    assert not await pruner(keeper).round()
    assert await keeper.readable(owner) == [0, 1]
    with pytest.raises(LogDamaged):
        await pruner(keeper)._announce(owner.scope, log.rows[owner.scope].kept[1])
