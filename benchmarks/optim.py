"""Step times of optimizers, ours and other packages', interleaved in one process, as multiples of what the hardware allows.

    python benchmarks/optim.py                       # 14M parameters, all rules
    python benchmarks/optim.py --size 60m --rules adamw lion --rounds 20 --json

Limits: an elementwise rule must read the gradient, and read and write the parameter and its state; that many words at the speed of
an in-place ``x.mul_(s)`` is the *memory limit*. A matrix rule's limit is its matrix products at the speed of a large one in the
dtype used. A multiple of 1.0 can't be beaten, save by caches.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import platform
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from thalweg.linalg.polar import newton_schulz_dtype, newton_schulz_flops
from thalweg.optim import SGD, AdamW, Lamb, Lars, Lion, Muon
from thalweg.optim.engine.passes import memory_words

SIZES = {"1m": (128, 4, 2048), "14m": (384, 6, 8192), "60m": (640, 11, 8192)}
"""Width, blocks and vocabulary of the transformers whose shapes are used."""


class Shapes(nn.Module):
    """A transformer's parameters (nothing is computed): embeddings, fused QKV, projections, feed-forwards, norms, biases."""

    def __init__(self, width: int, blocks: int, vocabulary: int) -> None:
        super().__init__()
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
    make: Callable[[Shapes], torch.optim.Optimizer]
    seconds: list[float] = field(default_factory=list)
    first_step: float = 0.0
    error: str = ""
    step: Callable[[], object] | None = None
    params: list[Tensor] = field(default_factory=list)

    def give(self, grads: list[Tensor]) -> None:
        """Put the gradients in place: some packages drop them in every step."""
        for p, g in zip(self.params, grads, strict=True):
            p.grad = g


def matrices(model: Shapes) -> list[Tensor]:
    """The hidden matrices, which Muon takes."""
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


def contenders() -> Iterator[Contender]:
    """Ours first, then every peer that is installed."""
    yield Contender("adamw", "thalweg", lambda m: AdamW(m))
    yield Contender("sgd", "thalweg", lambda m: SGD(m))
    yield Contender("lion", "thalweg", lambda m: Lion(m, weight_decay=0.1))
    yield Contender("lamb", "thalweg", lambda m: Lamb(m))
    yield Contender("lars", "thalweg", lambda m: Lars(m))
    yield Contender("muon", "thalweg", lambda m: Muon(m))
    yield Contender("adamw", "torch fused", lambda m: torch.optim.AdamW(m.parameters(), fused=True))
    yield Contender("adamw", "torch foreach", lambda m: torch.optim.AdamW(m.parameters(), foreach=True))
    yield Contender("sgd", "torch fused", lambda m: torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9, fused=True))
    yield Contender("muon", "torch", _torch_muon)
    yield from _peers("lion_pytorch", {"lion": ("Lion", {})})
    yield from _peers("pytorch_optimizer", {"lion": ("Lion", {}), "lamb": ("Lamb", {}), "lars": ("LARS", {})})
    if find_spec("pytorch_optimizer"):
        yield Contender("muon", "pytorch_optimizer", _pytorch_optimizer_muon)
    yield from _peers(
        "timm.optim", {"lion": ("Lion", {}), "lamb": ("Lamb", {}), "lars": ("Lars", {"lr": 0.1, "momentum": 0.9})}
    )
    if _TIMM:
        yield Contender("muon", "timm.optim", _timm_muon)
    yield from _peers("heavyball", {"adamw": ("AdamW", {}), "muon": ("Muon", {})})


def _peers(package: str, classes: dict[str, tuple[str, dict[str, float]]]) -> Iterator[Contender]:
    if find_spec(package.split(".")[0]) is None if not package.startswith("timm") else _TIMM is None:
        return
    for rule, (name, settings) in classes.items():

        def make(model: Shapes, name: str = name, settings: dict[str, float] = settings) -> torch.optim.Optimizer:
            return _import(package, name)(model.parameters(), **settings)

        yield Contender(rule, package, make)


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


_TIMM = find_spec("timm")


def _torch_muon(model: Shapes) -> Both:
    return Both(torch.optim.Muon(matrices(model)), torch.optim.AdamW(rest(model), fused=True))


def _pytorch_optimizer_muon(model: Shapes) -> torch.optim.Optimizer:
    groups = [{"params": matrices(model), "use_muon": True}, {"params": rest(model), "use_muon": False}]
    return _import("pytorch_optimizer", "Muon")(groups)


def _timm_muon(model: Shapes) -> torch.optim.Optimizer:
    return _import("timm.optim", "Muon")(
        [{"params": matrices(model), "use_fallback": False}, {"params": rest(model), "use_fallback": True}]
    )


def memory_limit(optimizer: torch.optim.Optimizer, seconds_per_word: float) -> float:
    """Seconds for the words that the optimizer's chains must move."""
    total = 0
    for group in optimizer.param_groups:
        total += memory_words(optimizer.rule_of(group)) * sum(p.numel() for p in group["params"])
    return total * seconds_per_word


