import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from thalweg.autodiff import Hessian
from thalweg.linalg import haar
from thalweg.probe import count_outliers, full_hessian, hessian_eigenvalues, spectral_density


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Quadratic(nn.Module):
    """Loss 1/2 x^T A x, whatever the data."""

    def __init__(self, A):
        super().__init__()
        self.A = A
        self.x = nn.Parameter(torch.randn(len(A), generator=seeded(), dtype=A.dtype))

    def forward(self, inputs):
        return (0.5 * self.x @ self.A @ self.x).expand(len(inputs))


NOTHING = torch.zeros(1, 1), torch.zeros(1)


def output(out, target):
    return out.mean()


def quadratic(*eigenvalues):
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    Q = haar(len(values), len(values), generator=seeded(), dtype=torch.float64)
    return Quadratic(Q * values @ Q.T)


def classifier(hidden=8, examples=30):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, hidden), nn.BatchNorm1d(hidden), nn.Tanh(), nn.Dropout(0.3), nn.Linear(hidden, 3))
    net(torch.randn(50, 5))
    return net, (torch.randn(examples, 5), torch.randint(3, (examples,)))


def exactly(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_a_quadratic_has_the_eigenvalues_of_its_matrix():
    model = quadratic(3.0, 2.0, 0.0, -5.0)
    torch.testing.assert_close(full_hessian(model, output, NOTHING), model.A)
    torch.testing.assert_close(hessian_eigenvalues(model, output, NOTHING), exactly(3, 2, 0, -5))


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_the_first_is_the_largest_not_the_largest_in_modulus(method):
    model = quadratic(3.0, 2.0, 0.0, -5.0)

    def values(**options):
        return hessian_eigenvalues(model, output, NOTHING, method=method, generator=seeded(), **options)

    torch.testing.assert_close(values(k=1), exactly(3))
    torch.testing.assert_close(values(k=2), exactly(3, 2))
    torch.testing.assert_close(values(k=2, largest=False), exactly(0, -5), atol=1e-10, rtol=0)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_matrix_equals_torchs_own(chunk):
    net, (X, y) = classifier()
    H = full_hessian(net, F.cross_entropy, (X, y), chunk=chunk)
    assert H.dtype == torch.float64 and torch.equal(H, H.T)
    net = net.double().eval()
    sizes = [p.numel() for p in net.parameters()]
    names = [n for n, _ in net.named_parameters()]

    def loss(vector):
        shaped = {n: v.view_as(net.get_parameter(n)) for n, v in zip(names, vector.split(sizes), strict=True)}
        return F.cross_entropy(torch.func.functional_call(net, shaped, (X.double(),)), y)

    vector = nn.utils.parameters_to_vector(net.parameters()).detach()
    torch.testing.assert_close(H, torch.autograd.functional.hessian(loss, vector))


def test_lanczos_agrees_with_the_exact_values_on_a_network():
    net, data = classifier(hidden=20)
    exact = hessian_eigenvalues(net, F.cross_entropy, data)
    top = hessian_eigenvalues(net, F.cross_entropy, data, method="lanczos", k=5, generator=seeded())
    bottom = hessian_eigenvalues(net, F.cross_entropy, data, method="lanczos", k=3, largest=False, generator=seeded())
    torch.testing.assert_close(top, exact[:5], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bottom, exact[-3:], rtol=1e-4, atol=1e-5)
    assert bottom[-1] < 0


def test_too_few_steps_are_told():
    net, data = classifier(hidden=20)
    with pytest.warns(RuntimeWarning, match="after 6 steps, not tol=0.0001: raise steps"):
        hessian_eigenvalues(net, F.cross_entropy, data, method="lanczos", k=5, steps=6, generator=seeded())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hessian_eigenvalues(quadratic(0.0, 0.0), output, NOTHING, method="lanczos", k=1, generator=seeded())


def test_an_underdetermined_linear_regression_is_flat_in_the_other_directions():
    torch.manual_seed(0)
    net = nn.Linear(12, 1, bias=False)
    values = hessian_eigenvalues(net, F.mse_loss, (torch.randn(5, 12), torch.randn(5, 1)))
    assert (values.abs() < 1e-10).sum() == 7 and (values > 0.01).sum() == 5


def test_random_products_estimate_the_trace():
    net, data = classifier()
    exact = full_hessian(net, F.cross_entropy, data).trace()
    torch.testing.assert_close(hessian_eigenvalues(net, F.cross_entropy, data).sum(), exact)
    hessian = Hessian(net, F.cross_entropy, data, dtype=torch.float64)
    signs = torch.randint(2, (400, hessian.size), generator=seeded()).double() * 2 - 1
    estimates = (signs * hessian(signs)).sum(1)
    assert abs(estimates.mean() - exact) < 3 * estimates.std() / 400**0.5


def test_rescaling_a_relu_network_keeps_its_loss_but_not_its_spectrum():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    data = torch.randn(20, 5, dtype=torch.float64), torch.randint(3, (20,))
    before = F.cross_entropy(net(data[0]), data[1]), hessian_eigenvalues(net, F.cross_entropy, data)
    with torch.no_grad():
        for parameter in net[0].parameters():
            parameter *= 3
        net[2].weight /= 3
    torch.testing.assert_close(F.cross_entropy(net(data[0]), data[1]), before[0])
    assert abs(hessian_eigenvalues(net, F.cross_entropy, data)[0] / before[1][0] - 1) > 0.1


def test_the_density_follows_the_eigenvalues():
    net, data = classifier()
    values = hessian_eigenvalues(net, F.cross_entropy, data)
    grid, density = spectral_density(
        net, F.cross_entropy, data, probes=30, steps=30, dtype=torch.float64, points=4000, generator=seeded()
    )
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-6)
    assert (grid[0], grid[-1]) == (grid.min(), grid.max()) and grid[0] < values[-1] and grid[-1] > values[0]
    for power, scale in ((1, values.abs().mean()), (2, values.square().mean())):
        moment = torch.trapezoid(density * grid**power, grid)
        assert abs(moment - (values**power).mean()) < 0.2 * scale
    cut = values[0] / 4
    share = torch.trapezoid(density[grid > cut], grid[grid > cut])
    assert share.item() == pytest.approx((values > cut).double().mean().item(), abs=0.02)


