import pytest
import torch

from thalweg.tasks.evidence import delayed_match, two_alternatives


def seeded():
    return torch.Generator().manual_seed(0)


def test_evidence_adds_up():
    x, y = two_alternatives(2000, steps=6, noise=0.5, generator=seeded())
    assert x.shape == (2000, 6, 2) and y.shape == (2000,) and 0.45 < y.float().mean() < 0.55
    assert (x.sum(1).argmax(1) == y).float().mean() > 0.99  # means differ by 6, with a deviation of 1.7
    assert (x[:, 0].argmax(1) == y).float().mean() < 0.97
    rest = x - torch.nn.functional.one_hot(y, 2)[:, None]
    assert abs(rest.mean()) < 0.02 and rest.std().item() == pytest.approx(0.5, rel=0.02)


def test_match():
    x, y = delayed_match(1000, delay=4, noise=0.1, generator=seeded())
    assert x.shape == (1000, 7, 3) and 0.4 < y.float().mean() < 0.6
    assert torch.equal((x[:, 0, :2].argmax(1) == x[:, 5, :2].argmax(1)).long(), y)
    assert x[:, 1:5, :2].abs().max() < 0.6 and torch.equal(x[..., 2], torch.eye(7)[6].expand(1000, 7))
    with pytest.raises(ValueError, match="delay must be at least 0"):
        delayed_match(3, delay=-1)