def product_limit(model: Shapes, seconds_per_flop: float) -> float:
    """Seconds for Newton-Schulz on every hidden matrix."""
    return sum(newton_schulz_flops(*p.shape) for p in matrices(model)) * seconds_per_flop


def timed(function: Callable[[], object], repeat: int = 1) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    for _ in range(repeat):
        function()
    return (time.perf_counter() - start) / repeat


def measure(size: str, rules: list[str] | None, rounds: int, packages: list[str] | None) -> dict[str, object]:
    """All contenders in turn, ``rounds`` times over; best and median, and the limits measured in the same rounds."""
    torch.manual_seed(0)
    model = Shapes(*SIZES[size])
    grads = [torch.randn_like(p) * 0.01 for p in model.parameters()]
    count = sum(p.numel() for p in model.parameters())
    running = []
    limits = {}
    for contender in contenders():
        if (rules and contender.rule not in rules) or (packages and contender.package not in packages):
            continue
        own = Shapes(*SIZES[size])
        own.load_state_dict(model.state_dict())
        contender.params = list(own.parameters())
        try:
            optimizer = contender.make(own)
            contender.step = optimizer.step
            contender.give(grads)
            contender.first_step = timed(optimizer.step)
            contender.give(grads)
            optimizer.step()
        except Exception as error:
            contender.error = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        else:
            if contender.package == "thalweg":
                limits[contender.rule] = optimizer
        running.append(contender)
        print(
            f"{contender.rule:6} {contender.package:18} first step {contender.first_step:6.1f} s {contender.error}",
            file=sys.stderr,
        )
    x = torch.randn(count)
    dtype = newton_schulz_dtype(torch.device("cpu"), torch.float32)
    square = torch.randn(2048, 2048).to(dtype)
    words, products = [], []
    gc.disable()
    for _ in range(rounds):
        words.append(timed(lambda: x.mul_(1.0000001), 3) / (2 * count))
        products.append(timed(lambda: square @ square, 2) / (2 * 2048**3))
        for contender in running:
            if contender.step is not None and not contender.error:
                contender.give(grads)
                contender.seconds.append(timed(contender.step))
    gc.enable()
    rows = []
    for contender in running:
        row: dict[str, object] = {"rule": contender.rule, "package": contender.package, "error": contender.error}
        if contender.seconds:
            best, median = min(contender.seconds), statistics.median(contender.seconds)
            ours = limits.get(contender.rule)
            matrix_rule = contender.rule == "muon"
            limit = (
                product_limit(model, min(products))
                if matrix_rule
                else memory_limit(ours, min(words))
                if ours
                else float("nan")
            )
            middle = statistics.median(products) if matrix_rule else statistics.median(words)
            ratio = middle / (min(products) if matrix_rule else min(words))
            row |= {"best_seconds": best, "median_seconds": median, "first_step_seconds": contender.first_step}
            row |= {"limit": "products" if matrix_rule else "memory", "best_multiple": best / limit}
            row |= {"median_multiple": median / (limit * ratio)}
        rows.append(row)
    return {
        "size": size, "parameters": count, "tensors": len(grads), "rounds": rounds,
        "gigabytes_per_second": 4e-9 / min(words), "teraflops": 1e-12 / min(products), "product_dtype": str(dtype), "rows": rows,
    }  # fmt: skip


def environment() -> dict[str, object]:
    """Machine and versions."""
    names = ["torch", "lion-pytorch", "pytorch_optimizer", "timm", "heavyball"]
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": found,
    }


def main() -> None:
    """Parse arguments, measure, print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["14m"])
    parser.add_argument("--rules", nargs="+")
    parser.add_argument("--packages", nargs="+")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    results = [measure(size, arguments.rules, arguments.rounds, arguments.packages) for size in arguments.size]
    if arguments.json:
        print(json.dumps({"command": " ".join(sys.argv), "environment": environment(), "results": results}, indent=1))
        return
    for result in results:
        print(
            f"\n{result['parameters'] / 1e6:.1f}M parameters in {result['tensors']} tensors; "  # type: ignore[operator]
            f"{result['gigabytes_per_second']:.1f} GB/s, {result['teraflops']:.2f} TFLOP/s in {result['product_dtype']}"
        )
        print(
            f"{'rule':6} {'package':18} {'best ms':>9} {'median ms':>10} {'x limit (best)':>15} {'(median)':>9}  limit"
        )
        for row in result["rows"]:  # type: ignore[attr-defined]
            if row["error"]:
                print(f"{row['rule']:6} {row['package']:18} {row['error']}")
                continue
            print(
                f"{row['rule']:6} {row['package']:18} {row['best_seconds'] * 1e3:9.2f} {row['median_seconds'] * 1e3:10.2f} "
                f"{row['best_multiple']:15.2f} {row['median_multiple']:9.2f}  {row['limit']}"
            )


if __name__ == "__main__":
    main()
