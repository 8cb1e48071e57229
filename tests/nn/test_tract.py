"""TrAct: the closed form, both systems, convolutions against their patches, and what stays torch's."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from thalweg.autodiff import per_example_gradients
from thalweg.nn import TrActConv2d, TrActLinear, convert_tract, tract_weight_grad

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch warns of the copy that even kernels cost


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weight_gradient(layer: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    layer.zero_grad()
    layer(x).backward(grad)
    return layer.weight.grad


def test_numbers_by_hand() -> None:
    x = torch.tensor([[1, 0], [0, 2], [1, 1]], dtype=torch.float64)
    grad = torch.tensor([[1], [-1], [0.5]], dtype=torch.float64) / 3
    expected = torch.tensor([[0.8445040214477212, -0.4423592493297587]], dtype=torch.float64)
    torch.testing.assert_close(tract_weight_grad(x, grad, 0.1), expected, rtol=1e-14, atol=0)
    layer = TrActLinear(2, 1).double()
    torch.testing.assert_close(weight_gradient(layer, x, grad), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(layer.bias.grad, grad.sum(0), rtol=1e-15, atol=0)


@pytest.mark.parametrize("count", [1, 4, 6, 7, 40])
def test_it_minimizes_what_it_says_it_does(count: int) -> None:
    """On either side of the switch between the two systems: the derivative of the ridge problem is zero."""
    x, grad, lam = randoms(count, 6), randoms(count, 3, seed=1), 0.3
    step = tract_weight_grad(x, grad, lam)
    residual = x @ step.T - count * grad
    derivative = residual.T @ x + lam * count * step
    assert derivative.abs().max() < 1e-11 * count


def test_one_example_moves_its_output_by_the_gradient_whatever_the_contrast() -> None:
    x, grad = randoms(1, 5), randoms(1, 2, seed=1)
    for contrast in (1e2, 1e4):
        moved = contrast * x @ tract_weight_grad(contrast * x, grad, 0.1).T
        torch.testing.assert_close(moved, grad, rtol=1e-4, atol=0)


def test_a_heavy_ridge_is_the_plain_gradient_and_an_orthonormal_design_only_scales_it() -> None:
    x, grad = randoms(8, 4), randoms(8, 3, seed=1)
    torch.testing.assert_close(1e6 * tract_weight_grad(x, grad, 1e6), grad.T @ x, rtol=1e-5, atol=1e-6)
    q = torch.linalg.qr(x).Q * 8**0.5
    torch.testing.assert_close(tract_weight_grad(q, grad, 0.5), grad.T @ q / 1.5, rtol=1e-13, atol=1e-14)


PLAIN = {
    "linear": (lambda: nn.Linear(6, 4), (5, 6)),
    "sequence": (lambda: nn.Linear(6, 4), (3, 7, 6)),
    "one vector": (lambda: nn.Linear(6, 4, bias=False), (6,)),
    "conv": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1), (3, 2, 7, 6)),
    "few patches": (lambda: nn.Conv2d(2, 4, 5, bias=False), (1, 2, 6, 6)),
    "groups, dilation": (lambda: nn.Conv2d(4, 6, 3, dilation=2, groups=2), (3, 4, 8, 7)),
    "circular": (lambda: nn.Conv2d(2, 4, 3, padding=(1, 2), padding_mode="circular"), (2, 2, 6, 5)),
    "same": (lambda: nn.Conv2d(2, 3, (3, 2), padding="same"), (2, 2, 5, 5)),
    "one image": (lambda: nn.Conv2d(2, 3, 3), (2, 5, 5)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_all_but_the_weight_gradient_is_torchs(name: str) -> None:
    make, shape = PLAIN[name]
    torch.manual_seed(0)
    plain = make().double()
    ours = convert_tract(copy.deepcopy(plain), lam=0.2)
    x, y = (randoms(*shape).requires_grad_() for _ in range(2))
    expected, out = plain(x), ours(y)
    assert torch.equal(out, expected)
    grad = randoms(*out.shape, seed=1)
    expected.backward(grad)
    out.backward(grad)
    torch.testing.assert_close(y.grad, x.grad, rtol=1e-12, atol=1e-13)
    if plain.bias is not None:
        torch.testing.assert_close(ours.bias.grad, plain.bias.grad, rtol=1e-12, atol=1e-13)
    assert ours.weight.grad.shape == plain.weight.shape and not torch.allclose(ours.weight.grad, plain.weight.grad)


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in ("linear", "sequence", "one vector")])
def test_a_convolution_is_a_linear_layer_on_its_patches(name: str) -> None:
    make, shape = PLAIN[name]
    layer = convert_tract(make().double(), lam=0.2)
    x = randoms(*shape)
    grad = randoms(*layer(x).shape, seed=1)
    found = weight_gradient(layer, x, grad)
    if x.ndim == 3:
        x, grad = x[None], grad[None]
    if layer.padding_mode == "circular":
        x = F.pad(x, (2, 2, 1, 1), "circular")
    elif layer.padding == "same":
        x = F.pad(x, (0, 1, 1, 1))
    elif layer.padding != (0, 0):
        x = F.pad(x, (1, 1, 1, 1))
    for group in range(layer.groups):
        own = x.chunk(layer.groups, 1)[group]
        patches = F.unfold(own, layer.kernel_size, layer.dilation, 0, layer.stride).mT.flatten(0, 1)
        outputs = grad.chunk(layer.groups, 1)[group].flatten(2).mT.flatten(0, 1)
        expected = (
            outputs.T
            @ patches
            @ torch.linalg.inv(patches.T @ patches / len(patches) + 0.2 * torch.eye(patches.shape[1], dtype=x.dtype))
        )
        rows = found.chunk(layer.groups)[group].flatten(1)
        torch.testing.assert_close(rows, expected, rtol=1e-9, atol=1e-11)


def test_a_kernel_as_large_as_the_image_is_a_linear_layer() -> None:
    conv, linear = TrActConv2d(2, 3, 4, bias=False).double(), TrActLinear(32, 3, bias=False).double()
    x, grad = randoms(50, 2, 4, 4), randoms(50, 3, seed=1)
    one = weight_gradient(conv, x, grad[:, :, None, None])
    two = weight_gradient(linear, x.flatten(1), grad)
    torch.testing.assert_close(one.flatten(1), two, rtol=1e-11, atol=1e-13)


def test_leading_dimensions_are_examples_and_patch_embeddings_agree() -> None:
    """A convolution whose stride is its kernel equals a linear layer on the tokens."""
    x, grad = randoms(4, 9, 6), randoms(4, 9, 3, seed=1)
    layer = TrActLinear(6, 3).double()
    expected = tract_weight_grad(x.flatten(0, 1), grad.flatten(0, 1))
    torch.testing.assert_close(weight_gradient(layer, x, grad), expected, rtol=1e-13, atol=0)

    images = randoms(5, 1, 6, 6)
    conv, tokens = TrActConv2d(1, 3, 2, stride=2).double(), TrActLinear(4, 3).double()
    grad = randoms(5, 3, 3, 3, seed=2)
    patches = F.unfold(images, 2, stride=2).mT
    one = weight_gradient(conv, images, grad)
    two = weight_gradient(tokens, patches, grad.flatten(2).mT)
    torch.testing.assert_close(one.flatten(1), two, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("make", [lambda: TrActLinear(5, 3), lambda: nn.Sequential(TrActConv2d(1, 3, 2), nn.Flatten())])
def test_per_example_gradients_are_those_of_batches_of_one(make) -> None:
    model = make().double()
    x = randoms(4, 5) if isinstance(model, TrActLinear) else randoms(4, 1, 4, 4)
    rows = per_example_gradients(model, lambda out, y: (out**2).sum(1).mean(), x, torch.zeros(4))
    for row, one in zip(rows, x, strict=True):
        model.zero_grad()
        (model(one[None]) ** 2).sum(1).mean().backward()
        expected = torch.cat([p.grad.flatten() for p in model.parameters()])
        torch.testing.assert_close(row, expected, rtol=1e-10, atol=1e-12)
    if isinstance(model, TrActLinear):
        out = 2 * model(x)
        expected = out[:, :, None] * x[:, None] / (x.square().sum(1) + 0.1)[:, None, None]
        torch.testing.assert_close(rows[:, :15].view(4, 3, 5), expected, rtol=1e-12, atol=0)


def test_accumulated_gradients_are_sums_over_their_parts() -> None:
    layer, x, grad = TrActLinear(4, 2, bias=False).double(), randoms(6, 4), randoms(6, 2, seed=1)
    whole = weight_gradient(layer, x, grad).clone()
    layer.zero_grad()
    for part, g in zip(x.chunk(2), grad.chunk(2), strict=True):
        layer(part).backward(g)
    parts = sum(tract_weight_grad(a, b) for a, b in zip(x.chunk(2), grad.chunk(2), strict=True))
    torch.testing.assert_close(layer.weight.grad, parts, rtol=1e-13, atol=0)
    assert not torch.allclose(parts, whole, rtol=0.1)


def test_low_precision_is_solved_in_float32() -> None:
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer, conv = TrActLinear(3, 2), TrActConv2d(1, 2, 2)
        x, image = torch.randn(5, 3, requires_grad=True), torch.randn(2, 1, 4, 4)
        out, pixels = layer(x), conv(image)
        assert out.dtype is pixels.dtype is torch.bfloat16
        (out.sum() + pixels.sum()).backward()
    assert layer.weight.grad.dtype is conv.weight.grad.dtype is x.grad.dtype is torch.float32
    torch.testing.assert_close(layer.weight.grad, tract_weight_grad(x.detach(), torch.ones(5, 2)))
    half = TrActLinear(3, 2, dtype=torch.bfloat16)
    half(torch.randn(5, 3, dtype=torch.bfloat16)).sum().backward()
    assert half.weight.grad.dtype is torch.bfloat16


def test_what_cant_be_solved_is_nan_and_no_examples_are_zero() -> None:
    x = torch.ones(3, 2)
    x[1, 0] = float("nan")
    assert tract_weight_grad(x, torch.ones(3, 1)).isnan().all()
    assert torch.equal(tract_weight_grad(torch.ones(0, 2), torch.ones(0, 3)), torch.zeros(3, 2))
    layer = TrActLinear(2, 3)
    layer(torch.ones(0, 2)).sum().backward()
    assert not layer.weight.grad.any()


def test_differentiating_twice_is_refused() -> None:
    layer = TrActLinear(3, 2)
    (gradient,) = torch.autograd.grad(layer(torch.randn(4, 3)).square().sum(), layer.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="trying to differentiate twice"):
        gradient.sum().backward()


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)


class Vision(nn.Module):
    """A model with a parameter of its own before its patch embedding, and a norm on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1))
        self.norm, self.patch = nn.BatchNorm2d(1), nn.Conv2d(1, 4, 2, stride=2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.patch(self.norm(x)).flatten(2).mean(2) + self.position)


