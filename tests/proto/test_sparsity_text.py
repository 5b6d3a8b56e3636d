"""Policies as text."""

import pytest

from reelray.proto.errors import InputError
from reelray.proto.sparsity import SparseMethod, SparsityPolicy, SparsityUse, TokenOrderKind
from reelray.proto.sparsity_text import parse_sparsity, write_sparsity


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("sub_block", SparsityPolicy()),
        (" sub_block , density=0.5/0.25 ", SparsityPolicy(densities=(0.5, 0.25))),
        (
            "radial,decay=0.5,dense_share=0.24,dense_layers=1,first_frame=no",
            SparsityPolicy(
                method=SparseMethod.RADIAL, dense_share=0.24, dense_layers=1, first_frame=False, options={"decay": 0.5}
            ),
        ),
        (
            "block_mean,mass=0.9,order=curve,rows=64,neighbours=-1,compensate=no,refresh=4,least_recall=0.8,forced=yes",
            SparsityPolicy(
                method=SparseMethod.BLOCK_MEAN,
                mass=0.9,
                order=TokenOrderKind.CURVE,
                rows=64,
                neighbours=-1,
                compensate=False,
                refresh=4,
                least_recall=0.8,
                forced=True,
            ),
        ),
    ],
)
def test_text_says_a_policy_and_a_policy_says_its_text(text, policy):
    assert parse_sparsity(text) == policy
    assert parse_sparsity(write_sparsity(policy)) == policy
    assert write_sparsity(parse_sparsity(write_sparsity(policy))) == write_sparsity(policy)


@pytest.mark.parametrize(
    "text",
    ["sub_block,density=0.33333333", "block_mean,mass=0.99999999", "stripes,every=1237", "radial,decay=0.1234567"],
)
def test_no_number_is_rounded(text):
    assert write_sparsity(parse_sparsity(text)) == text


def test_defaults_are_left_out():
    assert write_sparsity(SparsityPolicy()) == "sub_block"
    assert write_sparsity(SparsityPolicy(densities=(0.5, 0.35), forced=True)) == "sub_block,density=0.5/0.35,forced=yes"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "begins with a method: radial"),
        ("dense", "begins with a method"),
        ("sub_block,density", "takes NAME=VALUE of density, mass"),
        ("sub_block,decay=1", "'decay=1'; sub_block takes NAME=VALUE"),
        ("sub_block,density=a", "density must be numbers parted by /"),
        ("sub_block,density=0.2/0.3", "must not grow"),
        ("sub_block,density=nan", "entries in 0..1"),
        ("sub_block,rows=128.5", "rows must be a whole number"),
        ("sub_block,order=spiral", "order must be one of auto, frames"),
        ("sub_block,forced=1", "forced must be yes or no"),
        ("sub_block,mass=0.9,mass=0.8", "says mass twice"),
        ("sub_block,parts=x", "parts must be a number"),
        ("sub_block,refresh=0", "refresh is 0"),
        ("draft,mass=0.9", "mass is 0.9; it goes with"),
        ("sliding_tile,window_frames=inf", "whole number in 1..4096"),
        ("radial,decay=inf", "a number in 0..1000"),
        ("radial,decay=nan", "a number in 0..1000"),
        ("antidiagonal,stride=1e9", "whole number in 1..128"),
        ("head_classes,samples=1e6", "whole number in 1..1024"),
        ("stripes,reach=1e300", "whole number in 0..4096"),
        ("draft,neighbours=99999999999999999999", "must lie in -1..4096"),
        ("antidiagonal,order=patches", "antidiagonal takes auto, curve, frames, tiles"),
        ("radial,density=0.1", "radial is a fixed pattern that goes by its options"),
        ("sub_block,least_recall=0.9", "with refresh=1 no list is kept"),
    ],
)
def test_wrong_texts_are_named(text, words):
    with pytest.raises(InputError) as raised:
        parse_sparsity(text)
    assert words in raised.value.message


def test_use_adds_up():
    first, then = SparsityUse(calls=10, dense=10), SparsityUse(calls=10, dense=2, attended=4.0)
    assert first.density is None
    assert (first + then) == SparsityUse(calls=20, dense=12, attended=4.0)
    assert (first + then).density == 0.5
