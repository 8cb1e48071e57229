import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

from thalweg.data import el2n_scores, ensemble_scores, grand_scores


def problem(examples=21, classes=4):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(examples, 6, generator=generator)
    return X, torch.randint(classes, (examples,), generator=generator)


def network(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 4))
    net(torch.randn(16, 6))  # gives the running statistics some value
    return net


class Constant(nn.Module):
    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x):
        return self.logits.expand(len(x), -1)


SCORES = [el2n_scores, grand_scores]


def test_numbers_worked_out_by_hand():
    data = torch.zeros(1, 1), torch.tensor([0])
    assert el2n_scores(Constant(2.0, 1.0, 0.0), data).item() == pytest.approx(0.424336, abs=1e-6)
    assert el2n_scores(Constant(2.0, 1.0, 0.0), data, norm=1).item() == pytest.approx(0.669518, abs=1e-6)


@pytest.mark.parametrize(("bias", "expected"), [(True, 2.163698), (False, 2.121681)])
def test_grand_of_a_linear_layer(bias, expected):
    layer = nn.Linear(2, 3, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2 / 3, 0.0], [0.0, 0.25], [0.0, 0.0]]))  # logits (2, 1, 0) at (3, 4)
        if bias:
            layer.bias.zero_()
    data = torch.tensor([[3.0, 4.0]]), torch.tensor([0])
    assert grand_scores(layer, data).item() == pytest.approx(expected, abs=1e-5)


def test_grand_equals_a_loop_over_examples():
    X, y = problem()
    net = network()
    scores = grand_scores(net, (X, y), chunk_size=5)
    net.eval()
    for i in range(len(X)):
        gradients = torch.autograd.grad(F.cross_entropy(net(X[i : i + 1]), y[i : i + 1]), list(net.parameters()))
        expected = torch.cat([g.flatten() for g in gradients]).norm()
        torch.testing.assert_close(scores[i], expected, rtol=1e-5, atol=1e-7)


def test_grand_of_chosen_parameters():
    X, y = problem()
    net = network()
    last = grand_scores(net, (X, y), params=["4.weight", "4.bias"])
    features = net[:4].eval()(X)
    torch.testing.assert_close(last, el2n_scores(net, (X, y)) * (features.square().sum(1) + 1).sqrt())
    with pytest.raises(ValueError, match=r"no parameter '9\.weight'"):
        grand_scores(net, (X, y), params=["9.weight"])


def test_extreme_predictions():
    y = torch.tensor([0, 1, 2])
    X = torch.zeros(3, 1)
    torch.testing.assert_close(el2n_scores(Constant(0.0, 0.0, 0.0), (X, y)), torch.full((3,), math.sqrt(1 - 1 / 3)))
    sure = el2n_scores(Constant(100.0, 0.0, 0.0), (X, y))
    torch.testing.assert_close(sure, torch.tensor([0.0, 2**0.5, 2**0.5]))


@pytest.mark.parametrize("score", SCORES)
def test_soft_labels_agree_with_class_numbers(score):
    X, y = problem()
    soft = F.one_hot(y, 4).float()
    torch.testing.assert_close(score(network(), (X, soft)), score(network(), (X, y)))


@pytest.mark.parametrize("score", SCORES)
def test_the_form_and_batch_size_of_the_data_do_not_matter(score):
    data = problem()
    net = network()
    expected = score(net, data)
    assert expected.shape == (21,) and expected.std() > 0.01
    for size in (1, 7, 21):
        torch.testing.assert_close(score(net, DataLoader(TensorDataset(*data), size)), expected)
    torch.testing.assert_close(score(net, TensorDataset(*data)), expected)
    torch.testing.assert_close(score(net, [(data[0][:5], data[1][:5]), (data[0][5:], data[1][5:])]), expected)


@pytest.mark.parametrize("score", SCORES)
def test_the_model_is_left_as_it_was(score):
    X, y = problem()
    net = network().train()
    net[1].eval()
    F.cross_entropy(net(X), y).backward()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    gradients = [p.grad.clone() for p in net.parameters()]
    modes = [m.training for m in net.modules()]
    random_state = torch.get_rng_state()
    score(net, (X, y))
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), gradients, strict=True))
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("score", SCORES)
def test_modes_come_back_after_an_error(score):
    net = network().train()
    with pytest.raises(ValueError, match="class numbers from 0 to 3"):
        score(net, (torch.randn(2, 6), torch.tensor([0, 4])))
    assert all(m.training for m in net.modules())


def loaders():
    data = TensorDataset(*problem())
    return [
        DataLoader(data, 4, shuffle=True),
        DataLoader(data, 4, drop_last=True),
        DataLoader(data, 4, sampler=RandomSampler(data)),
        DataLoader(data, batch_sampler=list(BatchSampler(SequentialSampler(data), 4, drop_last=False))),
    ]


@pytest.mark.parametrize("loader", loaders(), ids=["shuffle", "drop_last", "sampler", "batch_sampler"])
@pytest.mark.parametrize("score", SCORES)
def test_loaders_that_lose_the_order_are_refused(score, loader):
    with pytest.raises(ValueError, match="every example in order"):
        score(network(), loader)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("model", "y", "message"),
    [
        (nn.Linear(6, 4), torch.tensor([-1, 0]), "class numbers from 0 to 3"),
        (nn.Linear(6, 4), torch.zeros(2), "real targets must be probabilities"),
        (nn.Linear(6, 4), torch.zeros(3, dtype=torch.long), "2 inputs but 3 targets"),
        (nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)), torch.zeros(2), "logits of shape"),
    ],
)
def test_problems_that_are_no_classification(score, model, y, message):
    with pytest.raises(ValueError, match=message):
        score(model, (torch.randn(2, 6), y))


@pytest.mark.parametrize("score", SCORES)
def test_a_diverged_model_is_an_error(score):
    net = network()
    nn.init.constant_(net[4].bias, math.nan)
    with pytest.raises(ValueError, match="did the scoring run diverge"):
        score(net, problem())


def test_bad_norm():
    with pytest.raises(ValueError, match="norm must be 1 or 2"):
        el2n_scores(network(), problem(), norm=3)


def test_an_ensemble_is_the_mean_of_its_runs_and_leaves_no_trace():
    data = problem()
    random_state = torch.get_rng_state()
    seen = []

    def train(model, generator):
        seen.append(torch.rand((), generator=generator).item())
        with torch.no_grad():
            model[0].bias.add_(torch.randn(8))

    found = ensemble_scores(network_unseeded, train, lambda model: el2n_scores(model, data), seeds=[3, 1, 3])
    assert torch.equal(torch.get_rng_state(), random_state)
    assert found.per_run.shape == (3, 21) and found.per_run.dtype == torch.float64
    torch.testing.assert_close(found.mean, found.per_run.mean(0))
    assert torch.equal(found.per_run[0], found.per_run[2]) and seen[0] == seen[2]
    assert not torch.allclose(found.per_run[0], found.per_run[1]) and seen[0] != seen[1]
    with pytest.raises(ValueError, match="at least one seed"):
        ensemble_scores(network_unseeded, train, lambda model: el2n_scores(model, data), seeds=[])


def network_unseeded():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
