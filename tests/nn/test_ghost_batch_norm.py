import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from thalweg.nn import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d, convert_ghost_batchnorm
from thalweg.registry import lookup

PAIRS = [
    (GhostBatchNorm1d, nn.BatchNorm1d, ()),
    (GhostBatchNorm1d, nn.BatchNorm1d, (5,)),
    (GhostBatchNorm2d, nn.BatchNorm2d, (4, 3)),
    (GhostBatchNorm3d, nn.BatchNorm3d, (2, 3, 2)),
]


def random_input(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomize(layer, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias, layer.running_mean):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=generator) + 0.5)
    return layer.double()


@pytest.mark.parametrize(("ghost", "plain", "space"), PAIRS)
@pytest.mark.parametrize("batch", [8, 15])
def test_below_two_ghost_batches_it_is_batch_norm(ghost, plain, space, batch):
    norm, reference = randomize(ghost(3, ghost_size=8)), randomize(plain(3))
    x = random_input(batch, 3, *space).requires_grad_()
    y = x.detach().clone().requires_grad_()
    weights = random_input(batch, 3, *space, seed=5)
    out, expected = norm(x), reference(y)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(x.grad, y.grad)
    for name, parameter in norm.named_parameters():
        torch.testing.assert_close(parameter.grad, reference.get_parameter(name).grad)
    for name, buffer in reference.named_buffers():
        torch.testing.assert_close(norm.get_buffer(name), buffer)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(2, 40),
    ghost_size=st.integers(2, 20),
    channels=st.integers(1, 4),
    momentum=st.floats(0.01, 1),
    pair=st.sampled_from(PAIRS),
)
def test_it_is_batch_norm_on_each_chunk_in_turn(batch, ghost_size, channels, momentum, pair):
    ghost, plain, space = pair
    norm = randomize(ghost(channels, ghost_size, momentum=momentum))
    reference = randomize(plain(channels, momentum=momentum))
    x = random_input(batch, channels, *space)
    chunks = x.tensor_split(max(1, batch // ghost_size))
    torch.testing.assert_close(norm(x), torch.cat([reference(chunk) for chunk in chunks]))
    torch.testing.assert_close(norm.running_mean, reference.running_mean)
    torch.testing.assert_close(norm.running_var, reference.running_var)
    assert norm.num_batches_tracked == 1 and reference.num_batches_tracked == len(chunks)
    torch.testing.assert_close(norm.eval()(x), norm_in_eval(norm, x))


def norm_in_eval(norm, x):
    shape = (1, -1) + (1,) * (x.dim() - 2)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (x - norm.running_mean.view(shape)) * scale.view(shape) + norm.bias.view(shape)


def test_the_numbers_worked_out_by_hand():
    norm = GhostBatchNorm1d(1, ghost_size=2, eps=1e-12).double()
    y = norm(torch.tensor([[0.0], [2.0], [10.0], [14.0]], dtype=torch.float64))
    torch.testing.assert_close(y.flatten(), torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64))
    assert norm.running_mean.item() == pytest.approx(0.09 * 1 + 0.1 * 12)
    assert norm.running_var.item() == pytest.approx(0.81 * 1 + 0.09 * 2 + 0.1 * 8)


def test_the_layer_equals_separate_passes_with_averaged_gradients():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), GhostBatchNorm1d(5, ghost_size=4), nn.ReLU(), nn.Linear(5, 2)).double()
    chunked = copy.deepcopy(net)
    x, y = random_input(12, 6), torch.arange(12) % 2
    nn.functional.cross_entropy(net(x), y).backward()
    for part, labels in zip(x.split(4), y.split(4), strict=True):
        (nn.functional.cross_entropy(chunked(part), labels) / 3).backward()
    for ours, theirs in zip(net.parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(net[1].running_var, chunked[1].running_var)


def test_without_running_statistics_evaluation_uses_the_chunks_own():
    norm = GhostBatchNorm1d(2, ghost_size=3, affine=False, track_running_stats=False)
    x = torch.randn(6, 2)
    assert torch.equal(norm.eval()(x), norm.train()(x))
    assert not torch.allclose(norm(x), nn.BatchNorm1d(2, affine=False)(x))


def test_state_dicts_are_those_of_batch_norm():
    norm, plain = GhostBatchNorm2d(3), randomize(nn.BatchNorm2d(3))
    norm.load_state_dict(plain.state_dict())
    assert norm.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(norm.state_dict())


def test_it_compiles_copies_and_pickles():
    norm = GhostBatchNorm1d(2, ghost_size=4)
    for other in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
        assert other.ghost_size == 4 and isinstance(other, nn.BatchNorm1d)
    x = torch.randn(12, 2)
    graph = torch.compile(norm, backend="eager", fullgraph=True)
    torch.testing.assert_close(graph(x), copy.deepcopy(norm)(x))


@pytest.mark.parametrize("ghost_size", [0, -3])
def test_ghost_size_must_be_positive(ghost_size):
    with pytest.raises(ValueError, match="ghost_size must be at least 1"):
        GhostBatchNorm1d(2, ghost_size)
    with pytest.raises(ValueError, match="ghost_size must be at least 1"):
        convert_ghost_batchnorm(nn.BatchNorm1d(2), ghost_size)


def test_cumulative_averages_are_refused():
    with pytest.raises(ValueError, match="momentum must be a number"):
        GhostBatchNorm1d(2, momentum=None)
    with pytest.raises(ValueError, match="momentum must be a number"):
        convert_ghost_batchnorm(nn.Sequential(nn.BatchNorm1d(2, momentum=None)))


@pytest.mark.parametrize(("batch", "ghost_size"), [(1, 8), (4, 1), (5, 1)])
def test_one_value_per_channel_is_an_error_in_training_only(batch, ghost_size):
    norm = GhostBatchNorm1d(2, ghost_size)
    with pytest.raises(ValueError, match="one value per channel"):
        norm(torch.randn(batch, 2))
    assert norm.num_batches_tracked == 0
    assert norm.eval()(torch.randn(batch, 2)).shape == (batch, 2)
    assert GhostBatchNorm2d(2, 1)(torch.randn(4, 2, 3, 3)).shape == (4, 2, 3, 3)


def test_inputs_of_the_wrong_dimension_are_errors():
    with pytest.raises(ValueError, match="expected 4D input"):
        GhostBatchNorm2d(2)(torch.randn(4, 2))


def test_converting_keeps_everything_but_the_class():
    shared = nn.BatchNorm2d(4)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), shared, nn.Conv2d(4, 4, 1), shared, nn.Flatten(), nn.LazyLinear(3)).eval()
    calls = []
    shared.register_forward_hook(lambda *_: calls.append(1))
    parameters, state = list(net[1].parameters()), {k: v.clone() for k, v in shared.state_dict().items()}
    assert convert_ghost_batchnorm(net, 4) is net
    assert type(shared) is GhostBatchNorm2d and net[1] is net[3] and shared.ghost_size == 4 and not shared.training
    assert all(a is b for a, b in zip(parameters, shared.parameters(), strict=True))
    assert all(torch.equal(v, state[k]) for k, v in shared.state_dict().items())
    net(torch.randn(2, 1, 5, 5))
    assert len(calls) == 2
    convert_ghost_batchnorm(net, 16)
    assert shared.ghost_size == 16
    assert type(convert_ghost_batchnorm(nn.BatchNorm3d(2))) is GhostBatchNorm3d


def test_converting_nothing_or_another_kind_is_an_error_and_changes_nothing():
    with pytest.raises(ValueError, match="Linear has no BatchNorm layer"):
        convert_ghost_batchnorm(nn.Linear(2, 2))
    net = nn.Sequential(nn.BatchNorm1d(2), nn.SyncBatchNorm(2))
    with pytest.raises(ValueError, match="can't convert 1: SyncBatchNorm"):
        convert_ghost_batchnorm(net)
    assert type(net[0]) is nn.BatchNorm1d


def test_it_is_registered_as_a_converter():
    entry = lookup("ghost_batch_norm", "nn")
    assert entry.target is convert_ghost_batchnorm and set(entry.search) <= set(entry.settings())
