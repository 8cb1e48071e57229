"""Who takes part in ``benchmarks/optim.py``: our rules with what limits each, and the peers that are installed."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import optim

SIZES = {"1m": (128, 4, 2048), "14m": (384, 6, 8192), "60m": (640, 11, 8192)}
"""Width, blocks and vocabulary of the transformers whose shapes are used."""

OURS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "adamw": ("AdamW", "memory", {}),
    "sgd": ("SGD", "memory", {}),
    "lion": ("Lion", "memory", {"weight_decay": 0.1}),
    "lion_k": ("LionK", "memory", {"weight_decay": 0.1, "kernel": "smooth"}),
    "adabelief": ("AdaBelief", "memory", {}),
    "diffgrad": ("DiffGrad", "memory", {}),
    "adagrad": ("Adagrad", "memory", {}),
    "sophia": ("SophiaG", "memory", {}),
    "lamb": ("Lamb", "memory", {}),
    "lars": ("Lars", "memory", {}),
    "adamp": ("AdamP", "memory", {}),
    "sgdp": ("SGDP", "memory", {}),
    "auon": ("AuON", "memory", {}),
    "muon": ("Muon", "products", {}),
    "normuon": ("NorMuon", "products", {}),
    "galore": ("GaLore", "adamw", {"rank": 64}),
    "fira": ("Fira", "adamw", {"rank": 64}),
    "frugal": ("Frugal", "adamw", {"projection": "columns"}),
    "natural_galore": ("NaturalGaLore", "adamw", {"rank": 64}),
    "dct_adamw": ("DCTAdamW", "adamw", {"rank": 64}),
    "galore_bf16": ("GaLore", "adamw", {"rank": 64, "projection_dtype": "bfloat16"}),
    "fira_bf16": ("Fira", "adamw", {"rank": 64, "projection_dtype": "bfloat16"}),
    "natural_galore_both": ("NaturalGaLore", "adamw", {"rank": 64, "sides": "both"}),
    "dct_adamw_200": ("DCTAdamW", "adamw", {"rank": 64, "update_every": 200}),
    "dct_adamw_200_bf16": ("DCTAdamW", "adamw", {"rank": 64, "update_every": 200, "projection_dtype": "bfloat16"}),
}
"""Class, what limits the rule (memory, matrix products, or AdamW's own step), and settings."""

PEERS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "lion_pytorch": {"lion": ("Lion", {})},
    "pytorch_optimizer": {
        "lion": ("Lion", {}),
        "adabelief": ("AdaBelief", {}),
        "diffgrad": ("DiffGrad", {}),
        "lamb": ("Lamb", {}),
        "lars": ("LARS", {}),
        "adamp": ("AdamP", {}),
        "sgdp": ("SGDP", {}),
    },
    "timm.optim": {
        "lion": ("Lion", {}),
        "adabelief": ("AdaBelief", {}),
        "lamb": ("Lamb", {"always_adapt": True}),
        "lars": ("Lars", {"lr": 0.1, "momentum": 0.9, "always_adapt": True}),  # else SGD: its weight decay is 0
        "adamp": ("AdamP", {}),
        "sgdp": ("SGDP", {"lr": 0.1, "momentum": 0.9}),
    },
    "heavyball": {"adamw": ("AdamW", {}), "muon": ("Muon", {})},
}
"""Package, then rule, then class and settings."""


class Shapes(nn.Module):
    """A transformer's parameters (nothing is computed): embeddings, fused QKV, projections, feed-forwards, norms, biases."""

    def __init__(self, width: int, blocks: int, vocabulary: int) -> None:
        super().__init__()
        self.size = (width, blocks, vocabulary)
        self.embed = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(256, width)
        self.blocks = nn.ModuleList(
            nn.ModuleList([
                nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width),
                nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width),
            ])
            for _ in range(blocks)
        )  # fmt: skip
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight


@dataclass
class Contender:
    """One optimizer under test: whose it is, which rule, how to make it, and its times."""

    rule: str
    package: str
    make: Callable[[Shapes], Any]
    seconds: list[float] = field(default_factory=list)
    first_step: float = 0.0
    error: str = ""
    optimizer: Any = None
    params: list[Tensor] = field(default_factory=list)

    def give(self, grads: list[Tensor]) -> None:
        """Put the gradients in place: some packages drop them in every step."""
        for p, g in zip(self.params, grads, strict=True):
            p.grad = g


