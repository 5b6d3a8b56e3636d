"""Jobs are submitted once, belong to their tenant, and end for good."""

import asyncio
from dataclasses import replace

import pytest

from reelray.cluster.store.job import JobState, NewJob
from reelray.cluster.store.names import JobRef
from reelray.proto.errors import ConflictError, InputError, LeaseLostError, UnknownJobError

WISH = NewJob(tenant="ann", spec={"prompt": "a red circle", "frames": 17}, key="my key: {x} é\n")


def test_a_job_is_kept_as_submitted(play):
    async def case(store):
        made = await store.jobs.submit(replace(WISH, priority=7, queue="wan2.1-t2v", max_attempts=3))
        return made, await store.jobs.get(made.ref)

    made, job = play(case)
    assert made.fresh
    assert (job.ref, job.spec, job.state) == (made.ref, WISH.spec, JobState.QUEUED)
    assert (job.priority, job.queue, job.max_attempts, job.fence, job.attempts) == (7, "wan2.1-t2v", 3, 0, 0)
    assert (job.owner, job.error, job.result, job.started_ms, job.ended_ms) == ("", "", None, None, None)
    assert job.events == 1


def test_a_key_makes_one_job(play):
    async def case(store):
        made = await asyncio.gather(*(store.jobs.submit(WISH) for _ in range(50)))
        reordered = replace(WISH, spec=dict(reversed(WISH.spec.items())))
        again = await store.jobs.submit(reordered)
        other = await store.jobs.submit(replace(WISH, tenant="bob"))
        with pytest.raises(ConflictError) as conflict:
            await store.jobs.submit(replace(WISH, spec={"prompt": "a blue circle"}))
        listed = await store.jobs.list("ann")
        return made, again, other, conflict.value, listed

    made, again, other, conflict, listed = play(case)
    assert sum(one.fresh for one in made) == 1
    assert {one.ref for one in made} == {again.ref}
    assert not again.fresh
    assert other.fresh
    assert other.ref.id != again.ref.id
    assert conflict.ids == {"tenant": "ann", "job": again.ref.id}
    assert [job.ref for job in listed.jobs] == [again.ref]


def test_jobs_without_a_key_are_many(play):
    async def case(store):
        return {(await store.jobs.submit(replace(WISH, key=None))).ref for _ in range(5)}

    assert len(play(case)) == 5


def test_a_tenant_sees_no_job_of_another(play):
    async def case(store):
        made = await store.jobs.submit(WISH)
        stranger = JobRef(tenant="bob", id=made.ref.id)
        for call in (store.jobs.get, store.jobs.cancel):
            with pytest.raises(UnknownJobError):
                await call(stranger)
        assert await store.leases.claim("w", lease_s=9, job=stranger) is None
        assert await store.ledger.commits(stranger) == ()
        assert await store.events.read(stranger) == ((), False)
        assert (await store.jobs.list("bob")).jobs == ()
        return (await store.jobs.get(made.ref)).state

    assert play(case) is JobState.QUEUED


CRAFTED = [
    "",
    "ann:x",
    "../ann",
    "a..b",
    ".a",
    "a.",
    "a/b",
    "a b",
    "a\n",
    "a\0",
    "{a}",
    "*",
    "é",
    "a" * 65,
    "-a",
    "a:b:c",
]


@pytest.mark.parametrize("name", CRAFTED)
def test_names_that_could_reach_elsewhere_are_refused(name):
    with pytest.raises(InputError, match="allowed are"):
        JobRef(tenant="ann", id=name)
    with pytest.raises(InputError, match="allowed are"):
        JobRef(tenant=name, id="a")
    with pytest.raises(InputError, match="allowed are"):
        NewJob(tenant="ann", spec={}, queue=name)


def test_names_in_use_are_allowed():
    for name in ("a", "0", "wan2.1-t2v", "A_b-c.d", "f" * 64):
        assert str(JobRef(tenant=name, id=name)) == f"{name}:{name}"


@pytest.mark.parametrize("spec", [{"a": float("nan")}, {"a": object()}, {"a": "x" * (1 << 20)}, {"a": {1, 2}}])
def test_specs_that_are_not_json_or_too_large_are_refused(play, spec):
    async def case(store):
        with pytest.raises(InputError):
            await store.jobs.submit(replace(WISH, spec=spec))
        return await store.jobs.list("ann")

    assert play(case).jobs == ()


@pytest.mark.parametrize("change", [{"priority": 101}, {"max_attempts": 0}, {"retention_s": 0}, {"tenant": "a:b"}])
def test_wishes_out_of_range_are_refused(change):
    with pytest.raises(InputError):
        replace(WISH, **change)


def test_pages_go_through_all_jobs_newest_first(play):
    async def case(store):
        made = [(await store.jobs.submit(replace(WISH, key=str(n)))).ref for n in range(23)]
        await store.jobs.submit(replace(WISH, tenant="bob"))
        seen, cursor = [], ""
        while True:
            page = await store.jobs.list("ann", cursor=cursor, limit=5)
            seen += [job.ref for job in page.jobs]
            if not seen[5:]:
                await store.jobs.submit(replace(WISH, key="newer, while pages are turned"))
            cursor = page.cursor
            if not cursor:
                return made, seen

    made, seen = play(case)
    assert seen == made[::-1]


