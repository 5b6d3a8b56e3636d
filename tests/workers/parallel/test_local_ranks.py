import pytest

from reelray.proto.errors import EngineError, InputError
from reelray.proto.layout import Layout
from reelray.workers.parallel.local_ranks import run_ranks
from reelray.workers.parallel.mesh import Mesh
from tests.support.parallel_cases import fail_on, tell, wrong_meshes


def test_results_come_in_the_order_of_the_ranks() -> None:
    assert run_ranks(tell, "hello", ranks=2) == [("hello", 0, 2, 1, 1), ("hello", 1, 2, 1, 1)]


@pytest.mark.parametrize("number", [0, 1])
def test_the_first_error_is_raised_with_the_name_of_its_rank(number) -> None:
    with pytest.raises(EngineError, match=f"rank {number} failed: ValueError: no such thing") as caught:
        run_ranks(fail_on, number, "error", ranks=2)
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.ids == {"rank": str(number)}
    assert "parallel_cases.py" in caught.value.__notes__[0]


def test_a_killed_rank_is_named() -> None:
    with pytest.raises(EngineError, match="rank 1 failed: it died with exit code -9"):
        run_ranks(fail_on, 1, "killed", ranks=2)


def test_the_deadline_ends_ranks_that_hang() -> None:
    with pytest.raises(EngineError, match="1 s have passed without a result of rank 0, 1"):
        run_ranks(fail_on, 1, "hangs", ranks=2, deadline_s=1)


def test_meshes_that_do_not_fit_the_gang_are_refused() -> None:
    for one, three in run_ranks(wrong_meshes, ranks=2):
        assert isinstance(one, InputError)
        assert "layout ulysses=1 has 1 ranks, the gang 2" in one.message
        assert "layout ring=3 has 3 ranks, the gang 2" in three.message


def test_a_mesh_needs_a_gang() -> None:
    with pytest.raises(EngineError, match="a mesh needs a gang"):
        Mesh.create([Layout()], "cpu")
