import math

import pytest
import torch

from thalweg.tasks.xor_clusters import linear_rule_accuracy, xor_clusters


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_points_lie_around_their_centres():
    data = xor_clusters(4000, 6, 3.0, generator=draws(), dtype=torch.float64)
    for k, label in enumerate((1, 1, -1, -1)):
        members = data.X[k::4]
        assert (data.clean[k::4] == label).all()
        assert (members.mean(0) - data.centres[k]).abs().max() < 4.5 / math.sqrt(len(members))
        assert (members.std(0) - 1).abs().max() < 4.5 / math.sqrt(2 * len(members))
    first, second = data.centres[0], data.centres[2]
    assert torch.equal(data.centres, torch.stack([first, -first, second, -second]))
    assert first @ second == 0 and first.norm() == second.norm() == 3


def test_wrong_labels_are_as_many_in_every_cluster():
    data = xor_clusters(200, 2, 1.0, 0.15, generator=draws())
    assert [(data.y != data.clean)[k::4].sum().item() for k in range(4)] == [8] * 4


def test_independent_wrong_labels_have_their_rate():
    data = xor_clusters(20_000, 2, 1.0, 0.15, balanced=False, generator=draws())
    assert abs((data.y != data.clean).double().mean().item() - 0.15) < 4.5 * math.sqrt(0.15 * 0.85 / 20_000)
    assert len({(data.y != data.clean)[k::4].sum().item() for k in range(4)}) > 1


def test_noise_and_start_dont_depend_on_what_is_varied():
    plain, other = xor_clusters(8, 3, 1.0, generator=draws()), xor_clusters(8, 3, 5.0, 0.4, generator=draws())
    noise = [data.X - data.centres[torch.arange(8) % 4] for data in (plain, other)]
    torch.testing.assert_close(noise[0], noise[1], atol=1e-6, rtol=0)


def test_accuracy_of_a_linear_rule_is_that_of_drawn_points():
    """Centres that don't come in pairs, so that the closed form isn't 1/2 whatever the weights."""
    theta, centres = torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.5], [2.0, 1.0], [0.0, 2.0], [-1.0, -1.0]])
    expected = linear_rule_accuracy(theta, centres)
    labels = torch.tensor([1.0, 1.0, -1.0, -1.0])
    points = centres.unsqueeze(1) + torch.randn(4, 50_000, 2, generator=draws())
    found = (((points @ theta) * labels.unsqueeze(1)) > 0).double().mean().item()
    assert abs(found - expected) < 4.5 * 0.5 / math.sqrt(200_000) and abs(expected - 0.5) > 0.05


@pytest.mark.parametrize("seed", range(3))
def test_no_linear_rule_tells_the_clusters_apart(seed):
    theta = torch.randn(5, generator=draws(seed))
    assert linear_rule_accuracy(theta, xor_clusters(4, 5, 4.0).centres) == pytest.approx(0.5)


@pytest.mark.parametrize("changes", [{"dim": 1}, {"n": 3}, {"mean_norm": 0.0}, {"flip": 0.5}, {"flip": -0.1}])
def test_arguments_out_of_range(changes):
    with pytest.raises(ValueError, match=r"must|needed"):
        xor_clusters(**({"n": 8, "dim": 3, "mean_norm": 1.0} | changes))
