"""A small real cluster and the simulator decide the same for the same trace, to the moment.

Real are the coordinator, the store, the desk, the worker with its commits, and the gateway with its callers. Only time
stands still until a test lets it pass, and the engine's steps end when the trace's costs say so.
"""

import asyncio
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from reelray.cluster.coordinator import visit
from reelray.cluster.coordinator.coordinator import SERVICE_POLICY, Coordinator
from reelray.cluster.coordinator.desk import Desk
from reelray.cluster.coordinator.local_line import LocalLine
from reelray.cluster.coordinator.messages import Begin, MakeRoom, Turned
from reelray.cluster.coordinator.render_line import RenderLine
from reelray.cluster.gateway.archive import Archive
from reelray.cluster.gateway.served_models import ServedModel, ServedModels
from reelray.cluster.gateway.server import GatewayServer
from reelray.cluster.renders import orders
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.attempt import Surroundings
from reelray.cluster.renders.commit_pace import CommitRule
from reelray.cluster.renders.orders import RenderOrders
from reelray.cluster.renders.worker import RenderWorker
from reelray.cluster.store.connection import Connection
from reelray.cluster.store.open import Store
from reelray.proto.v1 import videos_pb2, videos_pb2_grpc
from reelray.scheduler.fleet.engine_state import EngineFacts
from reelray.scheduler.fleet.ticket import EngineId, Service, TenantId
from reelray.scheduler.simulation.arrival import Arrival, Cost, Shape
from reelray.scheduler.simulation.simulation import SimulatedFleet, Simulation
from tests.support.coordinating import SECONDS, KnownCosts, ManualClock
from tests.support.fake_engine import RECIPE, fake_entry
from tests.support.gateway import connect
from tests.support.render_calls import Caller, video
from tests.support.scripted_engine import ScriptedEngine
from tests.support.waiting import wait_until

STEPS, LANES = 10, 2
MODEL = "fake"


def at(at_s, frames, *, person=False, **rest):
    service = Service.INTERACTIVE if person else Service.BATCH
    tenant = TenantId(rest.pop("tenant", "ann"))
    return Arrival(at_s=at_s, shape=Shape(model=MODEL, frames=frames), service=service, tenant=tenant, **rest)


TRACE = (
    at(0.0, 81),
    at(1.25, 81),
    at(2.5, 49, tenant="bob"),
    at(12.125, 17, person=True),  # stops a render
    at(13.25, 49, person=True, within_s=12.0),  # cannot be
    at(20.375, 17, person=True, within_s=90.0),
    at(21.5, 17, priority=3),
    at(23.625, 17, tenant="bob"),
    at(34.75, 49, person=True, tenant="eve"),
    at(36.875, 17, person=True, priority=4),
    at(90.125, 81, tenant="eve"),
    at(92.5, 17, person=True),
)


class LoggedSimulation(Simulation):
    """Writes down what is decided: when, what, about whom."""

    def __init__(self, *args):
        self.log = []
        super().__init__(*args)

    def note(self, what, request_id):
        self.log.append((self.now, what, int(request_id[1:])))

    def _happen(self, happening):
        count = len(self.records)
        super()._happen(happening)
        if self.records[count].refused is not None:
            self.note("Turned", f"r{count}")

    def _begin(self, placed):
        self.note("Begin", placed.request_id)
        super()._begin(placed)

    def _stop_later(self, preempt):
        self.note("MakeRoom", preempt.request_id)
        super()._stop_later(preempt)

    def _refuse(self, refused):
        self.note("Turned", refused.request_id)
        super()._refuse(refused)


def simulate(trace, policy):
    facts = EngineFacts(engine_id=EngineId("e"), model=MODEL, gpus=LANES, memory_bytes=1 << 62)
    simulation = LoggedSimulation(
        SimulatedFleet(engines=(facts,), policy=policy),
        lambda shape: Cost(seconds={1: SECONDS[shape.frames]}, memory_bytes=1, step_s=SECONDS[shape.frames] / STEPS),
    )
    simulation.run(trace)
    ends = {n: record.finish_s for n, record in enumerate(simulation.records) if record.finish_s is not None}
    return simulation.log, ends


