"""Parameter groups by kind and by layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.optim import AdamW, Muon, hidden_matrices, param_groups_layer_decay, param_groups_weight_decay


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def names(groups: list[dict]) -> list[list[str]]:
    return [[name for name, _ in group["params"]] for group in groups]


def test_weight_decay_groups() -> None:
    groups = param_groups_weight_decay(net(), 0.1)
    assert names(groups) == [["0.weight", "3.weight"], ["0.bias", "1.weight", "1.bias", "3.bias"]]
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    listed = param_groups_weight_decay(net(), 0.1, no_weight_decay_list=["3.weight"])
    assert names(listed)[0] == ["0.weight"] and "3.weight" in names(listed)[1]


def test_frozen_parameters_and_empty_groups_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert names(param_groups_weight_decay(model)) == [["weight"]]


class Vit(nn.Module):
    """A transformer in timm's names, a class token and positions beside the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, 4)), nn.Parameter(torch.zeros(1, 5, 4))
        self.patch_embed = nn.Conv2d(3, 4, 2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 2)


def test_layer_decay() -> None:
    groups = param_groups_layer_decay(
        Vit(), lr=1.0, weight_decay=0.1, layer_decay=0.5, no_weight_decay_list=["pos_embed"]
    )
    rates = {name: group["lr"] for group in groups for name, _ in group["params"]}
    assert rates["head.weight"] == rates["norm.bias"] == 1.0
    assert rates["blocks.2.1.weight"] == 0.5 and rates["blocks.0.0.weight"] == 0.125
    assert rates["patch_embed.bias"] == rates["cls_token"] == rates["pos_embed"] == 0.0625
    decays = {name: group["weight_decay"] for group in groups for name, _ in group["params"]}
    assert decays["head.weight"] == decays["cls_token"] == 0.1 and decays["pos_embed"] == decays["head.bias"] == 0.0
    assert all(group["lr"] == group["lr_scale"] for group in groups)
    assert [group["lr"] for group in groups] == sorted(group["lr"] for group in groups)
    assert len(rates) == len(list(Vit().parameters()))


def test_layer_decay_with_frozen_blocks() -> None:
    model = Vit()
    model.blocks.requires_grad_(False)
    rates = {
        name: group["lr"]
        for group in param_groups_layer_decay(model, lr=1.0, layer_decay=0.5)
        for name, _ in group["params"]
    }
    assert rates["head.weight"] == 1.0 and rates["cls_token"] == 0.0625
    assert not any(name.startswith("blocks") for name in rates)


def test_layer_decay_steps_with_an_optimizer() -> None:
    model = Vit()
    optimizer = AdamW(param_groups_layer_decay(model, lr=0.5, layer_decay=0.5), lr=123.0)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = model.head.bias.detach().clone(), model.cls_token.detach().clone()
    optimizer.step()
    torch.testing.assert_close(before[0] - model.head.bias, torch.full((2,), 0.5))
    torch.testing.assert_close(before[1] - model.cls_token, torch.full((1, 1, 4), 0.5 / 16))


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5])
def test_layer_decay_out_of_range(value: float) -> None:
    with pytest.raises(ValueError) as caught:
        param_groups_layer_decay(Vit(), lr=1.0, layer_decay=value)
    assert str(caught.value) == f"Invalid layer_decay: {value} (must be in (0, 1])"


def test_layer_decay_needs_layers() -> None:
    with pytest.raises(ValueError, match=r"^layer-wise decay needs a model with numbered blocks, such as blocks.0"):
        param_groups_layer_decay(nn.Linear(2, 2), lr=1.0)


def test_hidden_matrices() -> None:
    assert hidden_matrices(net()) == {"0.weight"}
    assert hidden_matrices(nn.Linear(2, 2)) == {"weight"}
    assert hidden_matrices(nn.LayerNorm(2)) == set()
    assert hidden_matrices(Vit()) == {"cls_token"} | {f"blocks.{i}.1.weight" for i in range(3)}


class Names(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("multihead_attn", "overhead", "lm_head", "heads", "Word_Embeddings", "proj", "last"):
            self.add_module(name, nn.Linear(3, 3, bias=False))


def test_excluded_words_begin_a_word() -> None:
    found = {name.removesuffix(".weight") for name in hidden_matrices(Names())}
    assert found == {"multihead_attn", "overhead", "proj", "last"}
    mine = hidden_matrices(Names(), exclude=("proj.weight", "over"))
    assert "proj.weight" not in mine and "overhead.weight" not in mine and "Word_Embeddings.weight" in mine
    assert len(hidden_matrices(Names(), exclude=())) == 5  # the two heads have their names


class Tied(nn.Module):
    def __init__(self, embedding_first: bool) -> None:
        super().__init__()
        if embedding_first:
            self.wte = nn.Embedding(7, 4)
        self.body, self.out = nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        if not embedding_first:
            self.wte = nn.Embedding(7, 4)
        self.out.weight = self.wte.weight


@pytest.mark.parametrize("embedding_first", [True, False])
def test_a_tied_head_does_not_cost_the_last_hidden_matrix(embedding_first: bool) -> None:
    model = Tied(embedding_first)
    assert hidden_matrices(model) == {"body.weight"}
    rules = {n: g["rule"] for g in Muon(model).param_groups for n in g["param_names"]}
    assert rules["body.weight"] == "muon" and set(rules.values()) == {"muon", "adamw"}


def test_a_warning_where_no_hidden_matrix_is_left() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "classifier": nn.Linear(4, 2)})
    with pytest.warns(UserWarning, match="^no hidden matrix in ModuleDict: all matrices count as embeddings or heads"):
        optimizer = Muon(model)
    assert {group["rule"] for group in optimizer.param_groups} == {"adamw"}
