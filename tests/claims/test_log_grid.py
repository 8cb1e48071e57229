import math

import pytest

from thalweg.claims.engine.log_grid import best_on_log_grid


def tried_by(score, *args, **kwargs):
    tried = []

    def scores(exponents):
        tried.extend(exponents)
        return [score(e) for e in exponents]

    return best_on_log_grid(scores, *args, **kwargs), tried


@pytest.mark.parametrize(("optimum", "best"), [(0.1, 0.0), (-3.4, -3.0), (2.6, 3.0)])
def test_widens_until_the_best_is_inside(optimum, best):
    found, tried = tried_by(lambda e: abs(e - optimum), [1.0, 0.0, -1.0])
    assert found == best and min(tried) < best < max(tried)


def test_inside_at_once_tries_nothing_more():
    assert tried_by(lambda e: e * e, [-1.0, 0.0, 1.0]) == (0.0, [-1.0, 0.0, 1.0])


def test_halving_narrows_the_grid():
    found, tried = tried_by(lambda e: abs(e - 0.3), [-1.0, 0.0, 1.0], halvings=3)
    assert found == 0.25 and tried[3:] == [-0.5, 0.5, 0.25, 0.75, 0.125, 0.375]


def test_where_nothing_works_the_middle_is_taken_and_an_endless_edge_is_left():
    assert tried_by(lambda e: math.inf, [-1.0, 0.0, 1.0])[0] == 0.0
    found, tried = tried_by(lambda e: -e, [0.0, 1.0], widen=3)
    assert found == 4.0 and len(tried) == 5


def test_scores_may_be_tuples():
    assert tried_by(lambda e: (math.inf, abs(e - 1)), [0.0, 1.0, 2.0])[0] == 1.0


def test_one_point_is_no_grid():
    with pytest.raises(ValueError, match="at least two"):
        best_on_log_grid(lambda es: es, [0.0])
