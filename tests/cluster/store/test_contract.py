"""Random operations give what a plain model of the contract gives.

The model below is written from the contract, not from the scripts: lists and dicts, no time. Where time matters, the
test lets a lease be over by hand, in the store and in the model.
"""

import random
from dataclasses import dataclass, field

import pytest

from reelray.cluster.store.job import NewJob
from reelray.cluster.store.limits import SubmitLimits
from reelray.proto.errors import ConflictError, LeaseLostError, QuotaError
from tests.support.store_check import check_store

TENANTS, QUEUES = ("ann", "bob"), ("small", "large")
OPEN_JOBS = 12


@dataclass
class ModelJob:
    tenant: str
    spec: dict
    queue: str
    priority: int
    max_attempts: int
    age: int
    state: str = "queued"
    fence: int = 0
    claims: int = 0
    attempts: int = 0
    commits: dict = field(default_factory=dict)
    events: list = field(default_factory=lambda: ["queued"])

    def turn(self, state):
        self.state = state
        self.events.append(state)

    def back(self):
        self.turn("failed" if self.attempts >= self.max_attempts else "queued")


class Model:
    """The contract."""

    def __init__(self):
        self.jobs, self.keys, self.over = {}, {}, []

    def submit(self, ref_of, wish):
        known = self.keys.get((wish.tenant, wish.key)) if wish.key else None
        if known:
            return ("same", known) if self.jobs[known].spec == wish.spec else ("conflict", known)
        if sum(j.tenant == wish.tenant and j.state in {"queued", "running"} for j in self.jobs.values()) >= OPEN_JOBS:
            return ("refused", None)
        name = ref_of()
        self.jobs[name] = ModelJob(
            wish.tenant, wish.spec, wish.queue, wish.priority, wish.max_attempts, age=len(self.jobs)
        )
        if wish.key:
            self.keys[wish.tenant, wish.key] = name
        return ("new", name)

    def catch_up(self):
        for name in self.over:
            if self.jobs[name].state == "running":
                self.jobs[name].back()
        self.over = []

    def claim(self, queues):
        self.catch_up()
        waiting = [(-j.priority, j.age, n) for n, j in self.jobs.items() if j.state == "queued" and j.queue in queues]
        if not waiting:
            return None
        name = min(waiting)[2]
        job = self.jobs[name]
        job.claims, job.attempts = job.claims + 1, job.attempts + 1
        job.turn("running")
        return name, job.claims, len(job.commits)

    def held(self, name, fence):
        return self.jobs[name].state == "running" and self.jobs[name].fence == fence


