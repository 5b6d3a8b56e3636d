import pytest

from reelray.proto.errors import EngineError, InputError
from reelray.proto.layout import Layout
from reelray.workers.parallel.local_ranks import run_ranks
from reelray.workers.parallel.mesh import Mesh
from tests.support.parallel_cases import check_gang, fail_on


@pytest.fixture(scope="module")
def gang(tmp_path_factory):
    store = tmp_path_factory.mktemp("gang") / "second"
    return run_ranks(check_gang, "hello", store.as_uri(), ranks=2, deadline_s=60)


def test_results_come_in_the_order_of_the_ranks(gang) -> None:
    assert [result["told"] for result in gang] == [("hello", 0, 2, 1, 1), ("hello", 1, 2, 1, 1)]


def test_meshes_that_do_not_fit_the_gang_are_refused(gang) -> None:
    for result in gang:
        one, three = result["wrong"]
        assert isinstance(one, InputError)
        assert "layout ulysses=1 has 1 ranks, the gang 2" in one.message
        assert "layout ring=3 has 3 ranks, the gang 2" in three.message


def test_an_aborted_mesh_says_so_and_leaves_room_for_another(gang) -> None:
    for result in gang:
        looked_up, used, ranks = result["aborted"]
        for error in (looked_up, used):
            assert isinstance(error, EngineError)
            assert "the mesh was aborted" in error.message
        assert ranks == 1


def test_the_first_error_is_raised_with_the_name_of_its_rank() -> None:
    with pytest.raises(EngineError, match="rank 1 failed: ValueError: no such thing") as caught:
        run_ranks(fail_on, 1, "error", ranks=2, deadline_s=60)
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.ids == {"rank": "1"}
    assert "parallel_cases.py" in caught.value.__notes__[0]


def test_a_killed_rank_is_named() -> None:
    with pytest.raises(EngineError, match="rank 0 failed: it died with exit code -9"):
        run_ranks(fail_on, 0, "killed", ranks=2, deadline_s=60)


def test_the_deadline_ends_ranks_that_hang() -> None:
    with pytest.raises(EngineError, match="1 s have passed without a result of rank 0"):
        run_ranks(fail_on, 0, "hangs", ranks=1, deadline_s=1)


def test_a_mesh_needs_a_gang() -> None:
    with pytest.raises(EngineError, match="a mesh needs a gang"):
        Mesh.create([Layout()], "cpu")
