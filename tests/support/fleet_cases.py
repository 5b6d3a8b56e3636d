"""Tickets and engines with few words."""

from reelray.proto.request import RequestId
from reelray.scheduler.fleet.decision import Placed
from reelray.scheduler.fleet.engine_state import EngineFacts
from reelray.scheduler.fleet.fleet import Fleet
from reelray.scheduler.fleet.policy import FleetPolicy
from reelray.scheduler.fleet.ticket import EngineId, Kind, Service, SessionId, TenantId, Ticket

GIB = 2**30


def a_ticket(name, seconds=10.0, *, tenant="t", interactive=False, stream=False, gib=1.0, session=None, **rest):
    """Of one model; `seconds` may be a table by GPUs."""
    return Ticket(
        request_id=RequestId(str(name)),
        model="m",
        seconds=seconds if isinstance(seconds, dict) else {1: seconds},
        tenant=TenantId(tenant),
        service=Service.INTERACTIVE if interactive else Service.BATCH,
        kind=Kind.STREAM if stream else Kind.RENDER,
        memory_bytes=int(gib * GIB),
        session=None if session is None else SessionId(session),
        **rest,
    )


def an_engine(name, gpus=1, *, gib=100.0, model="m"):
    return EngineFacts(engine_id=EngineId(str(name)), model=model, gpus=gpus, memory_bytes=int(gib * GIB))


def a_fleet(*gpus, gib=100.0, **policy):
    """Engines e0, e1, ... with so many GPUs."""
    fleet = Fleet(FleetPolicy(**policy))
    for number, count in enumerate(gpus):
        fleet.engine_up(an_engine(f"e{number}", count, gib=gib), 0.0)
    return fleet


def places(decisions):
    """Name and engine of what was placed, in order."""
    return [(d.request_id, d.engine_id) for d in decisions if isinstance(d, Placed)]


class Driver:
    """Runs a fleet by its own predictions: ends come when they were predicted, stops at once."""

    def __init__(self, fleet):
        self.fleet = fleet
        self.now = 0.0
        self.running = {}
        self.starts = {}
        self.ends = {}
        self.order = []
        self.refused = {}

    def submit(self, ticket):
        return self.fleet.submit(ticket, self.now)

    def decide(self):
        decisions = self.fleet.next_decisions(self.now)
        for decision in decisions:
            if isinstance(decision, Placed):
                self.running[decision.request_id] = decision
                self.starts.setdefault(decision.request_id, self.now)
                self.order.append(decision.request_id)
            elif hasattr(decision, "reason"):
                self.refused[decision.request_id] = decision
        for decision in decisions:
            if not isinstance(decision, Placed) and not hasattr(decision, "reason"):
                run = self.running.pop(decision.request_id)
                done = (self.now - run.start_s) / (run.finish_s - run.start_s)
                assert self.fleet.stopped(decision.request_id, decision.attempt, run.left * (1 - done), self.now)
        if any(not isinstance(d, Placed) and not hasattr(d, "reason") for d in decisions):
            self.decide()

    def run_until(self, end):
        self.decide()
        while self.running:
            run = min(self.running.values(), key=lambda run: (run.finish_s, run.request_id))
            wake = self.fleet.wake_s()
            if wake is not None and self.now < wake < min(run.finish_s, end):
                self.now = wake
                self.decide()
                continue
            if run.finish_s > end:
                break
            self.now = max(self.now, run.finish_s)
            del self.running[run.request_id]
            assert self.fleet.finish(run.request_id, run.attempt, self.now)
            self.ends[run.request_id] = self.now
            self.decide()
        self.now = max(self.now, end) if end < float("inf") else self.now
