"""Heads by name, by place, and models that have none."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from thalweg.optim import Muon
from thalweg.optim.heads import output_heads


def linear(inputs: int = 4, outputs: int = 4) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def block() -> nn.ModuleDict:
    return nn.ModuleDict(
        {"attention": nn.ModuleDict({"head_proj": linear(), "out_proj": linear()}), "fc_out": linear()}
    )


def blocks(count: int) -> nn.ModuleList:
    return nn.ModuleList(block() for _ in range(count))


def model(**modules: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(modules)


def perceptron(*sizes: int) -> nn.Sequential:
    return nn.Sequential(*(linear(a, b) for a, b in pairwise(sizes)))


def heads(module: nn.Module) -> set[str]:
    found = {id(p) for p in output_heads(module)}
    return {
        name.removesuffix(".weight") for name, p in module.named_parameters(remove_duplicate=False) if id(p) in found
    }


NAMES = ("head", "lm_head", "classifier", "aux_classifier", "to_logits", "unembed", "output_projection", "heads")
MAYBE = ("score", "fc_out", "output", "readout", "out_proj")


@pytest.mark.parametrize("name", (*NAMES, *MAYBE))
@pytest.mark.parametrize("count", [1, 3])
def test_a_head_by_its_name_wherever_it_is_defined(name: str, count: int) -> None:
    first = model(**{name: linear(4, 9)}, blocks=blocks(count))
    last = model(blocks=blocks(count), **{name: linear(4, 9)})
    assert heads(first) == heads(last) == {name}
    groups = Muon(first).param_groups
    matrices = {name for group in groups if group["rule"] == "muon" for name in group["param_names"]}
    assert f"{name}.weight" not in matrices and f"blocks.{count - 1}.fc_out.weight" in matrices


@pytest.mark.parametrize("name", NAMES)
def test_layers_in_a_row_after_the_head(name: str) -> None:
    assert heads(model(**{name: linear(4, 9)}, body=linear())) == {name}
    assert heads(model(**{name: linear(4, 9)}, blocks=nn.ModuleList([linear(), linear()]))) == {name}
    assert heads(nn.DataParallel(model(**{name: linear(4, 9)}, body=linear()))) == {f"module.{name}"}


@pytest.mark.parametrize("name", MAYBE)
def test_a_hidden_layer_that_is_called_like_a_head(name: str) -> None:
    assert heads(model(**{name: linear()}, last=linear(4, 9))) == {"last"}
    assert heads(model(**{name: linear()}, mlp=perceptron(4, 8, 9))) == {"mlp.1"}


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: model(blocks=blocks(2), last=linear(4, 9)), {"last"}),
        (lambda: perceptron(4, 4, 4), {"1"}),
        (lambda: model(layers=perceptron(4, 4, 4)), {"layers.1"}),
        (lambda: model(features=perceptron(4, 4), classifier=perceptron(4, 8, 8, 9)), {"classifier.2"}),
        (lambda: model(heads=nn.ModuleList([linear(4, 2), linear(4, 3)]), trunk=linear()), {"heads.0", "heads.1"}),
        (lambda: model(backbone=model(stem=linear(), head=linear(4, 9)), fc=linear(9, 2)), {"backbone.head", "fc"}),
        (lambda: model(decoder=model(layers=blocks(1), output_projection=linear(4, 9))), {"decoder.output_projection"}),
        (lambda: model(embed=nn.Embedding(9, 4), blocks=blocks(1)), {"blocks.0.fc_out"}),
        (lambda: nn.Sequential(block(), linear(4, 9)), {"1"}),
    ],
)
def test_heads_by_place(make: Callable[[], nn.Module], found: set[str]) -> None:
    assert heads(make()) == found


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2, enable_nested_tensor=False),
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 1, enable_nested_tensor=False),
        lambda: model(embed=nn.Embedding(9, 4), rnn=nn.LSTM(4, 4)),
        lambda: model(embed=nn.Embedding(9, 4), attention=nn.MultiheadAttention(4, 2)),
        lambda: model(embed=nn.Embedding(9, 4), blocks=blocks(2)),
        lambda: nn.Sequential(block(), block()),
        lambda: linear(),
        lambda: nn.LayerNorm(3),
    ],
)
def test_models_without_a_head(make: Callable[[], nn.Module]) -> None:
    assert heads(make()) == set()


def test_tied_heads() -> None:
    """They go with the embedding; the last block's matrix stays hidden."""
    for names in (("embed", "blocks", "lm_head"), ("lm_head", "embed", "blocks"), ("embed", "blocks", "last")):
        parts = {"embed": nn.Embedding(9, 4), "blocks": blocks(1)}
        tied = model(**{name: parts.get(name, linear(4, 9)) for name in names})
        tied[next(name for name in names if name not in parts)].weight = tied["embed"].weight
        hidden = [name for name in Muon(tied).param_groups[0]["param_names"]]
        assert "blocks.0.fc_out.weight" in hidden and not any("embed" in name for name in hidden)
    shared = block()
    assert heads(model(embed=nn.Embedding(9, 4), blocks=nn.ModuleList([shared, shared]))) == set()


def test_parameters_of_the_model_itself() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Parameter(torch.zeros(2, 2)) for _ in range(2))

    assert heads(Bare()) == {"second"}
