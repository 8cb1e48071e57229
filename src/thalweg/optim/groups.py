"""Parameter groups: which parameters are decayed, which count as hidden matrices, how learning rates fall towards the input."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any

from torch import nn

from thalweg.optim.heads import output_heads


def param_groups_weight_decay(
    model: nn.Module, weight_decay: float = 1e-5, no_weight_decay_list: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Two groups, decayed and not: biases, norm gains and other parameters of one dimension or none are not decayed.

    Args:
        model: its trainable parameters are used.
        weight_decay: decay of the first group (default 1e-5, as in timm).
        no_weight_decay_list: full names of further parameters not to decay.

    Returns:
        Groups of named parameters, empty ones left out.

    Example:
        >>> from torch import nn
        >>> [(g["weight_decay"], [name for name, _ in g["params"]]) for g in param_groups_weight_decay(nn.Linear(2, 2), 0.1)]
        [(0.1, ['weight']), (0.0, ['bias'])]
    """
    skip = set(no_weight_decay_list)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [(name, p) for name, p in named if p.ndim >= 2 and name not in skip]
    plain = [(name, p) for name, p in named if p.ndim < 2 or name in skip]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def param_groups_layer_decay(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.05,
    layer_decay: float = 0.75,
    no_weight_decay_list: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Groups whose learning rate falls by ``layer_decay`` from each layer to the one before: the head gets ``lr``.

    Layers are the entries of the model's longest numbered list of blocks (``blocks.0``, ``layers.3``, ``h.11``, ...); what stands
    before the list counts as layer 0, what stands after it as the head.

    Args:
        model: its trainable parameters are used.
        lr: learning rate of the head.
        weight_decay: decay of parameters of two dimensions or more.
        layer_decay: factor from layer to layer, in (0, 1].
        no_weight_decay_list: full names of further parameters not to decay.

    Returns:
        Groups of named parameters with ``lr``, ``lr_scale`` and ``weight_decay``, from the input to the head.

    Raises:
        ValueError: ``layer_decay`` out of range, or a model without numbered blocks.

    Example:
        >>> from thalweg.optim import param_groups_layer_decay
        >>> model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), "head": nn.Linear(2, 1)})
        >>> groups = param_groups_layer_decay(model, lr=0.1, layer_decay=0.5)
        >>> sorted({group["lr"] for group in groups})
        [0.025, 0.05, 0.1]
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"Invalid layer_decay: {layer_decay!r} (must be in (0, 1])")
    prefix, depth = _block_list([name for name, _ in model.named_parameters()])
    skip = set(no_weight_decay_list)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    seen_block = False
    for name, param in model.named_parameters():
        inside = re.match(rf"{re.escape(prefix)}(\d+)\.", name)
        if inside:
            layer, seen_block = int(inside.group(1)) + 1, True
        else:
            layer = depth + 1 if seen_block else 0
        if not param.requires_grad:
            continue
        decays = param.ndim >= 2 and name not in skip
        scale = layer_decay ** (depth + 1 - layer)
        start = {"params": [], "lr": lr * scale, "lr_scale": scale, "weight_decay": weight_decay if decays else 0.0}
        groups.setdefault((layer, decays), start)["params"].append((name, param))
    return [groups[key] for key in sorted(groups)]


def hidden_matrices(model: nn.Module, exclude: tuple[str, ...] = ("embed", "head")) -> set[str]:
    """Names of the weight matrices between input embedding and output head, for rules that treat matrices as matrices.

    Left out: parameters below two dimensions; embeddings; the heads, told by names such as ``classifier`` at the top of the model, and
    otherwise the last matrix in the order of definition, unless it surely is a block's (see
    :func:`thalweg.optim.heads.output_heads`); what is tied to either; and names with a word that begins like one of ``exclude``
    ("head" excludes ``lm_head``, but not ``multihead_attn``). A warning is given where this leaves none of several matrices.

    Example:
        >>> from thalweg.optim import hidden_matrices
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 9))
        >>> sorted(hidden_matrices(model))
        ['1.weight']
    """
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    others = {id(p) for m in tables for p in m.parameters(recurse=False)} | {id(p) for p in output_heads(model)}
    begins = re.compile("|".join(rf"(?<![a-z0-9]){re.escape(word.lower())}" for word in exclude) or "(?!)")
    matrices = [(name, p) for name, p in model.named_parameters() if p.ndim >= 2]
    hidden = {name for name, p in matrices if id(p) not in others and not begins.search(name.lower())}
    if matrices and not hidden:
        warnings.warn(
            f"no hidden matrix in {type(model).__name__}: all matrices count as embeddings or heads, which AdamW takes; "
            "give parameter groups with a rule of their own to change that",
            stacklevel=2,
        )
    return hidden


def _block_list(names: list[str]) -> tuple[str, int]:
    """Prefix and length of the longest numbered list of blocks among parameter names."""
    found: dict[str, set[int]] = {}
    for name in names:
        match = re.match(r"(.*?\.|)(\d+)\.", name)
        if match:
            found.setdefault(match.group(1), set()).add(int(match.group(2)))
    if not found:
        raise ValueError("layer-wise decay needs a model with numbered blocks, such as blocks.0, blocks.1, ...")
    prefix = max(found, key=lambda p: len(found[p]))
    return prefix, max(found[prefix]) + 1