class Pair:
    """A store and the model, driven together; every answer of the store is held against the model's."""

    def __init__(self, store, rng):
        self.store, self.rng, self.model = store, rng, Model()
        self.leases, self.refs = [], {}

    async def submit(self):
        rng = self.rng
        wish = NewJob(
            tenant=rng.choice(TENANTS),
            spec={"n": rng.randrange(2)},
            key=rng.choice([None, *(f"k{n}" for n in range(6))]),
            queue=rng.choice(QUEUES),
            priority=rng.randrange(-1, 2),
            max_attempts=rng.randrange(1, 4),
        )
        try:
            made = await self.store.jobs.submit(wish, SubmitLimits(open_jobs=OPEN_JOBS))
            said = ("new" if made.fresh else "same", str(made.ref))
            self.refs[str(made.ref)] = made.ref
        except ConflictError as error:
            said = ("conflict", f"{error.ids['tenant']}:{error.ids['job']}")
        except QuotaError:
            said = ("refused", None)
        assert self.model.submit(lambda: said[1], wish) == said

    async def claim(self):
        queues = self.rng.sample(QUEUES, self.rng.randrange(1, 3))
        lease = await self.store.leases.claim("w", lease_s=3600, queues=queues)
        assert self.model.claim(queues) == (lease and (str(lease.ref), lease.job.claims, lease.commits))
        if lease:
            job = self.model.jobs[str(lease.ref)]
            assert lease.fence > job.fence
            job.fence = lease.fence
            self.leases.append(lease)

    async def fenced(self, call, change):
        """Do something with any lease ever given; the model does it only if that is held."""
        if not self.leases:
            return
        lease = self.rng.choice(self.leases[-8:])
        name, held = str(lease.ref), self.model.held(str(lease.ref), lease.fence)
        try:
            said = await call(lease)
        except LeaseLostError:
            assert not held
            return
        assert held
        change(self.model.jobs[name], said)
        if name in self.model.over and self.model.jobs[name].state != "running":
            self.model.over.remove(name)

    async def renew(self):
        def kept(job, _):
            self.model.over = [name for name in self.model.over if self.model.jobs[name] is not job]

        await self.fenced(self.store.leases.renew, kept)

    async def release(self):
        def given_back(job, _):
            job.attempts = max(0, job.attempts - 1)
            job.back()

        await self.fenced(self.release_once, given_back)

    async def release_once(self, lease):
        if await self.was_closed(lease):
            raise LeaseLostError("closed before")
        await self.store.leases.release(lease)

    async def was_closed(self, lease):
        """Whether this lease was given back or ended by its holder: the store then answers as it did the first time."""
        closed = await self.store.connection.command("HGET", self.store.connection.key("job", lease.ref), "closed")
        return closed is not None and closed.endswith(f":{lease.fence}".encode())

    async def finish(self):
        async def call(lease):
            if await self.was_closed(lease):
                raise LeaseLostError("closed before")
            await self.store.leases.finish(lease, {"by": lease.fence})

        await self.fenced(call, lambda job, _: job.turn("done"))

    async def fail(self):
        retry = self.rng.random() < 0.8

        async def call(lease):
            if await self.was_closed(lease):
                raise LeaseLostError("closed before")
            return await self.store.leases.fail(lease, "broke", retry=retry)

        def broke(job, said):
            job.back() if retry else job.turn("failed")
            assert said == job.state

        await self.fenced(call, broke)

    async def commit(self):
        unit = self.rng.randrange(4)

        def made(job, said):
            commit, fresh = said
            assert fresh == (unit not in job.commits)
            if fresh:
                job.commits[unit], job.attempts = commit.fence, 0
                job.events.append(str(unit))
            assert commit.fence == job.commits[unit]

        await self.fenced(lambda lease: self.store.ledger.commit(lease, unit, {"f": lease.fence}), made)

    async def cancel(self):
        if self.refs:
            name = self.rng.choice(list(self.refs))
            job = self.model.jobs[name]
            if job.state in {"queued", "running"}:
                job.turn("cancelled")
            assert (await self.store.jobs.cancel(self.refs[name])).state == job.state

    async def run_out(self):
        running = [name for name, job in self.model.jobs.items() if job.state == "running"]
        if running:
            name = self.rng.choice(running)
            connection = self.store.connection
            # The order of leases that are over is theirs; one at a time keeps the model simple.
            await connection.command("ZADD", connection.key("leases"), "XX", 1, name)
            self.model.over.append(name)

    async def compare(self):
        states = await check_store(self.store)
        assert {name: state for name, (state, *_) in states.items()} == {n: j.state for n, j in self.model.jobs.items()}
        for name, ref in self.refs.items():
            job, model = await self.store.jobs.get(ref), self.model.jobs[name]
            assert (job.state, job.fence, job.claims, job.attempts, job.spec) == (
                model.state,
                model.fence,
                model.claims,
                model.attempts,
                model.spec,
            )
            assert {c.unit: c.fence for c in await self.store.ledger.commits(ref)} == model.commits
            events, missed = await self.store.events.read(ref, limit=500)
            assert not missed
            assert [event.data for event in events] == model.events
        for tenant in TENANTS:
            listed = (await self.store.jobs.list(tenant, limit=200)).jobs
            own = [name for name, job in self.model.jobs.items() if job.tenant == tenant]
            assert [str(job.ref) for job in listed] == own[::-1]


WEIGHTS = {
    "submit": 6, "claim": 8, "renew": 3, "release": 2, "finish": 2, "fail": 3, "commit": 9, "cancel": 1, "run_out": 3,
}  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_random_operations_follow_the_contract(play, seed):
    async def case(store):
        rng = random.Random(seed)
        pair = Pair(store, rng)
        for name in rng.choices(list(WEIGHTS), WEIGHTS.values(), k=400):
            await getattr(pair, name)()
        await pair.compare()
        return {job.state for job in pair.model.jobs.values()}

    assert {"done", "failed"} <= play(case)
