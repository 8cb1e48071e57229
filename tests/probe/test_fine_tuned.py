import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thalweg.probe import fine_tuned
from thalweg.tasks.decoder import Decoder


def next_token(logits, targets):
    return F.cross_entropy(logits[:, -1], targets)


def setting():
    torch.manual_seed(0)
    model = Decoder(vocab_size=6, context=4, embed_dim=8, num_heads=2, num_layers=1).double()
    return model, torch.randint(6, (3, 5, 2)), torch.randint(6, (3, 5)), torch.tensor([0.0, 0.1, 0.5])


@pytest.mark.parametrize("batch_size", [None, 2])
def test_is_sgd_run_by_run(batch_size):
    model, x, y, lrs = setting()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stacks = list(fine_tuned(model, x, y, lrs, 3, loss=next_token, batch_size=batch_size))
    assert len(stacks) == 3
    for run, lr in enumerate(lrs.tolist()):
        clone = copy.deepcopy(model)
        sgd = torch.optim.SGD(clone.parameters(), lr=lr)
        for epoch in range(3):
            for rows in torch.arange(5).split(batch_size or 5):
                sgd.zero_grad()
                next_token(clone(x[run, rows]), y[run, rows]).backward()
                sgd.step()
            for name, parameter in clone.named_parameters():
                assert torch.allclose(stacks[epoch][name][run], parameter)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(stacks[2][name][0], before[name]) for name in before)  # a step size of 0 changes no bit


def test_masks_hold_the_rest():
    model, x, y, lrs = setting()
    rows = torch.zeros(24, 1)
    rows[8:] = 1  # keys and values of the joint matrix
    name = "blocks.0.attention.qkv.weight"
    *_, last = fine_tuned(model, x, y, lrs, 2, loss=next_token, masks={name: rows})
    own = dict(model.named_parameters())
    assert all(torch.equal(last[other], own[other].expand_as(last[other])) for other in own if other != name)
    assert torch.equal(last[name][2, :8], own[name][:8]) and not torch.allclose(last[name][2, 8:], own[name][8:])


def test_errors():
    model, x, y, lrs = setting()
    with pytest.raises(ValueError, match=r"not \(3, 5, 2\), \(3, 4\) and 3"):
        next(fine_tuned(model, x, y[:, :4], lrs, 1, loss=next_token))
    with pytest.raises(ValueError, match="no parameter of the model: wrong"):
        next(fine_tuned(nn.Linear(1, 1), x, y, lrs, 1, loss=next_token, masks={"wrong": torch.ones(())}))
