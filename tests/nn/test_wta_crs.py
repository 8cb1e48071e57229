"""The layer that stores a sample of its rows: what is exact, what is unbiased, and what memory really holds."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from thalweg.nn import GradNormCache, WTACRSLinear, convert_wta_crs


def randoms(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def bytes_saved(model: nn.Module, x: Tensor) -> int:
    """Bytes of the different storages that autograd holds after a forward pass, parameters left out."""
    owned = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, int] = {}
    kept = []  # else a freed storage's address might come again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            held[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    return sum(held.values())


class Attention(nn.Module):
    """Queries, keys and values of one tensor, as in most models."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return torch.cat([self.query(x), self.key(x), self.value(x)], -1)


@pytest.mark.parametrize("shape", [(40, 6), (4, 10, 6), (2, 3, 7, 6)])
def test_all_but_the_weight_gradient_is_torchs(shape: tuple[int, ...]) -> None:
    plain = nn.Linear(6, 4).double()
    ours = convert_wta_crs(copy.deepcopy(plain))
    x, y = (randoms(*shape).requires_grad_() for _ in range(2))
    expected, out = plain(x), ours(y)
    assert torch.equal(out, expected)
    grad = randoms(*out.shape, seed=1)
    expected.backward(grad)
    out.backward(grad)
    torch.testing.assert_close(y.grad, x.grad, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(ours.bias.grad, plain.bias.grad, rtol=1e-12, atol=1e-13)
    assert not torch.allclose(ours.weight.grad, plain.weight.grad)


@pytest.mark.parametrize("deterministic", ["adaptive", 0.0])
def test_the_weight_gradient_is_unbiased_whatever_the_table_says(deterministic) -> None:
    """Mean over draws within 4.5 standard errors of the exact one, element by element."""
    cache = GradNormCache(5, 4, dtype=torch.float64)
    cache.set_batch(torch.arange(5))
    layer = WTACRSLinear(3, 2, bias=False, sample_ratio=0.4, min_rows=1, deterministic=deterministic).double()
    layer.norm_cache, layer.norm_key = cache, "layer"
    x, grad = randoms(5, 4, 3), randoms(5, 4, 2, seed=1)
    exact = torch.einsum("bto,bti->oi", grad, x)
    table, found = torch.rand(20, generator=torch.Generator().manual_seed(2)) ** 3, []
    torch.manual_seed(0)
    for _ in range(400):
        cache.write("layer", cache.ids, table)
        layer.weight.grad = None
        layer(x).backward(grad)
        found.append(layer.weight.grad)
    values = torch.stack(found)
    assert ((values.mean(0) - exact).abs() < 4.5 * values.std(0) / 400**0.5).all()
    assert values.std(0).min() > 0


def test_the_backward_pass_is_that_of_the_weighted_rows() -> None:
    x, grad = randoms(50, 6), randoms(50, 4, seed=1)
    layer = WTACRSLinear(6, 4, sample_ratio=0.2).double()
    out = layer(x)
    rows = x._wta_crs_rows
    weight = layer.weight.detach().clone().requires_grad_()
    ratio = rows.kept.norm(dim=1) / x[rows.indices].norm(dim=1)  # a sample's weight
    assert len(ratio) == 10 and ratio.max() > 1.5
    ((x[rows.indices] * ratio[:, None]) @ weight.T * grad[rows.indices]).sum().backward()
    out.backward(grad)
    torch.testing.assert_close(layer.weight.grad, weight.grad, rtol=1e-12, atol=1e-13)


def test_where_it_is_torchs_layer_bit_by_bit() -> None:
    plain = nn.Linear(6, 4)
    x = randoms(40, 6, dtype=torch.float32)
    for layer, rows in (
        (convert_wta_crs(copy.deepcopy(plain), sample_ratio=1.0), x),
        (convert_wta_crs(copy.deepcopy(plain)), x[:10]),  # no more than min_rows
        (convert_wta_crs(copy.deepcopy(plain)), x[0]),  # one vector
        (convert_wta_crs(copy.deepcopy(plain)), x[:0]),
        (convert_wta_crs(copy.deepcopy(plain)).eval(), x),
    ):
        plain.zero_grad()
        for one in (plain, layer):
            one(rows).square().sum().backward()
        assert torch.equal(layer.weight.grad, plain.weight.grad) and torch.equal(layer.bias.grad, plain.bias.grad)
    frozen = convert_wta_crs(copy.deepcopy(plain))
    frozen.weight.requires_grad_(False)
    assert bytes_saved(frozen, x) == 0
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        convert_wta_crs(nn.Linear(6, 4))(x[:, :5])


def test_memory_of_one_layer() -> None:
    x = torch.randn(8, 50, 64).requires_grad_()
    plain, ours = nn.Linear(64, 32), WTACRSLinear(64, 32, sample_ratio=0.3)
    assert bytes_saved(plain, x) == 400 * 64 * 4
    assert bytes_saved(ours, x) == 120 * 64 * 4 + 120 * 8  # rows in float32 and their indices


def test_queries_keys_and_values_share_their_rows() -> None:
    x = torch.randn(4, 50, 16)
    model = Attention()
    norm = 200 * 4 * 2  # mean and deviation; the input is the caller's
    whole = bytes_saved(model, x)
    assert whole == 200 * 16 * 4 + 200 * 16 * 4 + norm  # one tensor for all three, and the norm's input
    convert_wta_crs(model, 0.25, include=["query", "key", "value"])
    assert bytes_saved(model, x) == whole - 200 * 16 * 4 + 50 * 16 * 4 + 50 * 8
    convert_wta_crs(model, 0.25, include="value", deterministic=0.0)  # other settings: rows of its own
    assert bytes_saved(model, x) == whole - 200 * 16 * 4 + 2 * (50 * 16 * 4 + 50 * 8)


def test_rows_are_shared_within_a_step_only() -> None:
    one, two, x = WTACRSLinear(6, 4), WTACRSLinear(6, 4), torch.randn(100, 6)
    drawn = []
    for _ in range(2):
        for layer in (one, two):
            layer(x)
            drawn.append(x._wta_crs_rows)
    assert drawn[0] is drawn[1] and drawn[2] is drawn[3] and drawn[0] is not drawn[2]
    one(x)
    x += 1
    two(x)
    assert x._wta_crs_rows is not drawn[2] and x._wta_crs_rows.users == {id(two)}


def test_the_cache_holds_the_gradients_of_all_that_share() -> None:
    cache = GradNormCache(9, 50, dtype=torch.float32)
    model = convert_wta_crs(Attention(), include=["query", "key", "value"], norm_cache=cache)
    cache.set_batch(torch.tensor([8, 3, 0, 4]))
    out = model(torch.randn(4, 50, 16))
    grad = torch.randn(4, 50, 48)
    grad[1, 30:] = 0  # padding
    out.backward(grad)
    assert list(cache.tables) == ["query"]
    torch.testing.assert_close(cache.tables["query"][cache.ids], grad.norm(dim=-1))
    assert cache.tables["query"].isnan().sum() == 5 * 50

    x = torch.ones(4, 50, 16)
    cache.set_batch(torch.tensor([8, 3, 0, 1]))  # the last was never seen: it counts as the mean of the others
    layer = model.query
    layer.sampling = WTACRSLinear(1, 1, sample_ratio=0.9, deterministic=0.0, floor=0.0).sampling
    seen = torch.bincount(torch.cat([layer._draw(x, 180).indices for _ in range(50)]), minlength=200)
    expected = torch.cat([grad[[0, 1, 2]].norm(dim=-1), grad[:3].norm(dim=-1).mean().expand(1, 50)]).flatten()
    assert not seen[80:100].any()
    counts = expected / expected.sum() * 50 * 180
    assert ((seen - counts) ** 2 / counts.clamp(min=1)).sum() < 180 + 5 * 360**0.5  # chi-square with 179 degrees


def test_a_cache_that_knows_of_no_batch_warns_and_trains() -> None:
    layer = convert_wta_crs(nn.Linear(6, 4), norm_cache=GradNormCache(3, 20))
    with pytest.warns(UserWarning, match="call GradNormCache.set_batch"):
        layer(torch.randn(60, 6)).sum().backward()
    assert layer.weight.grad is not None and layer.norm_cache.tables == {}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64])
