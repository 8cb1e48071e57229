import torch
from torch import nn

from thalweg.init import orthogonal_
from thalweg.probe import jacobian_singular_values


def test_against_a_product_of_slopes_and_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    slopes = 1 - net[0](x).detach().tanh() ** 2
    expected = torch.linalg.svdvals((net[2].weight * slopes[:, None]) @ net[0].weight).detach()
    assert torch.allclose(jacobian_singular_values(net, x, chunk=4), expected)


def test_images_are_flattened_and_the_model_is_left_alone():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    values = jacobian_singular_values(net, torch.randn(3, 1, 4, 4))
    assert values.shape == (3, 8) and not values.requires_grad
    assert net.training and all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_deep_orthogonal_network_is_an_isometry_until_tanh_bends_it():
    draws = torch.Generator().manual_seed(0)
    linear = orthogonal_(nn.Sequential(*[nn.Linear(16, 16) for _ in range(30)]), generator=draws)
    x = torch.randn(2, 16, generator=draws)
    assert (jacobian_singular_values(linear, x) - 1).abs().max() < 1e-4
    bent = nn.Sequential(*[module for layer in linear for module in (layer, nn.Tanh())])
    assert jacobian_singular_values(bent, x).max() < 1
