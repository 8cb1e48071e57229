import pytest
import torch

from thalweg.nn import TwoLayerNTK
from thalweg.solve import kernel_gd_path, relu_ntk


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_starts_as_exactly_zero(dtype):
    net = TwoLayerNTK(4, 3, 514, generator=draws(), dtype=dtype)
    z = torch.randn(7, 5, 4, generator=draws(1), dtype=dtype)
    assert torch.equal(net(z), torch.zeros(7, 5, 3, dtype=dtype))
    assert [name for name, _ in net.named_parameters()] == ["weight"]


def test_formula():
    z = torch.randn(6, 4, generator=draws(1))
    plain = TwoLayerNTK(4, 3, 9, antisymmetric=False, generator=draws())
    assert plain.signs.abs().unique().tolist() == [1.0]
    assert torch.allclose(plain(z), (z @ plain.weight.T).relu() @ plain.signs.T / 3)
    paired = TwoLayerNTK(4, 3, 16, generator=draws())
    with torch.no_grad():
        paired.weight += torch.randn(16, 4, generator=draws(2))
    signs = torch.cat([paired.signs, -paired.signs], 1)
    assert torch.allclose(paired(z), (z @ paired.weight.T).relu() @ signs.T / 4, atol=1e-6)


def test_training_follows_the_kernel_more_closely_the_wider():
    z, y = torch.randn(10, 3, generator=draws(1), dtype=torch.float64), torch.randn(10, 2, generator=draws(2)).double()
    K = relu_ntk(z, z)
    lr, expected = 10 / torch.linalg.eigvalsh(K)[-1].item(), kernel_gd_path(K, y, 20)
    apart = []
    for width in (100, 10_000):
        net = TwoLayerNTK(3, 2, width, generator=draws(3), dtype=torch.float64)
        descent = torch.optim.SGD(net.parameters(), lr=lr)
        for _ in range(20):
            descent.zero_grad()
            ((net(z) - y).square().sum() / 20).backward()
            descent.step()
        apart.append(((net(z) - expected).norm() / expected.norm()).item())
    assert apart[1] < 0.4 * apart[0] and apart[1] < 0.05


def test_what_is_refused():
    with pytest.raises(ValueError, match="even width, not 5"):
        TwoLayerNTK(2, 1, 5)
    with pytest.raises(ValueError, match="positive"):
        TwoLayerNTK(2, 0, 4)
