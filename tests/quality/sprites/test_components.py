import numpy as np

from reelray.quality.sprites.components import find_pieces


def mask_of(*rows: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in rows])[None]


def areas(*rows: str) -> list[int]:
    return sorted(find_pieces(mask_of(*rows)).area_N.tolist())


def test_touching_pixels_are_one_piece_corners_included() -> None:
    assert areas("......", ".##...", "...#..", "......") == [3]
    assert areas("......", ".##.#.", "......", "......") == [1, 2]


def test_a_fork_is_one_piece() -> None:
    assert areas(".......", ".#...#.", ".#...#.", ".#####.", ".......") == [9]


def test_the_canvas_wraps_around_both_ways() -> None:
    assert areas("......", "#....#", "......", "......") == [2]
    assert areas(".#....", "......", "......", ".#....") == [2]
    assert areas("#.....", "......", "......", ".....#") == [1, 1]


def test_frames_are_apart() -> None:
    mask = np.zeros((3, 4, 4), np.bool_)
    mask[0, 1, 1] = mask[2, 1, 1:3] = True
    pieces = find_pieces(mask)
    assert pieces.frame_N.tolist() == [0, 2]
    assert pieces.area_N.tolist() == [1, 2]


def test_nothing_has_no_pieces() -> None:
    assert not len(find_pieces(np.zeros((2, 4, 4), np.bool_)).area_N)