class Cluster:
    """The real one, on a loop in a thread; `play` lets a trace happen."""

    def __init__(self, shelf, policy):
        self.clock, self.engine = ManualClock(), ScriptedEngine(LANES)
        self.shelf, self.policy = shelf, policy
        self.loop = asyncio.new_event_loop()
        self.log, self.ends, self.names = [], {}, {}
        self.due = {}

    def do(self, awaitable):
        return asyncio.run_coroutine_threadsafe(awaitable, self.loop).result(30)

    async def open(self):
        recipe = replace(RECIPE, schedule=replace(RECIPE.schedule, steps=STEPS))
        models = ServedModels([ServedModel(fake_entry(path=Path("/models/fake"), recipe=recipe), lambda: self.engine)])
        self.connection = Connection(self.shelf.address)
        store, costs = Store.over(self.connection), KnownCosts()
        archive = Archive(store=store, artifacts=Artifacts(self.shelf.files))
        self.renders = RenderLine(store, costs)
        self.coordinator = Coordinator(costs, self.clock, policy=self.policy)
        self.desk = LoggedDesk(self, "house", models, clock=self.clock.now)
        never = CommitRule(every_s=1e9, share=None)
        around = Surroundings(store=store, artifacts=archive.artifacts, rule=never, clock=self.clock.now)
        self.orders = RenderOrders(self.desk, RenderWorker(list(models), around), self.clock.now)
        self.desk.carry_renders(self.orders)
        self.line = LocalLine(self.coordinator, self.desk)
        self.server = await GatewayServer(models, "127.0.0.1:0", None, archive, desk=self.desk).start()

    async def close(self):
        await self.orders.close()
        await self.server.stop(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.connection.close()

    async def look(self):
        await self.renders.look(self.coordinator)

    def placed(self):
        return {str(name) for name, known in list(self.coordinator._known.items()) if known.placed is not None}

    def is_settled(self):
        """Whether what has a place, and nothing else, is at work on its next step."""
        runs = list(self.engine.running.values())
        if any(not run.waits for run in runs):
            return False
        at_work = {self.names.get(run.request.prompt) for run in runs}
        if None in at_work or at_work != {self.numbers.get(name) for name in self.placed()}:
            return False
        for run in runs:
            number = self.names[run.request.prompt]
            if self.due.get(number, (None, 0))[0] is not run:
                self.due[number] = (run, self.clock.now() + SECONDS[run.request.frames] / STEPS)
        return True

    def settle(self):
        wait_until(lambda: self.do(_call(self.is_settled)), pause_s=0.005)

    def play(self, trace, channel):
        self.caller, self.stub = Caller(channel), videos_pb2_grpc.VideosStub(channel)
        self.numbers = {}
        coming = list(enumerate(trace))
        while coming or self.placed():
            steps = {number: due for number, (run, due) in self.due.items() if run in self.engine.running.values()}
            first = min([*steps.values(), *(arrival.at_s for _, arrival in coming[:1])])
            self.do(_call(partial(self.clock.go_to, first)))
            for number in [number for number, due in steps.items() if due == first]:
                self.end_step(number)
            if coming and coming[0][1].at_s == first:
                self.arrive(*coming.pop(0))
            self.settle()

    def end_step(self, number):
        run = self.due.pop(number)[0]
        self.due[number] = (run, self.clock.now() + SECONDS[run.request.frames] / STEPS)
        is_last = run.done == STEPS - 1
        if is_last:
            self.ends[number] = self.clock.now()
        run.step()
        wait_until(lambda: run.waits or run.request.request_id not in self.engine.running, pause_s=0.002)
        name = next(name for name, one in self.numbers.items() if one == number)
        if is_last:
            wait_until(lambda: name not in self.coordinator._known, pause_s=0.002)

    def arrive(self, number, arrival):
        self.names[f"r{number}"] = number
        spec = video(prompt=f"r{number}", frames=arrival.shape.frames, seed=number)
        options = {"tenant": arrival.tenant, "priority": arrival.priority}
        if arrival.service is Service.BATCH:
            render = self.caller.submit(video_spec=spec, **options)
            self.numbers[f"{arrival.tenant}:{render.id}"] = number
            self.do(self.look())
            return
        if arrival.within_s is not None:
            options["deadline"] = Timestamp()
            options["deadline"].FromNanoseconds(time.time_ns() + round(1e9 * arrival.within_s))
        call = self.stub.Generate(videos_pb2.GenerateRequest(video=spec, options=options))
        try:
            self.numbers[next(call).accepted.request_id] = number
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            self.log.append((self.clock.now(), "Turned", number))
            return
        threading.Thread(target=lambda: list(call), daemon=True).start()


class LoggedDesk(Desk):
    def __init__(self, cluster, *args, **rest):
        self._cluster = cluster
        super().__init__(*args, **rest)

    def hear(self, word):
        if isinstance(word.decision, Begin | MakeRoom | Turned):
            cluster = self._cluster
            cluster.log.append((cluster.clock.now(), type(word.decision).__name__, word.decision.request_id))
        super().hear(word)


async def _call(action):
    return action()


@contextmanager
def cluster_on(shelf, policy):
    cluster = Cluster(shelf, policy)
    thread = threading.Thread(target=cluster.loop.run_forever, daemon=True)
    thread.start()
    cluster.do(cluster.open())
    try:
        yield cluster
    finally:
        cluster.engine.close()
        cluster.do(cluster.close())
        cluster.loop.call_soon_threadsafe(cluster.loop.stop)
        thread.join(10)
        cluster.loop.close()


def numbered(log, numbers):
    """The log with the trace's numbers; who was turned away as it came has none, and was written down by its caller."""
    told = [(when, what, who if isinstance(who, int) else numbers.get(who)) for when, what, who in log]
    return sorted((when, who, what) for when, what, who in told if who is not None)


@pytest.mark.parametrize("preempts", [True, False])
def test_the_same_trace_gives_the_same_decisions(shelf, monkeypatch, preempts):
    monkeypatch.setattr(visit, "TELL_S", 1e9)
    monkeypatch.setattr(orders, "TELL_S", 1e9)
    policy = replace(SERVICE_POLICY, preempts=preempts)
    expected, ends = simulate(TRACE, policy)
    assert ("MakeRoom" in {what for _, what, _ in expected}) is preempts
    assert "Turned" in {what for _, what, _ in expected}
    with cluster_on(shelf, policy) as cluster, connect(f"127.0.0.1:{cluster.server.port}") as channel:
        cluster.play(TRACE, channel)
        log, made = numbered(cluster.log, cluster.numbers), cluster.engine.made
    wanted = sorted((when, who, what) for when, what, who in expected)
    assert [(who, what) for _, who, what in log] == [(who, what) for _, who, what in wanted]
    assert [when for when, *_ in log] == pytest.approx([when for when, *_ in wanted])
    assert cluster.ends == pytest.approx(ends)
    steps = {}
    for prompt, first, last in made:
        assert steps.get(prompt, 0) == first  # nothing is made twice
        steps[prompt] = last
    assert steps == {f"r{number}": STEPS for number in ends}
