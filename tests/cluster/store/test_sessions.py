"""A session is in one place, and of those who would move it one does."""

import asyncio

import pytest

from reelray.cluster.store.sessions import Sessions
from reelray.proto.errors import EpochError, InputError


def test_a_session_stays_where_it_was_opened(play):
    async def case(store):
        opened = await asyncio.gather(*(store.sessions.open("ann", "s", f"engine-{n}", {"n": n}) for n in range(20)))
        other = await store.sessions.open("bob", "s", "engine-x")
        return opened, other, await store.sessions.find("ann", "s"), await store.sessions.find("ann", "t")

    opened, other, found, unknown = play(case)
    assert set(map(repr, opened)) == {repr(found)}
    assert found.engine == f"engine-{found.data['n']}"
    assert other.engine == "engine-x"
    assert other.epoch != found.epoch
    assert unknown is None


def test_of_many_moves_one_wins(play):
    async def case(store):
        placed = await store.sessions.open("ann", "s", "engine-0", {"chunk": 4})
        moves = [store.sessions.move(placed, f"engine-{n}") for n in range(1, 21)]
        said = await asyncio.gather(*moves, return_exceptions=True)
        return placed, said, await store.sessions.find("ann", "s")

    placed, said, found = play(case)
    moved = [one for one in said if not isinstance(one, EpochError)]
    assert moved == [found]
    assert found.epoch > placed.epoch
    assert found.data == {"chunk": 4}
    assert {one.ids["epoch"] for one in said if isinstance(one, EpochError)} == {str(found.epoch)}


def test_a_move_may_be_repeated_after_a_lost_answer(play):
    async def case(store):
        placed = await store.sessions.open("ann", "s", "a")
        first = await store.sessions.move(placed, "b", {"chunk": 1})
        again = await store.sessions.move(placed, "b", {"chunk": 1})
        third = await store.sessions.move(await store.sessions.move(again, "c"), "b", {"chunk": 1})
        with pytest.raises(EpochError):  # the same place, but by another since
            await store.sessions.move(placed, "b", {"chunk": 1})
        return first, again, third, await store.sessions.find("ann", "s")

    first, again, third, found = play(case)
    assert first == again
    assert third == found


def test_a_session_made_anew_never_has_an_old_epoch(play):
    async def case(store):
        old = await store.sessions.open("ann", "s", "a")
        await store.sessions.close(old)
        await store.sessions.close(old)
        new = await store.sessions.open("ann", "s", "b")
        for call in (store.sessions.move(old, "c"), store.sessions.close(old)):
            with pytest.raises(EpochError, match=f"at epoch {new.epoch} now"):
                await call
        return old, new, await store.sessions.find("ann", "s")

    old, new, found = play(case)
    assert new.epoch > old.epoch
    assert found == new


def test_use_keeps_a_session_and_disuse_forgets_it(play):
    async def case(store):
        sessions = Sessions(store.connection, keep_s=0.6)
        placed = await sessions.open("ann", "s", "a")
        for _ in range(4):
            await asyncio.sleep(0.2)
            assert await sessions.find("ann", "s") == placed
        await asyncio.sleep(0.7)
        with pytest.raises(EpochError, match="not known"):
            await sessions.move(placed, "b")
        return await sessions.find("ann", "s")

    assert play(case) is None


def test_crafted_names_are_refused(play):
    async def case(store):
        for tenant, session in (("ann:x", "s"), ("ann", "x:s"), ("", "s"), ("ann", "..")):
            with pytest.raises(InputError):
                await store.sessions.open(tenant, session, "a")
            with pytest.raises(InputError):
                await store.sessions.find(tenant, session)

    play(case)


def test_looking_up_again_at_once_writes_nothing(play):
    async def case(store):
        await store.sessions.open("ann", "s", "a")
        key = store.connection.key("sess", "ann", "s")
        before = await store.connection.command("PEXPIRETIME", key)
        for _ in range(5):
            await store.sessions.find("ann", "s")
            await asyncio.sleep(0.01)
        return before, await store.connection.command("PEXPIRETIME", key)

    before, after = play(case)
    assert before == after


def test_epochs_go_on_growing_when_the_store_has_lost_its_data(play):
    async def case(store):
        old = await store.sessions.open("ann", "s", "a")
        old = await store.sessions.move(old, "b")
        await store.connection.command("FLUSHDB")
        new = await store.sessions.open("ann", "s", "c")
        with pytest.raises(EpochError):
            await store.sessions.move(old, "d")
        return old.epoch, new.epoch

    old, new = play(case)
    assert new > old
