"""When a commit is due."""

import pytest

from reelray.cluster.renders.commit_pace import CommitPace, CommitRule


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def due_after(rule, events, *, ends=(81,), cost_s=0.0):
    """Which of (seconds, frames, steps) make a commit, that takes `cost_s`."""
    clock = Clock()
    pace, found = CommitPace(rule, ends, clock, frames=0, steps=0), []
    for seconds, frames, steps in events:
        clock.now_s += seconds
        if pace.is_due(frames=frames, steps=steps):
            found.append((frames, steps))
            began_s = clock.now_s
            clock.now_s += cost_s
            pace.committed(frames=frames, steps=steps, began_s=began_s)
    return found


def test_a_whole_clip_loses_no_more_than_its_seconds_of_work():
    slow = [(8.0, 0, step) for step in range(1, 21)]
    assert due_after(CommitRule(), slow) == [(0, step) for step in range(3, 21, 3)]  # a fourth would make 32 s
    quick = [(0.5, 0, step) for step in range(1, 51)]
    assert due_after(CommitRule(), quick) == []
    single = [(40.0, 0, step) for step in range(1, 5)]
    assert due_after(CommitRule(), single) == [(0, step) for step in range(1, 5)]


def test_nothing_is_due_where_nothing_moved_or_all_is_there():
    assert due_after(CommitRule(every_s=1), [(100.0, 0, 0), (5.0, 0, 0)]) == []
    assert due_after(CommitRule(every_s=1), [(100.0, 81, 50)]) == []
    assert due_after(CommitRule(every_s=1), [(100.0, 80, 50)]) == [(80, 50)]


def test_decoding_is_work_too():
    pieces = [(10.0, 4 * n, 0) for n in range(1, 21)]
    assert due_after(CommitRule(), pieces) == [(16, 0), (32, 0), (48, 0), (64, 0), (80, 0)]


def test_a_stream_is_committed_by_chunks():
    ends, events = (9, 21, 33, 45), [(0.1, frames, 0) for frames in (5, 9, 13, 17, 21, 33, 37, 45)]
    assert due_after(CommitRule(), events, ends=ends) == [(9, 0), (21, 0), (33, 0)]
    assert due_after(CommitRule(chunks=2), events, ends=ends) == [(21, 0)]


def test_commits_that_take_long_are_made_seldom():
    ends = tuple(range(1, 200))
    events = [(1.0, frames, 0) for frames in range(1, 199)]
    assert len(due_after(CommitRule(), events, ends=ends)) == 198
    dear = due_after(CommitRule(share=0.1), events, ends=ends, cost_s=2.0)
    assert dear == [(1, 0), *((frames, 0) for frames in range(21, 199, 20))]
    assert len(due_after(CommitRule(share=None), events, ends=ends, cost_s=2.0)) == 198


def test_steps_may_be_counted():
    assert due_after(CommitRule(steps=3), [(0.0, 0, step) for step in range(1, 8)]) == [(0, 3), (0, 6)]


@pytest.mark.parametrize("name", ["every_s", "chunks", "steps", "share"])
def test_a_rule_says_what_is_wrong_with_it(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        CommitRule(**{name: 0})
