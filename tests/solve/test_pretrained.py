import pytest
import torch

from thalweg.solve import ClusterVote, FactorModelMLE, LeastSquares, PretrainThenERM, SphericalMixtureMLE
from thalweg.tasks.gaussian_clusters import gaussian_clusters


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_least_squares_of_many_problems_and_the_shortest():
    Z = torch.randn(3, 10, 2, generator=draws(), dtype=torch.float64)
    y = torch.randn(3, 10, generator=draws(1), dtype=torch.float64)
    fit = LeastSquares().fit(Z, y)
    assert torch.allclose(fit.coef_[1], torch.linalg.lstsq(Z[1], y[1].unsqueeze(1)).solution.squeeze(1))
    assert torch.allclose((y - fit.predict(Z)).unsqueeze(1) @ Z, torch.zeros(3, 1, 2, dtype=torch.float64), atol=1e-12)
    wide = LeastSquares().fit(torch.tensor([[1.0, 1.0]], dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    assert torch.allclose(wide.coef_, torch.full((2,), 0.5, dtype=torch.float64))


def test_votes():
    Z = torch.tensor([[0.6, 0.4, 0.0], [0.4, 0.6, 0.0], [0.0, 1.0, 0.0]])
    fit = ClusterVote(3).fit(Z, torch.tensor([2, 1, 1]))
    assert fit.labels_.tolist() == [2, 1, 1]  # nobody voted in the last cluster: the label of most samples
    assert fit.predict(torch.tensor([[0.4, 0.3, 0.3], [0.9, 0.1, 0.0]])).tolist() == [1, 2]


def test_a_rotation_of_the_loadings_changes_no_prediction():
    X = torch.randn(200, 5, generator=draws(), dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.0, 1.0, 1.0])
    y = X[:, 0] - X[:, 1]
    model = PretrainThenERM(FactorModelMLE(2)).fit(X, X[:20], y[:20])
    before = model.predict(X)
    first = model.representation
    first.components_ = first.components_ @ torch.linalg.qr(torch.randn(2, 2, generator=draws(1), dtype=X.dtype)).Q
    model.head.fit(first.transform(X[:20]), y[:20])
    assert torch.allclose(model.predict(X), before, atol=1e-10)
    assert (before - y).square().mean() < 0.2


def test_five_labels_name_five_clusters():
    X, cluster = gaussian_clusters(5, 1000, 4, separation=8.0, noise=1.0, generator=draws(3))
    labelled = [int((cluster == k).nonzero()[0]) for k in range(5)]
    torch.manual_seed(0)
    model = PretrainThenERM(SphericalMixtureMLE(5), ClusterVote(5)).fit(X, X[labelled], cluster[labelled])
    assert (model.predict(X) == cluster).double().mean() > 0.99


def test_phases_see_what_is_theirs():
    class Spy:
        def fit(self, X):
            self.seen = X

        def transform(self, X):
            return X + 1

    spy, X, y = Spy(), torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 4.0])
    model = PretrainThenERM(spy).fit(torch.zeros(7, 1), X, y)
    assert spy.seen.shape == (7, 1)
    assert model.predict(torch.tensor([[5.0]])).item() == pytest.approx(6.0, abs=1e-5)
