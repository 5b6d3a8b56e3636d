"""Simulations of the mix that peers publish: 17, 49 and 81 frames take 7.8, 20.2 and 34.5 s."""

from reelray.scheduler.fleet.engine_state import EngineFacts
from reelray.scheduler.fleet.policy import POLICIES
from reelray.scheduler.fleet.ticket import EngineId
from reelray.scheduler.simulation.arrival import Arrival, Cost, Shape
from reelray.scheduler.simulation.draws import Draws
from reelray.scheduler.simulation.simulation import SimulatedFleet, Simulation

SECONDS = {17: 7.8, 49: 20.2, 81: 34.5}
STEP_S = 0.7


def cost_of(shape, *, wide=False):
    alone = SECONDS[shape.frames]
    return Cost(seconds={1: alone, 2: alone / 1.85, 4: alone / 3.4} if wide else {1: alone}, step_s=STEP_S)


def engines(count, gpus=1):
    return tuple(
        EngineFacts(engine_id=EngineId(f"e{n}"), model="", gpus=gpus, memory_bytes=10**12) for n in range(count)
    )


def simulate(happenings, *, count=2, gpus=1, policy="fair", wide=False, **rest):
    """The simulation after its run; `policy` is a name or the rules."""
    rules = POLICIES[policy] if isinstance(policy, str) else policy
    simulated = SimulatedFleet(engines=engines(count, gpus), policy=rules, **rest)
    simulation = Simulation(simulated, lambda shape: cost_of(shape, wide=wide))
    simulation.run(happenings)
    return simulation


def all_at_once(frames):
    return [Arrival(at_s=0.0, shape=Shape(frames=length)) for length in frames]


def draw_lengths(seed, count):
    draws = Draws(seed)
    return [(17, 49, 81)[int(3 * draws.uniform())] for _ in range(count)]


def best_makespan(frames):
    """Of two machines, by trying every sum that a subset can have (tenths of seconds)."""
    jobs = [round(10 * SECONDS[length]) for length in frames]
    sums = {0}
    for job in jobs:
        sums |= {some + job for some in sums}
    return min(max(some, sum(jobs) - some) for some in sums) / 10


def makespan(simulation):
    return max(record.finish_s for record in simulation.records)
