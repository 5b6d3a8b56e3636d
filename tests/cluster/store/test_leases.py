"""A job has one worker at a time, and one that lost it changes nothing."""

import asyncio
from dataclasses import replace

import pytest

from reelray.cluster.store.job import JobState, NewJob
from reelray.proto.errors import InputError, LeaseLostError

WISH = NewJob(tenant="ann", spec={"frames": 17})


async def run_out(store, lease):
    """Let a lease be over, as if its time had passed."""
    await store.connection.command("ZADD", store.connection.key("leases"), "XX", 1, str(lease.ref))


def test_claims_go_by_priority_then_age(play):
    async def case(store):
        order = [0, 5, -100, 5, 100, 0]
        refs = [(await store.jobs.submit(replace(WISH, priority=p))).ref for p in order]
        claimed = [(await store.leases.claim("w", lease_s=9)).ref for _ in refs]
        assert await store.leases.claim("w", lease_s=9) is None
        return [refs.index(ref) for ref in claimed]

    assert play(case) == [4, 1, 3, 0, 5, 2]


def test_claims_look_into_their_queues_only(play):
    async def case(store):
        wishes = [replace(WISH, queue=queue, priority=n) for queue, n in (("a", 0), ("b", 1), ("c", 9), ("b", 2))]
        refs = [(await store.jobs.submit(wish)).ref for wish in wishes]
        return [refs.index((await store.leases.claim("w", lease_s=9, queues=q)).ref) for q in ("a", "ab", "ba", "c")]

    assert play(case) == [0, 3, 1, 2]


def test_a_named_job_is_claimed_if_it_waits(play):
    async def case(store):
        refs = [(await store.jobs.submit(WISH)).ref for _ in range(3)]
        got = await store.leases.claim("w", lease_s=9, job=refs[1])
        assert await store.leases.claim("w", lease_s=9, job=refs[1]) is None
        assert await store.leases.claim("w", lease_s=9, job=refs[2], queues=["other"]) is None
        return refs.index(got.ref), refs.index((await store.leases.claim("w", lease_s=9)).ref)

    assert play(case) == (1, 0)


def test_a_hundred_jobs_are_claimed_once_each(play):
    async def case(store):
        refs = {(await store.jobs.submit(WISH)).ref for _ in range(100)}
        claims = await asyncio.gather(*(store.leases.claim(f"w{n}", lease_s=60) for n in range(150)))
        return refs, [lease for lease in claims if lease]

    refs, leases = play(case)
    assert len(leases) == 100
    assert {lease.ref for lease in leases} == refs
    assert {lease.job.claims for lease in leases} == {1}


def test_a_lease_that_runs_out_goes_to_another_and_the_zombie_changes_nothing(play):
    async def case(store):
        ref = (await store.jobs.submit(WISH)).ref
        zombie = await store.leases.claim("zombie", lease_s=0.3)
        assert await store.leases.claim("early", lease_s=9) is None
        await asyncio.sleep(0.35)
        heir = await store.leases.claim("heir", lease_s=9)
        for call in (
            store.leases.renew(zombie),
            store.leases.release(zombie),
            store.leases.finish(zombie, {"file": "zombie.mp4"}),
            store.leases.fail(zombie, "zombie"),
            store.ledger.commit(zombie, 0, {"by": "zombie"}),
            store.events.post(zombie, "progress", {"by": "zombie"}),
        ):
            with pytest.raises(LeaseLostError) as lost:
                await call
            assert lost.value.ids == {"tenant": "ann", "job": ref.id, "fence": str(zombie.fence)}
        assert await store.ledger.commits(ref) == ()
        return zombie, heir, await store.jobs.get(ref)

    zombie, heir, job = play(case)
    assert heir.fence > zombie.fence
    assert (job.fence, job.claims, job.owner, job.state) == (heir.fence, 2, "heir", JobState.RUNNING)
    assert (job.attempts, job.error) == (2, "the lease of zombie ran out")