def test_dtypes(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = WTACRSLinear(6, 4, sample_ratio=0.5, dtype=dtype)
    x, grad = torch.randn(60, 6, dtype=dtype), torch.randn(60, 4, dtype=dtype)
    total = torch.zeros(4, 6, dtype=dtype)
    for _ in range(100):
        layer.weight.grad = None
        layer(x).backward(grad)
        assert layer.weight.grad.dtype is dtype
        total += layer.weight.grad / 100
    exact = grad.mT @ x.conj()
    assert (total - exact).norm() < 0.2 * exact.norm()


def test_autocast_stores_what_it_multiplies() -> None:
    layer, x = WTACRSLinear(8, 4, sample_ratio=0.25), torch.randn(100, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert bytes_saved(layer, x) == 25 * 8 * 2 + 25 * 8
        out = layer(x)
        assert out.dtype is torch.bfloat16
        out.sum().backward()
    assert layer.weight.grad.dtype is layer.bias.grad.dtype is x.grad.dtype is torch.float32
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(100, 8).detach(), rtol=0.02, atol=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wide = layer.double()
        assert wide(x.detach().double()).dtype is torch.float64 and bytes_saved(wide, x.detach().double()) == 25 * 72


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_recomputes_the_same_rows(reentrant: bool) -> None:
    model = convert_wta_crs(Attention().double(), include=["query", "key", "value"])
    x, grad = randoms(100, 16).requires_grad_(), randoms(100, 48, seed=1)
    found = []
    for run in (model, lambda x: checkpoint(model, x, use_reentrant=reentrant)):
        torch.manual_seed(5)
        model.zero_grad()
        run(x).backward(grad)
        found.append([p.grad.clone() for p in model.parameters()])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-13)


def test_rows_without_content_and_numbers_that_are_none() -> None:
    layer = WTACRSLinear(6, 4)
    for x in (torch.zeros(60, 6), torch.cat([torch.zeros(59, 6), torch.ones(1, 6)])):
        layer.zero_grad()
        layer(x).sum().backward()
        torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(4, 6), rtol=1e-5, atol=1e-5)
    x = torch.randn(60, 6)
    x[7, 2] = torch.nan
    layer(x).sum().backward()
    assert layer.weight.grad.isnan().any()  # a broken batch stays visible


