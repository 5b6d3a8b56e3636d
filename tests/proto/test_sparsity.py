import dataclasses
import re
from typing import Any

import pytest

from reelray.proto.sparsity import (
    FIXED,
    OPTIONS,
    TRAINED,
    SparseMethod,
    SparsityPolicy,
    TokenOrderKind,
    progress,
)


def shifted(sigma: float, shift: float) -> float:
    return shift * sigma / (1 + (shift - 1) * sigma)


@pytest.mark.parametrize("shift", [1.0, 5.0, 12.0])
def test_the_same_part_of_the_way_is_dense_whatever_the_shift(shift: float) -> None:
    policy = SparsityPolicy(dense_share=0.24, dense_layers=0)
    sigmas = [shifted(1 - step / 50, shift) for step in range(50)]
    dense = [policy.dense_at(progress(sigma, shift), 0) for sigma in sigmas]
    assert dense == [True] * 12 + [False] * 38


def test_first_layers_are_dense_in_every_step() -> None:
    policy = SparsityPolicy(dense_share=0.0, dense_layers=2)
    assert [policy.dense_at(0.9, layer) for layer in range(4)] == [True, True, False, False]


def test_densities_share_the_steps_that_are_not_dense() -> None:
    policy = SparsityPolicy(dense_share=0.2, densities=(0.5, 0.3, 0.1))
    found = [policy.density_at(step / 50) for step in range(50)]
    assert found[10:] == [0.5] * 14 + [0.3] * 13 + [0.1] * 13
    assert policy.density_at(1.0) == 0.1
    assert SparsityPolicy(mass=0.9).density_at(0.5) is None


def test_a_policy_that_is_never_sparse_has_a_density_all_the_same() -> None:
    assert SparsityPolicy(dense_share=1.0).density_at(1.0) == 0.35


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"densities": ()}, "densities is"),
        ({"densities": (0.0,)}, "none of them 0"),
        ({"densities": (0.2, 0.3)}, "must not grow"),
        ({"mass": 0.0}, "mass is 0.0; it must lie in 0..1"),
        ({"mass": 0.9, "method": SparseMethod.DRAFT}, "mass is 0.9; it goes with antidiagonal, block_mean, sparge"),
        ({"rows": 96}, "rows is 96; allowed are 64, 128"),
        ({"dense_share": 1.5}, "dense_share is 1.5; it must lie in 0..1"),
        ({"least_recall": -0.1}, "least_recall is -0.1"),
        ({"dense_layers": -1}, "dense_layers is -1; it must lie in 0..4096"),
        ({"neighbours": -2}, "neighbours is -2; it must lie in -1..4096"),
        ({"refresh": 0}, "refresh is 0; it must lie in 1..4096"),
        ({"options": {"decay": 0.1}}, "options holds 'decay'; sub_block takes parts"),
        ({"options": {"parts": 2.5}}, "options['parts'] is 2.5; it must be a whole number in 1..128"),
        ({"method": SparseMethod.BLOCK_MEAN, "options": {"parts": 2}}, "block_mean takes none"),
        ({"method": SparseMethod.SPARGE, "options": {"similarity": 2}}, "options['similarity'] is 2"),
        ({"method": SparseMethod.RADIAL, "order": TokenOrderKind.CURVE}, "order is curve; radial takes auto, frames"),
        ({"method": SparseMethod.VSA}, "rows is 128; cubes have 64 tokens"),
        ({"method": SparseMethod.DRAFT, "rows": 64}, "rows is 64; patches have 128 tokens"),
        ({"method": SparseMethod.SLA, "compensate": True}, "compensate is True; sla was trained"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        SparsityPolicy(**fields)


def test_methods_without_training_compensate_by_default() -> None:
    compensates = {
        method
        for method in SparseMethod
        if SparsityPolicy(method=method, rows=64 if method is SparseMethod.VSA else 128).compensates
    }
    assert compensates == set(SparseMethod) - TRAINED - FIXED
    assert not SparsityPolicy(compensate=False).compensates


def test_options_have_defaults_that_their_method_takes() -> None:
    for method, options in OPTIONS.items():
        policy = SparsityPolicy(method=method, options={name: option.default for name, option in options.items()})
        assert [policy.option(name) for name in options] == [option.default for option in options.values()]


@pytest.mark.parametrize(("sigma", "shift", "said"), [(1.1, 1.0, "sigma is 1.1"), (0.5, 0.0, "shift is 0.0")])
def test_progress_refuses_what_is_no_noise_level(sigma: float, shift: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        progress(sigma, shift)


def test_the_order_goes_by_the_method() -> None:
    assert SparsityPolicy().token_order is TokenOrderKind.CURVE
    assert SparsityPolicy(method=SparseMethod.RADIAL).token_order is TokenOrderKind.FRAMES
    assert SparsityPolicy(order=TokenOrderKind.TILES).token_order is TokenOrderKind.TILES
    sliding = SparsityPolicy(method=SparseMethod.SLIDING_TILE, order=TokenOrderKind.PATCHES)
    assert sliding.token_order is TokenOrderKind.PATCHES


def test_no_option_is_named_like_a_field_so_that_both_can_be_written() -> None:
    names = {field.name for field in dataclasses.fields(SparsityPolicy)} | {"density"}
    assert not names & {name for options in OPTIONS.values() for name in options}


def test_similarity_goes_by_what_decides_as_published() -> None:
    sparge = SparsityPolicy(method=SparseMethod.SPARGE)
    assert sparge.option("similarity") == -0.1
    assert SparsityPolicy(method=SparseMethod.SPARGE, mass=0.9).option("similarity") == 0.6
    said = SparsityPolicy(method=SparseMethod.SPARGE, mass=0.9, options={"similarity": 0.3})
    assert said.option("similarity") == 0.3
