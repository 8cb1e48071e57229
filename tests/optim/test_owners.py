"""How matrices are shared out over processes and rounds."""

from __future__ import annotations

import pytest

from thalweg.optim.engine import owners


def in_rounds(shapes: list[tuple[int, int, int]], world: int) -> list[list[list[int]]]:
    return owners._rounds(owners._share_out(shapes, world), shapes)


def test_few_small_matrices_go_at_once() -> None:
    assert in_rounds([(1, 8, 8)] * 5, 2) == [[[0, 2, 4], [1, 3]]]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_matrix_has_one_owner_in_one_round_and_rounds_are_even(world: int) -> None:
    shapes = [(1, 2048, 4096)] * 12 + [(3, 512, 512)] * 9 + [(1, 0, 5)]
    rounds = in_rounds(shapes, world)
    assert sorted(i for owned in rounds for own in owned for i in own) == list(range(len(shapes)))
    assert 1 < len(rounds) <= owners.MOST_ROUNDS
    for process in range(world):
        sizes = [sum(shapes[i][0] * shapes[i][1] * shapes[i][2] for i in owned[process]) for owned in rounds]
        assert max(sizes) <= sum(sizes) / len(rounds) + 2048 * 4096


def test_one_matrix_needs_one_round() -> None:
    assert in_rounds([(1, 4096, 4096)], 2) == [[[0], []]]


def test_a_process_with_fewer_matrices_takes_part_in_every_round() -> None:
    assert in_rounds([(1, 4096, 4096)] * 3, 2) == [[[0], [1]], [[2], []]]