def test_a_zombie_changes_nothing_while_its_job_waits(play):
    async def case(store):
        ref = (await store.jobs.submit(WISH)).ref
        zombie = await store.leases.claim("zombie", lease_s=9)
        await run_out(store, zombie)
        await store.leases.sweep()
        for call in (store.leases.renew(zombie), store.leases.finish(zombie, {}), store.ledger.commit(zombie, 0, {})):
            with pytest.raises(LeaseLostError, match="queued"):
                await call
        return await store.jobs.get(ref)

    assert play(case).state is JobState.QUEUED


def test_renewals_keep_a_lease(play):
    async def case(store):
        await store.jobs.submit(WISH)
        lease = await store.leases.claim("w", lease_s=0.25)
        ends = []
        for _ in range(4):
            await asyncio.sleep(0.1)
            ends.append(await store.leases.renew(lease, lease_s=5))
            assert await store.leases.claim("other", lease_s=9) is None
        return lease, ends

    lease, ends = play(case)
    assert ends == sorted(ends)
    assert ends[0] >= lease.until_ms + 4750


def test_one_that_ran_out_is_renewed_if_nobody_came(play):
    async def case(store):
        await store.jobs.submit(WISH)
        lease = await store.leases.claim("w", lease_s=9)
        await run_out(store, lease)
        await store.leases.renew(lease)
        return await store.leases.claim("other", lease_s=9)

    assert play(case) is None


def test_a_zombie_of_a_claim_that_the_store_has_lost_changes_nothing(play):
    """A store with `everysec` forgets its last second: whoever claims next has another fence than the claim in it."""

    async def case(store):
        connection = store.connection
        ref = (await store.jobs.submit(WISH)).ref
        keys = [connection.key("job", ref), connection.key("ready", WISH.queue), connection.key("ev", ref)]
        before = [await connection.command("DUMP", key) for key in keys]
        zombie = await store.leases.claim("zombie", lease_s=9)
        await connection.command("ZREM", connection.key("leases"), str(ref))
        for key, data in zip(keys, before, strict=True):
            await connection.command("RESTORE", key, 0, data, "REPLACE")
        heir = await store.leases.claim("heir", lease_s=9)
        for call in (store.ledger.commit(zombie, 0, {}), store.leases.renew(zombie), store.leases.finish(zombie, {})):
            with pytest.raises(LeaseLostError):
                await call
        await store.leases.finish(heir, {})
        return zombie.fence, heir.fence, (await store.jobs.get(ref)).claims

    zombie, heir, claims = play(case)
    assert heir > zombie
    assert claims == 1


def test_release_gives_back_without_an_attempt(play):
    async def case(store):
        first, second = [(await store.jobs.submit(replace(WISH, max_attempts=1))).ref for _ in range(2)]
        for n in range(3):
            lease = await store.leases.claim("w", lease_s=9)
            assert (lease.ref, lease.job.claims, lease.job.attempts) == (first, n + 1, 1)
            await store.leases.release(lease)
            await store.leases.release(lease)  # as after an answer that was lost
        return await store.jobs.get(first), await store.jobs.get(second)

    first, second = play(case)
    assert (first.state, first.attempts, first.owner, second.state) == (JobState.QUEUED, 0, "", JobState.QUEUED)


def test_failures_end_a_job_when_no_attempt_is_left(play):
    async def case(store):
        ref = (await store.jobs.submit(replace(WISH, max_attempts=3))).ref
        said = []
        for n in range(3):
            lease = await store.leases.claim("w", lease_s=9)
            if n == 1:
                await run_out(store, lease)
                await store.leases.sweep()
            else:
                said += [await store.leases.fail(lease, f"broke {n}") for _ in range(2)]
        assert await store.leases.claim("w", lease_s=9) is None
        return said, await store.jobs.get(ref)

    said, job = play(case)
    assert said == [JobState.QUEUED, JobState.QUEUED, JobState.FAILED, JobState.FAILED]
    assert (job.state, job.error, job.attempts, job.owner) == (JobState.FAILED, "broke 2", 3, "")
    assert job.ended_ms >= job.started_ms >= job.created_ms


def test_commits_let_attempts_count_anew(play):
    async def case(store):
        ref = (await store.jobs.submit(replace(WISH, max_attempts=2))).ref
        for n in range(6):
            lease = await store.leases.claim("w", lease_s=9)
            assert lease.commits == n
            await store.ledger.commit(lease, n, {})
            await store.leases.fail(lease, "broke")
        return await store.jobs.get(ref)

    job = play(case)
    assert (job.state, job.claims) == (JobState.QUEUED, 6)


