import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from thalweg.init import orthogonal_
from thalweg.registry import lookup


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def singular_values(matrix):
    return torch.linalg.svdvals(matrix.detach().double())


def assert_semi_orthogonal(matrix, gain=1.0, tol=1e-5):
    torch.testing.assert_close(singular_values(matrix), gain * torch.ones(min(matrix.shape)).double(), atol=tol, rtol=0)


def operator(layer, *shape):
    """The matrix of a linear layer that maps images to images."""
    basis = torch.eye(int(torch.tensor(shape).prod()))
    return layer(basis.view(-1, *shape)).flatten(1).T


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 24), columns=st.integers(1, 24), gain=st.floats(0.1, 10), seed=st.integers(0, 2**31))
def test_linear_weights_have_all_singular_values_at_the_gain(rows, columns, gain, seed):
    layer = orthogonal_(nn.Linear(columns, rows), gain, generator=seeded(seed))
    assert_semi_orthogonal(layer.weight, gain, tol=1e-5 * gain)
    assert layer.bias.eq(0).all()


def test_a_product_of_100_matrices_is_an_isometry_where_gaussians_are_not():
    net = orthogonal_(nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(100))), generator=seeded())
    product = torch.eye(64)
    for layer in net:
        product = layer.weight @ product
    assert_semi_orthogonal(product, tol=1e-4)
    gaussian = torch.eye(64, dtype=torch.float64)
    for _ in range(100):
        gaussian = torch.randn(64, 64, generator=seeded(_), dtype=torch.float64) / 8 @ gaussian
    spread = singular_values(gaussian)
    assert spread[0] / spread[-1] > 1e15


@pytest.mark.parametrize("channels", [(4, 4), (3, 8), (8, 3)])
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_delta_makes_the_convolution_itself_orthogonal(channels, padding):
    layer = nn.Conv2d(*channels, 3, padding=1, padding_mode=padding, bias=False)
    orthogonal_(layer, 1.5, generator=seeded())
    assert_semi_orthogonal(operator(layer, channels[0], 5, 5), 1.5)
    assert layer.weight.count_nonzero() == channels[0] * channels[1]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 8, 3, stride=2, padding=1),
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.Conv2d(2, 40, 7, stride=4, padding=3),
        nn.Conv2d(2, 5, 4, stride=4),
        nn.Conv1d(3, 6, 2, stride=2),
        nn.Conv3d(2, 3, 3, padding=1),
        nn.Conv1d(3, 9, 3, stride=3, padding=2, dilation=2),
        nn.Conv2d(4, 8, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
    ],
    ids=str,
)
def test_delta_is_orthogonal_with_strides_patches_and_groups(layer):
    orthogonal_(layer, generator=seeded())
    size = {nn.Conv1d: (12,), nn.Conv2d: (8, 8), nn.Conv3d: (3, 3, 3)}[type(layer)]
    matrix = operator(layer, layer.in_channels, *size)
    values = singular_values(matrix)
    if layer.dilation == (2,):  # here some border pixels fall outside; all others are kept
        assert ((values - 1).abs() < 1e-5).sum() >= 0.7 * len(values)
    else:
        assert_semi_orthogonal(matrix)


def test_delta_where_dilation_repeats_the_stride_keeps_single_taps():
    layer = orthogonal_(nn.Conv1d(2, 2, 3, stride=2, padding=2, dilation=2), generator=seeded())
    values = singular_values(operator(layer, 2, 8))
    assert values.max() < 1 + 1e-5
    assert_semi_orthogonal(layer.weight[:, :, 1])


def test_transposed_convolution_is_the_adjoint_of_an_orthogonal_one():
    layer = orthogonal_(nn.ConvTranspose2d(8, 2, 2, stride=2), generator=seeded())
    assert_semi_orthogonal(operator(layer, 8, 4, 4))


def test_flatten_orthogonalizes_the_kernel_but_not_the_map_of_images():
    layer = orthogonal_(nn.Conv2d(8, 8, 3, padding=1, bias=False), conv="flatten", generator=seeded())
    assert_semi_orthogonal(layer.weight.flatten(1))
    values = singular_values(operator(layer, 8, 6, 6))
    assert values.max() > 1.5 and values.min() < 0.5


