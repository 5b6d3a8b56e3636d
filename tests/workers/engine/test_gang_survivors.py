"""A lost rank costs one start of one process; whatever goes wrong meanwhile, the gang comes back or says why."""

import os
import signal
import socket
import time
from dataclasses import replace
from functools import partial
from multiprocessing import AuthenticationError, Pipe

import pytest

from reelray.proto.errors import EngineError, RankLostError
from reelray.proto.layout import Layout
from reelray.proto.step_plan import StepPlan
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.gang import Gang, GangSpec
from reelray.workers.engine.gang_door import Door
from reelray.workers.engine.gang_members import Member, hear
from reelray.workers.engine.gang_rank import Ear, Seat
from reelray.workers.engine.gang_wire import Assignment, Hello, Leave, Left, Meet, Pulse, Refused, Run, Wire
from reelray.workers.engine.leader import Leader
from tests.support.fake_model import FakeModel
from tests.support.forked_launcher import ForkedLauncher
from tests.support.gang_cases import (
    SlowlyReplaced,
    Stubborn,
    Tally,
    clip_of,
    die_at_once,
    has_replaced,
    load_twice,
    pid_of,
)
from tests.support.plain_loop import render_plainly
from tests.support.requests import make_recipe, make_request
from tests.support.waiting import wait_until


@pytest.fixture
def gangs():
    made = []

    def make(load, **changes):
        spec = {"layout": Layout(cfg=2), "silence_s": 2.0, "start_s": 60.0, "rejoin_s": 20.0, **changes}
        gang = Gang(ForkedLauncher(), GangSpec(load=load, **spec))
        made.append(gang)
        return gang

    yield make
    for gang in made:
        gang.close()


def lead(gang):
    gang.start()
    return Leader(EngineCore(EngineLimits(commit_s=0.1)), gang, gang.description).start()


def a_request(name="a"):
    recipe = make_recipe(steps=12, guidance=3.0, chunk=2)
    return make_request(name, latent_frames=6, negative_prompt="dull", recipe=recipe)


def assert_renders(leader, name):
    assert clip_of(leader.submit(a_request(name))) == render_plainly(FakeModel(), a_request(name))


@pytest.mark.parametrize(("how", "rank"), [(signal.SIGKILL, 1), (signal.SIGSTOP, 0)], ids=["killed", "frozen"])
def test_only_the_lost_rank_loads_again(gangs, tmp_path, how, rank):
    tally = Tally(tmp_path, partial(FakeModel, step_s=0.02))
    gang = gangs(tally)
    leader = lead(gang)
    before = gang.pids()
    stream = leader.submit(a_request())
    next(iter(stream))
    time.sleep(0.3)  # in the middle of some step
    os.kill(before[rank], how)
    assert clip_of(stream) == render_plainly(FakeModel(), a_request())
    after = gang.pids()
    assert (gang.generation, after[1 - rank]) == (1, before[1 - rank])
    assert after[rank] != before[rank]
    assert sorted(tally.pids()) == sorted([*before, after[rank]])
    leader.close()


def test_a_loss_is_noticed_without_work_and_strangers_at_the_door_hold_nobody_up(gangs):
    gang = gangs(FakeModel)
    strangers = [socket.create_connection(gang._door.address) for _ in range(3)]
    strangers[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
    leader = lead(gang)
    kept, victim = gang.pids()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: has_replaced(gang, victim))
    assert gang.generation == 1
    assert gang.pids()[0] == kept
    assert_renders(leader, "a")
    frozen = pid_of(gang, 0)
    os.kill(frozen, signal.SIGSTOP)
    wait_until(lambda: has_replaced(gang, frozen))
    assert_renders(leader, "b")
    assert gang.generation == 2
    leader.close()
    for stranger in strangers:
        stranger.close()


def test_survivors_that_break_or_do_not_leave_are_replaced(gangs, tmp_path):
    gang = gangs(Tally(tmp_path, Stubborn, numbered=True), rejoin_s=3.0)
    leader = lead(gang)
    for generation in (1, 2):  # what breaks does so at once; what does not leave has its time
        before = gang.pids()
        os.kill(before[1], signal.SIGKILL)
        wait_until(partial(has_replaced, gang, *before))
        assert gang.generation == generation
    assert_renders(leader, "a")
    leader.close()


def test_losses_while_the_gang_is_put_together_again_cost_the_lost_ranks_alone(gangs, tmp_path):
    tally = Tally(tmp_path, SlowlyReplaced, numbered=True)
    gang = gangs(tally)
    leader = lead(gang)
    survivor, victim = gang.pids()
    os.kill(victim, signal.SIGKILL)
    os.kill(wait_until(lambda: tally.pids()[2:])[0], signal.SIGKILL)  # it was loading in the lost one's place
    wait_until(lambda: tally.pids()[3:])
    os.kill(survivor, signal.SIGKILL)  # it was waiting
    stream = leader.submit(a_request())
    assert clip_of(stream) == render_plainly(FakeModel(), a_request())
    assert gang.generation == 1
    assert sorted(gang.pids()) == sorted(tally.pids()[3:])
    survivor, victim = gang.pids()
    os.kill(victim, signal.SIGKILL)  # load 5 dies when it has met the others, load 6 does not
    wait_until(lambda: len(tally.pids()) == 7)
    assert_renders(leader, "b")
    assert gang.generation == 3
    assert gang.pids() == [survivor, tally.pids()[6]]
    leader.close()