def test_conversion_keeps_objects_and_checkpoints() -> None:
    model = Vision()
    keys, weight, optimizer = list(model.state_dict()), model.patch.weight, torch.optim.SGD(model.parameters(), lr=0.1)
    assert convert_tract(model, lam=0.3) is model
    assert type(model.patch) is TrActConv2d and type(model.head) is nn.Linear and "lam=0.3" in repr(model)
    assert list(model.state_dict()) == keys and model.patch.weight is weight
    before = weight.detach().clone()
    model(torch.randn(3, 1, 4, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(weight, before)
    Vision().load_state_dict(model.state_dict())
    assert convert_tract(model, lam=0.5).patch.lam == 0.5  # again: only the ridge changes
    assert type(convert_tract(Vision(), layer="head").head) is TrActLinear
    assert type(copy.deepcopy(model).patch) is TrActConv2d


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: convert_tract(Embedded()), TypeError,
         "can't convert token: Embedding is neither nn.Linear nor nn.Conv2d (say which layer is meant by layer=)"),
        (lambda: convert_tract(nn.Conv1d(1, 2, 3)), TypeError,
         "can't convert the model: Conv1d is neither nn.Linear nor nn.Conv2d (say which layer is meant by layer=)"),
        (lambda: convert_tract(nn.Linear(2, 2), lam=0.0), ValueError, "lam must be a number above 0, not 0.0"),
        (lambda: TrActLinear(2, 2, lam=float("inf")), ValueError, "lam must be a number above 0, not inf"),
        (lambda: TrActConv2d(2, 2, 1, lam=-1.0), ValueError, "lam must be a number above 0, not -1.0"),
        (lambda: convert_tract(Vision(), layer="body"), ValueError, "Vision has no layer 'body'"),
        (lambda: convert_tract(nn.ReLU()), ValueError, "ReLU has no layer with parameters"),
    ],
)  # fmt: skip
def test_refusals(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message