def test_attention_blocks_are_orthogonal_each():
    packed = orthogonal_(nn.MultiheadAttention(8, 2, add_bias_kv=True), generator=seeded())
    for block in [*packed.in_proj_weight.chunk(3), packed.out_proj.weight]:
        assert_semi_orthogonal(block)
    assert packed.in_proj_bias.eq(0).all() and packed.out_proj.bias.eq(0).all()
    assert packed.bias_k.ne(0).any()  # a learned key, not a bias
    split = orthogonal_(nn.MultiheadAttention(8, 2, kdim=5, vdim=6), generator=seeded())
    for block in (split.q_proj_weight, split.k_proj_weight, split.v_proj_weight):
        assert_semi_orthogonal(block)


@pytest.mark.parametrize(
    ("layer", "gates"),
    [
        (nn.LSTM(5, 8, 2, proj_size=3), 4),
        (nn.GRU(5, 8, bidirectional=True), 3),
        (nn.RNN(5, 8), 1),
        (nn.LSTMCell(5, 8), 4),
    ],
)
def test_recurrent_gates_are_orthogonal_each(layer, gates):
    orthogonal_(layer, generator=seeded())
    for name, parameter in layer.named_parameters():
        if "bias" in name:
            assert parameter.eq(0).all()
        else:
            for block in parameter.chunk(1 if "_hr" in name else gates):
                assert_semi_orthogonal(block)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.norm = nn.LayerNorm(6)
        self.first, self.again = nn.Linear(6, 6), nn.Linear(6, 6)
        self.again.weight = self.first.weight
        self.head = nn.Linear(6, 10)
        self.head.weight = self.embedding.weight
        self.own = nn.Parameter(torch.randn(4, 4))


def test_norms_embeddings_and_own_parameters_stay_and_shared_weights_are_drawn_once():
    model = Tied()
    before = {name: p.clone() for name, p in model.named_parameters()}
    state = seeded(7)
    orthogonal_(model, generator=state)
    for name in ("embedding.weight", "norm.weight", "norm.bias", "own"):
        assert torch.equal(dict(model.named_parameters())[name], before[name])
    assert model.again.weight is model.first.weight
    alone = orthogonal_(nn.Linear(6, 6), generator=(other := seeded(7)))
    assert torch.equal(model.first.weight, alone.weight)
    assert torch.equal(state.get_state(), other.get_state())


def test_biases_stay_on_request():
    layer = nn.Linear(3, 3)
    before = layer.bias.clone()
    orthogonal_(layer, zero_bias=False)
    assert torch.equal(layer.bias, before)


def test_bfloat16_weights_are_the_rounded_float32_ones():
    low = orthogonal_(nn.Linear(16, 16).bfloat16(), generator=seeded())
    high = orthogonal_(nn.Linear(16, 16), generator=seeded())
    assert low.weight.dtype == torch.bfloat16
    assert torch.equal(low.weight, high.weight.bfloat16())


def test_parameters_keep_identity_and_need_no_graph():
    layer = nn.Linear(3, 3)
    weight = layer.weight
    assert orthogonal_(layer) is layer
    assert layer.weight is weight and weight.requires_grad and weight.grad_fn is None


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Linear(3, 3, device="meta"), "0.weight is on the meta device"),
        (nn.LazyLinear(3), "0.weight has no shape yet"),
        (parametrizations.weight_norm(nn.Linear(3, 3)), "0.weight is computed"),
    ],
    ids=["meta", "lazy", "parametrized"],
)
def test_a_weight_that_cannot_be_written_is_named_and_nothing_is_changed(layer, message):
    good = nn.Linear(3, 3)
    before = good.weight.clone()
    with pytest.raises(ValueError, match=message):
        orthogonal_(nn.Sequential(layer, good))
    assert torch.equal(good.weight, before)


def test_quantized_weights_are_refused():
    layer = nn.Linear(3, 3)
    layer.weight = nn.Parameter(torch.zeros(3, 3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"weight holds torch\.int8"):
        orthogonal_(layer)


@pytest.mark.parametrize("gain", [0.0, -1.0, float("nan"), float("inf")])
def test_gain_must_be_positive(gain):
    with pytest.raises(ValueError, match="gain must be a positive number"):
        orthogonal_(nn.Linear(2, 2), gain)


def test_unknown_conv_and_models_without_weights_are_errors():
    with pytest.raises(ValueError, match="'delta' or 'flatten'"):
        orthogonal_(nn.Linear(2, 2), conv="reshape")
    with pytest.raises(ValueError, match="Embedding has no linear"):
        orthogonal_(nn.Embedding(2, 2))


def test_it_is_registered_as_a_start():
    entry = lookup("orthogonal", "init")
    assert entry.target is orthogonal_ and set(entry.search) <= set(entry.settings())
