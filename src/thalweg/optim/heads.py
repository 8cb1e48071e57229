"""Which of a model's matrices make its outputs: told by name, by place in the model, and by what surely is no head."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from torch import Tensor, nn

_HEAD = re.compile(r"(.*_)?(head\d*|classifiers?\d*|logits|unembed(ding)?|output_projection|qa_outputs)")
"""Modules that are heads by their name. Attention layers have such modules too, so only those count that lie at the top of the model
or right below it."""

_PERHAPS = {"score", "fc_out", "out", "output", "output_layer", "out_proj", "proj_out", "readout"}
"""Names of heads that hidden layers have as well: at the top of the model they come before the last matrix of a block, no more."""

_NO_HEADS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.MultiheadAttention, nn.RNNBase)
_TABLES = (nn.Embedding, nn.EmbeddingBag)


class _Matrix(NamedTuple):
    name: str
    path: tuple[str, ...]  # the modules that it lies in, from where the model branches
    param: Tensor


def output_heads(model: nn.Module) -> list[Tensor]:
    """The matrices that make the model's outputs, as far as names and places tell.

    - Modules at the top of the model, or right below it, that are called heads (``head``, ``lm_head``, ``classifier``, ``to_logits``,
      ...): the last matrix of each; a list of heads has one each.
    - If there are none: the last matrix of the model, in the order of definition. But where that is one of a numbered block's, a layer
      at the top that may be a head by its name (``score``, ``fc_out``, ``output``, ...) comes before it; and nothing is a head where
      another block has its like, or where it belongs to a layer of torch's that ends in no head.
    - If that one is tied to another parameter, none: it is no matrix of its own. Neither is the only matrix of a model a head.

    Example:
        >>> from thalweg.optim.heads import output_heads
        >>> model = nn.ModuleDict({"classifier": nn.Linear(4, 2), "body": nn.Linear(4, 4)})
        >>> [head is model["classifier"].weight for head in output_heads(model)]
        [True]
    """
    matrices = _matrices(model)
    if not matrices:
        return []
    last = matrices[-1]
    named = _by_name(model, matrices)
    if named:
        # A backbone may have kept its own head, below the one at the top.
        above = len(last.path) == 1 < min(depth for depth, _ in named) and _is_own(model, last)
        return [matrix.param for _, matrix in named] + ([last.param] if above else [])
    if len({id(matrix.param) for matrix in matrices}) == 1 or not _is_own(model, last):
        return []
    block = "repeated" if _in_layer_of_torch(model, last) else _block(last, matrices)
    perhaps = [matrix for matrix in matrices if len(matrix.path) == 1 and matrix.path[0].lower() in _PERHAPS]
    if block and perhaps and not _in_layer_of_torch(model, perhaps[-1]):
        return [perhaps[-1].param]
    return [] if block == "repeated" else [last.param]


def _matrices(model: nn.Module) -> list[_Matrix]:
    """All matrices under all their names, but for the names of embeddings."""
    named = list(model.named_parameters(remove_duplicate=False))
    paths = [tuple(name.split(".")[:-1]) for name, _ in named]
    shared = 0  # wrappers such as DDP and PEFT put every module below others
    while paths and all(len(path) > shared and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    return [
        _Matrix(name, path[shared:], param)
        for (name, param), path in zip(named, paths, strict=True)
        if param.ndim >= 2 and not isinstance(model.get_submodule(".".join(path)), _TABLES)
    ]


def _by_name(model: nn.Module, matrices: list[_Matrix]) -> list[tuple[int, _Matrix]]:
    """The last matrix of each module that is a head by its name, and how deep the module lies."""
    found: dict[tuple[str, ...], tuple[int, _Matrix]] = {}
    for matrix in matrices:
        for depth, part in enumerate(matrix.path[:2], start=1):
            if part.isdigit():
                break
            if _HEAD.fullmatch(part.lower()) or (depth == 1 and part.lower() == "heads"):
                above = matrix.name.split(".")[: depth - len(matrix.path) - 1]
                several = isinstance(model.get_submodule(".".join(above)), nn.ModuleList | nn.ModuleDict)
                found[matrix.path[: depth + several]] = depth, matrix
                break
    return list(found.values())


def _is_own(model: nn.Module, matrix: _Matrix) -> bool:
    """Whether the matrix isn't tied to an embedding, or to a parameter that comes before it."""
    tables = [p for m in model.modules() if isinstance(m, _TABLES) for p in m.parameters(recurse=False)]
    return matrix.name in dict(model.named_parameters()) and not any(p is matrix.param for p in tables)


def _in_layer_of_torch(model: nn.Module, matrix: _Matrix) -> bool:
    parts = matrix.name.split(".")[:-1]
    modules = (model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts) + 1))
    return any(isinstance(module, _NO_HEADS) for module in modules)


def _block(matrix: _Matrix, matrices: list[_Matrix]) -> Literal["repeated", "alone"] | None:
    """Whether the matrix belongs to a numbered block, and whether another block has its like.

    Lists of layers are no blocks, as the last layer of a perceptron is its head; of equal layers at least one may be hidden.
    """
    path = matrix.path
    place = next((i for i, part in enumerate(path) if part.isdigit()), None)
    if place is None or len(path) == 1:
        return None
    inside = path[place + 1 :]
    like = any(
        other.path[:place] == path[:place]
        and other.path[place + 1 :] == inside
        and other.path != path
        and other.param.shape == matrix.param.shape
        for other in matrices
    )
    if all(part.isdigit() for part in inside):
        return "alone" if like else None
    return "repeated" if like else "alone"