def test_ranks_that_die_again_and_again_end_the_engine_with_a_clear_error(gangs, tmp_path):
    gang = gangs(die_at_once)
    with pytest.raises(EngineError, match=r"the ranks do not start: rank \d of 2 was lost: exit 3"):
        gang.start()
    assert gang.pids() == []
    gang = gangs(Tally(tmp_path, load_twice, numbered=True), attempts=3)
    gang.start()
    os.kill(gang.pids()[0], signal.SIGKILL)
    with pytest.raises(RankLostError, match="rank 0 of 2 was lost: ended by signal 9"):
        wait_until(gang.check)
    with pytest.raises(EngineError, match="ranks were lost 3 times in a row, at last: rank 0 of 2 was lost: exit 3"):
        gang.rebuild()
    assert gang.pids() == []


def test_the_door_turns_the_silent_away_and_is_patient_with_those_it_knows():
    door = Door("127.0.0.1", interface=None, backlog=4, greeting_s=0.3)
    silent = socket.create_connection(door.address, timeout=30)
    with pytest.raises(AuthenticationError):
        Wire.connect(replace(door.invite(1), secret=b"wrong"))
    wire = Wire.connect(door.invite(0))
    wire.send(Hello(rank=0, ticket=1, pid=7, code="c"))
    ((hello, known),) = wait_until(door.arrivals)
    assert hello.pid == 7
    while silent.recv(1024):
        pass  # the challenge; then it is closed
    time.sleep(0.4)
    wire.send(Pulse(progress=3))
    assert known.receive() == Pulse(progress=3)
    assert door.arrivals() == []
    for end in (silent, wire, known, door):
        end.close()


def test_nobody_waits_at_the_door_for_one_who_is_silent():
    door = Door("127.0.0.1", interface=None, backlog=4, greeting_s=600.0)
    silent = socket.create_connection(door.address)
    time.sleep(0.1)  # it is the first one in
    wire = Wire.connect(door.invite(0))  # else this runs into the test's time limit
    wire.send(Hello(rank=0, ticket=0, pid=7, code="c"))
    ((_, known),) = wait_until(door.arrivals)
    for end in (silent, wire, known, door):
        end.close()


class Ended:
    def is_alive(self):
        return False


def test_what_a_rank_said_last_is_waited_for_when_its_process_has_ended():
    here, there = (Wire(end) for end in Pipe())
    member = Member(rank=0, ticket=0, process=Ended())
    assert member.is_gone(100.0)  # it never came
    member.wire = here
    assert not member.is_gone(100.0)
    there.send(Refused(error=EngineError("shard 2 is missing")))
    assert not member.is_gone(200.0)  # it is still to be read
    ((_, message),) = hear([member], time.monotonic, 0.0)
    assert isinstance(message, Refused)
    assert member.is_gone(200.0)
    there.close()
    assert hear([member], time.monotonic, 0.0) == [(member, None)]
    here.close()


class CountedMesh:
    aborts = 0

    def abort(self):
        self.aborts += 1


def test_a_rank_hears_that_it_is_to_leave_while_it_works_and_forgets_what_is_older(monkeypatch):
    joined = []
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *_, **__: joined.append(1))
    here, there = (Wire(end) for end in Pipe())
    ear, mesh, late = Ear(there), CountedMesh(), CountedMesh()
    ear.guard(mesh, 0)
    here.send(Leave(generation=2))
    wait_until(lambda: mesh.aborts)  # though nobody asks the ear: on NCCL the main thread would wait in a collective
    ear.guard(late, 1)
    assert late.aborts == 1  # it was in the making when its generation ended
    here.send(Meet(generation=1, meeting="nowhere", within_s=1.0))
    here.send(Run(plan=StepPlan(sequence=0, generation=0)))
    here.send(Leave(generation=3))
    wait_until(lambda: ear.is_over(2))
    here.connection.close()
    answers, out = (Wire(end) for end in Pipe())
    assignment = Assignment(
        ranks=1, layouts=(), decode_ranks=0, lent=None, load=FakeModel, threads=1, collective_s=60.0
    )
    Seat(0, assignment, FakeModel(), load_s=0.0, ear=ear, heart=None).follow(out)
    out.close()
    assert answers.receive() == Left(generation=3)
    with pytest.raises(EOFError):
        answers.receive()
    assert joined == []
    answers.close()
    there.close()