def contenders() -> Iterator[Contender]:
    """Ours first, then every peer that is installed."""
    for rule in OURS:
        yield Contender(rule, "thalweg", lambda model, rule=rule: _ours(rule, model))  # type: ignore[misc]
    for rule, kind, fixed in (("adamw", "AdamW", {}), ("sgd", "SGD", {"momentum": 0.9}), ("adagrad", "Adagrad", {})):
        for form in ("fused", "foreach"):
            settings = {**fixed, "lr": 0.01, form: True}
            yield Contender(rule, f"torch {form}", _maker("torch.optim", kind, settings))
    yield Contender("muon", "torch", _torch_muon)
    for package, classes in PEERS.items():
        if not _installed(package):
            continue
        for rule, (name, settings) in classes.items():
            yield Contender(rule, package, _maker(package, name, settings))
    if _installed("pytorch_optimizer"):
        yield Contender("muon", "pytorch_optimizer", lambda m: _flagged("pytorch_optimizer", "Muon", "use_muon", m))
        yield Contender(
            "normuon", "pytorch_optimizer", lambda m: _flagged("pytorch_optimizer", "NorMuon", "use_muon", m)
        )
        yield Contender("galore", "pytorch_optimizer", _pytorch_optimizer_galore)
    if _installed("timm.optim"):
        yield Contender("muon", "timm.optim", lambda m: _flagged("timm.optim", "Muon", "use_fallback", m, False))


def matrices(model: Shapes) -> list[Tensor]:
    """The hidden matrices, which matrix rules take."""
    return [p for p in model.blocks.parameters() if p.ndim == 2]


def rest(model: Shapes) -> list[Tensor]:
    """Everything else."""
    return [p for p in model.parameters() if not any(p is q for q in matrices(model))]


class Both:
    """Two optimizers stepped as one, for packages whose Muon takes matrices only."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    def step(self) -> None:
        for part in self.parts:
            part.step()


def _ours(rule: str, model: Shapes) -> torch.optim.Optimizer:
    name, _, settings = OURS[rule]
    if rule == "frugal":
        settings = {**settings, "density": 64 / model.embed.embedding_dim}
    return getattr(optim, name)(model, **settings)


def _maker(package: str, name: str, settings: dict[str, Any]) -> Callable[[Shapes], torch.optim.Optimizer]:
    return lambda model: _import(package, name)(model.parameters(), **settings)


def _torch_muon(model: Shapes) -> Both:
    return Both(torch.optim.Muon(matrices(model)), torch.optim.AdamW(rest(model), fused=True))


def _flagged(package: str, name: str, flag: str, model: Shapes, on_matrices: bool = True) -> torch.optim.Optimizer:
    groups = [{"params": matrices(model), flag: on_matrices}, {"params": rest(model), flag: not on_matrices}]
    return _import(package, name)(groups)


def _pytorch_optimizer_galore(model: Shapes) -> torch.optim.Optimizer:
    settings = {"update_proj_gap": 200, "scale": 0.25, "projection_type": "std"}
    groups = [{"params": matrices(model), "rank": 64, **settings}, {"params": rest(model), "rank": None, **settings}]
    return _import("pytorch_optimizer", "GaLore")(groups)


def _import(package: str, name: str) -> Callable[..., torch.optim.Optimizer]:
    """Class ``name`` of the package; of timm only the module it stands in, since timm as a whole needs torchvision."""
    if not package.startswith("timm") or find_spec("torchvision") is not None:
        return getattr(importlib.import_module(package), name)
    folder = _TIMM.submodule_search_locations[0]  # type: ignore[union-attr, index]
    for bare, path in (("timm", folder), ("timm.optim", f"{folder}/optim")):
        if bare not in sys.modules:
            sys.modules[bare] = types.ModuleType(bare)
            sys.modules[bare].__path__ = [path]
    return getattr(importlib.import_module(f"timm.optim.{name.lower()}"), name)


def _installed(package: str) -> bool:
    return (_TIMM if package.startswith("timm") else find_spec(package)) is not None


_TIMM = find_spec("timm")