def test_what_gets_on_may_be_interrupted_any_number_of_times_even_with_one_attempt(play):
    async def case(store):
        ref = (await store.jobs.submit(replace(WISH, max_attempts=1))).ref
        for n in range(4):
            lease = await store.leases.claim("w", lease_s=0.001)
            await store.ledger.commit(lease, n, {})
            await asyncio.sleep(0.003)  # it is lost
        lease = await store.leases.claim("w", lease_s=9)
        await store.ledger.commit(lease, 9, {})
        await store.leases.release(lease)
        lease = await store.leases.claim("w", lease_s=0.001)
        attempts = lease.job.attempts
        await asyncio.sleep(0.003)
        await store.leases.sweep()
        return attempts, await store.jobs.get(ref)

    attempts, job = play(case)
    assert attempts == 1
    assert (job.state, job.claims) == (JobState.FAILED, 6)  # the last one came to nothing


def test_a_failure_for_good_is_not_tried_again(play):
    async def case(store):
        ref = (await store.jobs.submit(WISH)).ref
        await store.leases.fail(await store.leases.claim("w", lease_s=9), "no such model", retry=False)
        return await store.jobs.get(ref)

    job = play(case)
    assert (job.state, job.error) == (JobState.FAILED, "no such model")


def test_a_pause_before_the_next_attempt(play):
    async def case(store):
        ref = (await store.jobs.submit(WISH)).ref
        lease = await store.leases.claim("w", lease_s=9)
        await store.leases.fail(lease, "engine is away", retry_after_s=0.3)
        assert await store.leases.claim("w", lease_s=9) is None
        assert (await store.jobs.get(ref)).state is JobState.QUEUED
        await asyncio.sleep(0.35)
        return ref, await store.leases.claim("w", lease_s=9)

    ref, lease = play(case)
    assert (lease.ref, lease.job.claims) == (ref, 2)


def test_a_paused_job_can_be_cancelled(play):
    async def case(store):
        await store.jobs.submit(WISH)
        lease = await store.leases.claim("w", lease_s=9)
        await store.leases.fail(lease, "engine is away", retry_after_s=0.05)
        await store.jobs.cancel(lease.ref)
        await asyncio.sleep(0.1)
        assert await store.leases.claim("w", lease_s=9) is None
        return await store.jobs.get(lease.ref)

    assert play(case).state is JobState.CANCELLED


def test_jobs_that_were_deleted_by_hand_hold_nobody_up(play):
    async def case(store):
        jobs = [(await store.jobs.submit(WISH)).ref for _ in range(4)]
        await store.leases.claim("w", lease_s=0.001, job=jobs[0])
        paused = await store.leases.claim("w", lease_s=9, job=jobs[1])
        await store.leases.fail(paused, "broke", retry_after_s=0.001)
        await asyncio.sleep(0.005)
        for ref in jobs[:3]:
            await store.connection.command("DEL", store.connection.key("job", ref))
        lease = await store.leases.claim("w", lease_s=9)
        return lease.ref == jobs[3], await store.leases.claim("w", lease_s=9)

    assert play(case) == (True, None)


def test_finish_twice_is_as_once(play):
    async def case(store):
        await store.jobs.submit(WISH)
        lease = await store.leases.claim("w", lease_s=9)
        await store.leases.finish(lease, {"file": "a.mp4"})
        await store.leases.finish(lease, {"file": "b.mp4"})
        with pytest.raises(LeaseLostError, match="done"):
            await store.leases.fail(lease, "too late")
        return await store.jobs.get(lease.ref)

    job = play(case)
    assert (job.state, job.result) == (JobState.DONE, {"file": "a.mp4"})


@pytest.mark.parametrize("lease_s", [0, -1, float("nan"), 1e6])
def test_leases_out_of_range_are_refused(play, lease_s):
    async def case(store):
        with pytest.raises(InputError, match="lease"):
            await store.leases.claim("w", lease_s=lease_s)
        with pytest.raises(InputError, match="queue"):
            await store.leases.claim("w", lease_s=1, queues=[])

    play(case)
