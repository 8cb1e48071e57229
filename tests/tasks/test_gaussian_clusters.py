import pytest
import torch

from thalweg.tasks.gaussian_clusters import gaussian_clusters


def test_centres_and_noise_have_the_stated_spread():
    X, y = gaussian_clusters(50, 5000, 20, separation=2.0, noise=0.5, generator=torch.Generator().manual_seed(0))
    centres = torch.stack([X[y == k].mean(0) for k in range(50)])
    assert centres.std().item() == pytest.approx(2, rel=0.05)
    assert (X - centres[y]).std().item() == pytest.approx(0.5, rel=0.02)


def test_separation_moves_the_centres_alone():
    near, far = (
        gaussian_clusters(3, 12, 4, separation=s, generator=torch.Generator().manual_seed(1))[0] for s in (0.0, 1.0)
    )
    moved = (far - near).view(4, 3, 4)
    assert torch.allclose(moved, moved[:1].expand_as(moved))


def test_what_is_refused():
    with pytest.raises(ValueError, match="a point for each"):
        gaussian_clusters(5, 4, 2)
