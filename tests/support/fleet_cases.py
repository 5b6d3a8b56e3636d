"""Tickets and engines with few words."""

from reelray.proto.request import RequestId
from reelray.scheduler.fleet.decision import Placed, Preempt
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
    """Runs a fleet by its own predictions: ends come when predicted, stops `stop_s` after they are asked for."""

    def __init__(self, fleet, *, stop_s=0.0):
        self.fleet = fleet
        self.stop_s = stop_s
        self.now = 0.0
        self.running = {}
        self.stopping = {}
        self.starts = {}
        self.ends = {}
        self.order = []
        self.refused = {}

    def submit(self, ticket):
        return self.fleet.submit(ticket, self.now)

    def decide(self):
        """Carry out what is decided now, and stop what must have stopped by now, until nothing more comes of it."""
        asked = True
        while asked:
            for decision in self.fleet.next_decisions(self.now):
                self.carry_out(decision)
            asked = [name for name, at_s in self.stopping.items() if at_s <= self.now]
            for name in asked:
                self.stop(name)

    def carry_out(self, decision):
        name = decision.request_id
        if isinstance(decision, Placed):
            self.running[name] = decision
            self.starts.setdefault(name, self.now)
            self.order.append(name)
        elif isinstance(decision, Preempt):
            self.stopping[name] = self.now + self.stop_s
        else:
            self.refused[name] = decision

    def stop(self, name):
        del self.stopping[name]
        run = self.running.pop(name)
        done = (self.now - run.start_s) / (run.finish_s - run.start_s)
        assert self.fleet.stopped(name, run.attempt, run.left * (1 - done), self.now)

    def finish(self, name):
        run = self.running.pop(name)
        self.stopping.pop(name, None)
        assert self.fleet.finish(name, run.attempt, self.now)
        self.ends[name] = self.now

    def run_until(self, end):
        self.decide()
        while self.running:
            run = min(self.running.values(), key=lambda run: (run.finish_s, run.request_id))
            wake_s = self.fleet.wake_s()
            assert wake_s is None or wake_s > self.now  # who sleeps until then does not spin
            others = [*self.stopping.values(), *([] if wake_s is None else [wake_s])]
            at_s = min([run.finish_s, *others])
            if at_s > end:
                break
            self.now = max(self.now, at_s)
            if at_s == run.finish_s:
                self.finish(run.request_id)
            self.decide()
        self.now = max(self.now, end) if end < float("inf") else self.now
