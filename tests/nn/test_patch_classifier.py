import copy

import pytest
import torch
from torch.nn import functional as F

from thalweg.nn import PatchClassifier, local_signal_adaptivity
from thalweg.nn.patch_classifier import patch_responses, unit_filters
from thalweg.tasks.dynamic_signal import dynamic_signal

K, D = 4, 3


def net(sharing, threshold=0.1, seed=0):
    torch.manual_seed(seed)
    return PatchClassifier(K, D, sharing, threshold, dtype=torch.float64)


def images(n=6, seed=1):
    return torch.randn(n, K, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_soft_threshold():
    z = torch.tensor([1.0, -1.0, 0.3, 0.0])
    assert torch.allclose(local_signal_adaptivity(z, 0.4), torch.tensor([0.6, -0.6, 0.0, 0.0]))
    assert torch.equal(local_signal_adaptivity(z, 0), z)
    by_relu = F.relu(z - 0.2) - F.relu(-z - 0.2)
    assert torch.allclose(local_signal_adaptivity(z, torch.tensor(0.2)), by_relu)
    with pytest.raises(ValueError, match="at least 0"):
        local_signal_adaptivity(z, -0.1)


@torch.no_grad()
def test_each_contains_the_one_before():
    conv, local, full = net("conv"), net("local"), net("full")
    local.weight.copy_(conv.weight.expand(K, D))
    assert torch.allclose(local(images()), conv(images()), atol=1e-12)
    local.weight.copy_(torch.randn(K, D))
    full.weight.copy_(torch.diag_embed(local.weight.T).permute(1, 2, 0))  # unit i sees patch i alone
    assert torch.allclose(full(images()), local(images()), atol=1e-12)


@pytest.mark.parametrize(("sharing", "same"), [("conv", True), ("local", False), ("full", False)])
def test_order_of_patches(sharing, same):
    f, x = net(sharing), images()
    assert torch.allclose(f(x), f(x.flip(1)), atol=1e-12) is same


def test_without_threshold_a_conv_sums_the_patches():
    f, x = net("conv", 0.0), images()
    assert torch.allclose(f(x), x.sum(1) @ F.normalize(f.weight, dim=0), atol=1e-12)


@pytest.mark.parametrize("sharing", ["conv", "local", "full"])
def test_many_networks_at_once(sharing):
    nets = [net(sharing, seed=s) for s in range(2)]
    x = torch.stack([images(seed=s) for s in range(3)])  # three problems
    weight = torch.stack([f.weight.detach() for f in nets]).unsqueeze(0).repeat(3, *[1] * (nets[0].weight.dim() + 1))
    f = local_signal_adaptivity(patch_responses(x, unit_filters(weight, sharing), sharing), 0.1).sum(-1)
    alone = torch.stack([torch.stack([each(x[p]) for each in nets]) for p in range(3)])
    assert torch.allclose(f, alone, atol=1e-12)


@pytest.mark.parametrize(("sharing", "size"), [("conv", D), ("local", K * D), ("full", K * K * D)])
def test_sizes_and_lengths(sharing, size):
    f, x = net(sharing), images()
    assert f.weight.numel() == size
    before = f(x)
    with torch.no_grad():
        f.weight *= 7
        f.log_scale += 1
    assert torch.allclose(f(x), before * torch.e, atol=1e-12)  # lengths don't matter, the scale does


def rotation(size):
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]


@pytest.mark.parametrize("sharing", ["conv", "local", "full"])
@pytest.mark.parametrize(("optimizer", "equivariant"), [(torch.optim.SGD, True), (torch.optim.Adam, False)])
def test_descent_commutes_with_rotations_and_adam_does_not(sharing, optimizer, equivariant):
    """Rotate images and start by one matrix: of a patch, of each patch, or of the whole image."""
    task = dynamic_signal(30, K, D, 0.2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = net(sharing)
    turned = copy.deepcopy(plain)
    U = rotation(K * D) if sharing == "full" else rotation(D)

    def turn(z):
        return (z.flatten(-2) @ U.T).view_as(z) if sharing == "full" else z @ U.T

    with torch.no_grad():
        turned.weight.copy_(turn(turned.weight))
    for f, x in ((plain, task.x), (turned, turn(task.x))):
        steps = optimizer(f.parameters(), lr=0.3)
        for _ in range(20):
            steps.zero_grad()
            F.softplus(-task.y * f(x)).mean().backward()
            steps.step()
    new = images(50)
    assert torch.allclose(plain(new), turned(turn(new)), atol=1e-8) is equivariant


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 3, "dense"), "conv, local, full"),
        ((0, 3), "at least 1"),
        ((4, 3, "conv", -0.1), "at least 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PatchClassifier(*arguments)


def test_wrong_images():
    with pytest.raises(ValueError, match=r"\(n, 4, 3\)"):
        PatchClassifier(4, 3)(torch.zeros(5, 3, 4))
