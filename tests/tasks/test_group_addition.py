import itertools

import pytest
import torch

from thalweg.tasks.group_addition import critical_share, group_table, split_pairs


@pytest.mark.parametrize("order", [7, (2, 3), (2, 2, 3)])
def test_is_an_abelian_group(order):
    table = group_table(order)
    size = round(len(table) ** 0.5)
    total = {(a, b): c for a, b, c in table.tolist()}
    assert len(total) == size**2 and set(total.values()) == set(range(size))
    for a, b, c in itertools.product(range(size), repeat=3):
        assert total[total[a, b], c] == total[a, total[b, c]] and total[a, b] == total[b, a]
    assert all(total[0, a] == a for a in range(size))
    assert all(any(total[a, b] == 0 for b in range(size)) for a in range(size))


def test_one_factor_is_addition_modulo_it():
    a, b, c = group_table(11).T
    assert torch.equal(c, (a + b) % 11) and torch.equal(group_table((11,)), group_table(11))


def test_a_product_adds_each_factor():
    a, b, c = group_table((2, 3)).T
    assert torch.equal(c % 2, (a + b) % 2) and torch.equal(c // 2, (a // 2 + b // 2) % 3)


def test_split_keeps_every_pair_once():
    table = group_table(5)
    train, test = split_pairs(table, 0.3, generator=torch.Generator().manual_seed(0))
    assert len(train) == 8 and sorted([*train.tolist(), *test.tolist()]) == table.tolist()
    assert not torch.equal(train, table[:8])


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 0.01, 0.999])
def test_both_parts_need_rows(share):
    with pytest.raises(ValueError, match="share must lie"):
        split_pairs(group_table(5), share)


@pytest.mark.parametrize("order", [2, (2, 1), (5, 0), (-3, -3)])
def test_what_is_no_group_of_three(order):
    with pytest.raises(ValueError, match="at least three"):
        group_table(order)


@pytest.mark.parametrize(("order", "share"), [(127, 0.1048), (31, 0.3044), (23, 0.3747)])
def test_published_shares(order, share):
    assert critical_share(order) == pytest.approx(share, abs=5e-5)