def test_pages_of_large_jobs_end_early_and_miss_none(play):
    async def case(store):
        made = [
            (await store.jobs.submit(replace(WISH, key=None, spec={"n": n, "x": "y" * 10**6}))).ref for n in range(12)
        ]
        page, pages = await store.jobs.list("ann"), []
        while page.cursor:
            pages.append(page.jobs)
            page = await store.jobs.list("ann", cursor=page.cursor)
        pages.append(page.jobs)
        return made, pages

    made, pages = play(case)
    assert [job.ref for page in pages for job in page] == made[::-1]
    assert max(map(len, pages)) == 5


@pytest.mark.parametrize("text", ["\udcff", "a\ud800b", "\x00", "é"])
def test_any_text_may_be_a_key_an_owner_or_a_reason(play, text):
    async def case(store):
        first, again = [await store.jobs.submit(replace(WISH, key=text)) for _ in range(2)]
        other = await store.jobs.submit(replace(WISH, key=text + "'"))
        lease = await store.leases.claim(text, lease_s=9)
        await store.leases.fail(lease, f"no such file: {text}", retry=False)
        return first.ref == again.ref, first.ref != other.ref, (await store.jobs.get(first.ref)).error

    same, parted, error = play(case)
    assert same
    assert parted
    assert error.startswith("no such file: ")


def test_a_submit_whose_answer_was_lost_is_still_new(play):
    async def case(store):
        evaluate, lost = store.connection._call, []

        async def losing(*command):
            said = await evaluate(*command)
            if not lost:
                lost.append(said)
                raise ConnectionError("the line broke after the server had answered")
            return said

        await store.jobs.submit(WISH)  # the script is known
        store.connection._call = losing
        first = await store.jobs.submit(replace(WISH, key="k"))
        return bool(lost), first.fresh, (await store.jobs.submit(replace(WISH, key="k"))).fresh

    assert play(case) == (True, True, False)


def test_pages_by_state(play):
    async def case(store):
        refs = [(await store.jobs.submit(replace(WISH, key=str(n)))).ref for n in range(6)]
        lease = await store.leases.claim("w", lease_s=9)
        await store.jobs.cancel(refs[3])
        states = {state: await store.jobs.list("ann", state=state) for state in JobState}
        return refs, lease.ref, {state: [job.ref for job in page.jobs] for state, page in states.items()}

    refs, claimed, states = play(case)
    assert claimed == refs[0]
    assert states == {
        JobState.QUEUED: [refs[5], refs[4], refs[2], refs[1]],
        JobState.RUNNING: [refs[0]],
        JobState.CANCELLED: [refs[3]],
        JobState.DONE: [],
        JobState.FAILED: [],
    }


@pytest.mark.parametrize("cursor", ["x", "-1", "+inf", "(1", "1 2", "9" * 17, "²"])
def test_a_cursor_that_is_none_is_refused(play, cursor):
    async def case(store):
        with pytest.raises(InputError, match="cursor"):
            await store.jobs.list("ann", cursor=cursor)

    play(case)


def test_cancel_ends_a_waiting_job_and_a_running_one(play):
    async def case(store):
        running = (await store.jobs.submit(WISH)).ref
        lease = await store.leases.claim("w", lease_s=9)
        waiting = (await store.jobs.submit(replace(WISH, key="2"))).ref
        first = [await store.jobs.cancel(ref, "by ann") for ref in (running, waiting)]
        with pytest.raises(LeaseLostError, match="cancelled"):
            await store.leases.renew(lease)
        with pytest.raises(LeaseLostError):
            await store.ledger.commit(lease, 0, {})
        assert await store.leases.claim("w", lease_s=9) is None
        return first, [await store.jobs.cancel(ref, "again") for ref in (running, waiting)]

    first, again = play(case)
    assert [(job.state, job.error) for job in first] == [(JobState.CANCELLED, "by ann")] * 2
    assert again == first


def test_a_job_that_is_done_cannot_be_cancelled(play):
    async def case(store):
        ref = (await store.jobs.submit(WISH)).ref
        await store.leases.finish(await store.leases.claim("w", lease_s=9), {"file": "a.mp4"})
        return await store.jobs.cancel(ref)

    job = play(case)
    assert (job.state, job.result, job.error) == (JobState.DONE, {"file": "a.mp4"}, "")


def test_what_has_ended_is_forgotten_in_time_and_leaves_nothing(play, address):
    async def case(store):
        brief = replace(WISH, retention_s=0.4)
        ref = (await store.jobs.submit(brief)).ref
        lease = await store.leases.claim("w", lease_s=9)
        await store.ledger.commit(lease, 0, {"at": "x"})
        await store.leases.finish(lease, {})
        assert not (await store.jobs.submit(brief)).fresh
        await asyncio.sleep(0.5)
        with pytest.raises(UnknownJobError):
            await store.jobs.get(ref)
        assert (await store.jobs.list("ann")).jobs == ()
        await store.leases.sweep()
        left = await store.connection.command("KEYS", f"*{address.prefix}*")
        return left, await store.jobs.submit(brief)

    left, again = play(case)
    assert [key.split(b":", 1)[1] for key in left] == [b"seq"]
    assert again.fresh


def test_a_job_that_goes_on_is_not_forgotten(play):
    async def case(store):
        ref = (await store.jobs.submit(replace(WISH, retention_s=0.05))).ref
        await asyncio.sleep(0.15)
        await store.leases.sweep()
        return await store.jobs.get(ref)

    assert play(case).state is JobState.QUEUED
