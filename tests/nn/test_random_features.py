import pytest
import torch

from thalweg.nn import RandomFeatures


def test_features_are_fixed_and_of_the_stated_variance():
    layer = RandomFeatures(400, 500, "tanh", 0.5, generator=torch.Generator().manual_seed(0))
    assert not list(layer.parameters()) and "weight" in layer.state_dict()
    assert layer.weight.var().item() * 400 == pytest.approx(0.25, rel=0.02)
    x = torch.randn(3, 400)
    assert torch.equal(layer(x), (x @ layer.weight).tanh())
    assert torch.equal(
        RandomFeatures(400, 500, generator=torch.Generator().manual_seed(0))(x), (2 * x @ layer.weight).relu()
    )


@pytest.mark.parametrize("arguments", [(0, 3), (3, 0), (3, 3, "sin"), (3, 3, "relu", 0.0)])
def test_what_is_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        RandomFeatures(*arguments)