def test_differentiating_twice_is_refused() -> None:
    layer = WTACRSLinear(3, 2)
    (gradient,) = torch.autograd.grad(layer(torch.randn(40, 3)).square().sum(), layer.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="trying to differentiate twice"):
        gradient.sum().backward()


def test_compiled_forward_and_backward() -> None:
    layer = convert_wta_crs(nn.Linear(6, 4), sample_ratio=0.5, deterministic=1.0)  # the largest: nothing random
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    x, grad = torch.randn(60, 6), torch.randn(60, 4)
    layer(x).backward(grad)
    expected, layer.weight.grad = layer.weight.grad, None
    compiled(x).backward(grad)
    torch.testing.assert_close(layer.weight.grad, expected)


def test_conversion_keeps_objects_and_checkpoints() -> None:
    model = Attention()
    keys, weight, optimizer = list(model.state_dict()), model.query.weight, torch.optim.SGD(model.parameters(), lr=0.1)
    assert convert_wta_crs(model, include=("que*", "key")) is model
    assert [type(part) for part in model.children()][1:] == [WTACRSLinear, WTACRSLinear, nn.Linear]
    assert list(model.state_dict()) == keys and model.query.weight is weight and "sample_ratio=0.3" in repr(model)
    before = weight.detach().clone()
    model(torch.randn(40, 16)).sum().backward()
    optimizer.step()
    assert not torch.equal(weight, before)
    Attention().load_state_dict(model.state_dict())
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.query.sampling == model.query.sampling
    assert convert_wta_crs(model, 0.5).query.sampling.sample_ratio == 0.5  # again: only the settings change


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WTACRSLinear(2, 2, sample_ratio=0.0), "sample_ratio must be above 0 and at most 1, not 0.0"),
        (lambda: convert_wta_crs(Attention(), 1.5), "sample_ratio must be above 0 and at most 1, not 1.5"),
        (lambda: WTACRSLinear(2, 2, min_rows=0), "min_rows must be at least 1, not 0"),
        (lambda: WTACRSLinear(2, 2, floor=2.0), "floor must lie between 0 and 1, not 2.0"),
        (lambda: WTACRSLinear(2, 2, deterministic=-0.1),
         "deterministic must be 'adaptive' or a share between 0 and 1, not -0.1"),
        (lambda: convert_wta_crs(Attention(), include=["query", "*_proj"]),
         "Attention has no plain nn.Linear named '*_proj' (it has query, key, value)"),
        (lambda: convert_wta_crs(nn.ReLU()), "ReLU has no plain nn.Linear named '*' (it has none)"),
    ],
)  # fmt: skip
def test_refusals(make, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message