def test_the_density_of_one_repeated_eigenvalue_is_a_peak_there():
    grid, density = spectral_density(quadratic(2.0, 2.0, 2.0), output, NOTHING, generator=seeded())
    assert grid[density.argmax()].item() == pytest.approx(2, abs=0.01)
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-6)


PROBES = {
    "full": full_hessian,
    "exact": hessian_eigenvalues,
    "lanczos": lambda *a: hessian_eigenvalues(*a, method="lanczos", k=2, tol=0.1, generator=seeded()),
    "density": lambda *a: spectral_density(*a, probes=2, steps=5, generator=seeded()),
}


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_probes_change_nothing(probe):
    net, data = classifier()
    net.train()[1].eval()
    F.cross_entropy(net(data[0]), data[1]).backward()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    gradients = [p.grad.clone() for p in net.parameters()]
    modes, random_state = [m.training for m in net.modules()], torch.get_rng_state()
    probe(net, F.cross_entropy, data)
    assert [m.training for m in net.modules()] == modes and torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), gradients, strict=True))
    nn.init.constant_(net[4].bias, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        probe(net, F.cross_entropy, data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_exact": 90}, r"91 x 91 \(0\.0 GB\) is above max_exact=90: use hessian_eigenvalues\(method='lanczos'\)"),
        ({"method": "lanczos"}, "needs k"),
        ({"method": "power"}, "method must be"),
        ({"k": 0}, "k must lie between 1 and the number of parameters 91"),
        ({"k": 100, "method": "lanczos"}, "k must lie between"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        hessian_eigenvalues(*classifier()[:1], F.cross_entropy, classifier()[1], **options)


@pytest.mark.parametrize(
    ("values", "max_rank", "expected"),
    [
        ([0.456, 0.332, 0.139, 0.1, 0.08], 4, 2),
        ([0.280, 0.215, 0.179, 0.138, 0.127, 0.12], 5, 3),
        ([9.0, 1.0, 0.9, 0.89, 0.3, 0.29], 5, 4),  # the gap after the first does not count
        ([9.0, 0.4, 0.1, 0.05], 3, 1),  # all but the first are below the floor of 0.45
        ([3.0, 2.0, 1.0, 0.0, -1.0], 4, 3),  # a gap to zero is the largest of all
    ],
)
def test_outliers(values, max_rank, expected):
    shuffled = torch.tensor(values)[torch.randperm(len(values), generator=seeded())]
    assert count_outliers(shuffled, max_rank) == expected


@pytest.mark.parametrize(
    ("values", "max_rank", "message"),
    [
        ([1.0, 0.5], 2, "max_rank must lie"),
        ([1.0, 0.5, 0.1], 1, "max_rank must lie"),
        ([-1.0] * 4, 2, "must be positive"),
    ],
)
def test_outliers_of_bad_input(values, max_rank, message):
    with pytest.raises(ValueError, match=message):
        count_outliers(torch.tensor(values), max_rank)
