import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thalweg.probe import alternation, find_opposing_groups, opposition


def alternating_losses():
    losses = 1 + 0.01 * torch.rand(9, 40, generator=torch.Generator().manual_seed(0))
    losses[1::2, 5:10] += 2
    losses[0::2, 20:25] += 2
    return losses


def test_planted_groups_are_found():
    up, down = find_opposing_groups(alternating_losses(), 0, k=5)
    assert sorted(up.tolist()) == list(range(5, 10)) and sorted(down.tolist()) == list(range(20, 25))
    assert alternation(alternating_losses(), up, down) > 0.99
    assert alternation(alternating_losses(), up, up) == pytest.approx(-1)


def test_opposition_by_hand_and_of_random_halves():
    net = nn.Linear(2, 1, bias=False)
    X, y = torch.eye(2).repeat(2, 1), torch.tensor([[9.0], [1.0], [-9.0], [1.0]])
    nn.init.zeros_(net.weight)
    found = opposition(net, lambda out, t: (out - t).square().mean() / 2, X, y, [0], [2])
    assert found.cosine == pytest.approx(-1) and found.norm_ratio == pytest.approx(9)
    draws = torch.Generator().manual_seed(0)
    X, y = torch.randn(400, 5, generator=draws), torch.randint(3, (400,), generator=draws)
    order = torch.randperm(400, generator=draws)
    torch.manual_seed(0)
    halves = opposition(nn.Linear(5, 3), F.cross_entropy, X, y, order[:150], order[150:300])
    assert halves.cosine > 0.5


def test_what_is_refused():
    losses = alternating_losses()
    with pytest.raises(ValueError, match="half the number"):
        find_opposing_groups(losses, 0, k=21)
    with pytest.raises(ValueError, match="step must lie"):
        find_opposing_groups(losses, 8, k=1)
    with pytest.raises(ValueError, match="at least three steps"):
        find_opposing_groups(losses[:2], 0, k=1)
    losses[0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        alternation(losses, torch.tensor([0]), torch.tensor([1]))
