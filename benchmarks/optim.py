"""Step times of optimizers, ours and other packages', interleaved in one process, as multiples of what the hardware allows.

    python benchmarks/optim.py                       # 14M parameters, all rules
    python benchmarks/optim.py --size 60m --rules adamw lion --rounds 20 --json

Limits: an elementwise rule must read the gradient, and read and write the parameter and its state; that many words at the speed of
an in-place ``x.mul_(s)`` over as many bytes as AdamW's tensors have is the *memory limit*. A matrix rule's limit is its matrix
products at the speed of a large one in the dtype used. A rule in a subspace is compared with our own AdamW step beside it, its
refreshes included: they are timed apart and shared out over the steps between two of them.

Each rule runs beside its peers and nothing else, so that all fit into memory, and they take turns in being first after the limits'
measurement, which costs a few percent.

Two machines of two cores were measured at 14M parameters: one with AMX, 105 MB of third-level cache and 40 to 48 GB/s, where all went
through Inductor; then, after passes became loops in C++ (``engine/loops.py``), one without AMX, with 32 MB and 50 to 105 GB/s that
change within minutes (a shared host). Multiples of the limits, ranges over several runs, best and median; of the second machine
apart when its memory was slow (about 55 GB/s) and when it was fast for a part of a run (about 90; there the best step and the best
pass over memory needn't be of one moment, and two ratios of 1.25 and 1.32, of best ones, are left out):

    rule                   bar                  first machine         second, slow          second, fast
    AdamW                  torch's fused        0.93 to 1.01          0.98 to 1.11          1.02 to 1.15
      torch's fused                             0.94 to 1.05          1.03 to 1.11          1.02 to 1.19
    Lion                   1.15                 1.03 to 1.18          1.08 to 1.14          1.07 to 1.20
    LAMB                   1.5                  1.40 to 1.60          1.22 to 1.43          1.27 to 1.66
    LARS                   1.6                  1.6 to 1.8            1.36 to 1.76          1.38 to 1.74
    AdamP, SGDP            1.6                  1.9, 2.2              2.1 to 2.2, 1.8 to 1.9
    AuON                   1.5                  2.3 to 2.5            1.55
    Muon                   1.3                  1.26 to 1.45                                1.14 to 1.20
      best peer                                 1.72                                        1.21 to 1.25

At 60M parameters, second machine: AdamW 0.99 to 1.00 (torch's fused 1.01 to 1.06), Lion 1.00 to 1.03, LAMB 1.38 to 1.55, LARS 1.35 to
1.38, Muon 1.10 to 1.12, as torch's.

What a step takes beside its loops is 0.8 ms of Python for 75 parameters (0.2 where all is in a cache: the step itself pushes what
Python looks at out of it), as much as torch's fused optimizer does. The faster the memory, the larger its share (this and all splits
below come from profiles by hand, not from this script). When memory is fast, one long Lion loop over three vectors takes 1.15 to 1.2
of the limit by itself, for two cores then read five words less evenly than an in-place pass does two.

Rules that need sums pass twice over memory, AuON three times. So a tensor stays with one thread while it lies in a cache, a state is
written in the loop that sums over it, and what is dear and needed again is stored beside (``engine/staging.py``): LAMB's loops took
1.35 of the limit before, and take 1.18 to 1.3 now. SGDP and AdamP sum along rows, which those loops don't do, and go through Inductor.

Muon with AMX: by the profiler 79% of a step were the products, batched ones, which run at somewhat less than the large product's
speed; the compiled passes over momentum and the rest 7%, casts, joins and the normalization 8%, Python 5%. Without AMX products are
almost all, and at 60M parameters ours and torch's Muon are level.

Then the rules in subspaces, of rank 64 at 14M parameters on the first machine, asked to take 2 AdamW steps. FRUGAL's columns took
2.3, GaLore 3.6, Fira 5.6, Natural GaLore 13 (projected on both sides 4.8) and DCT-AdamW 9.4 (with a choice every 200 steps 4.1).
AdamW's step, 11 ms, is memory alone. Of 34 ms of GaLore's between refreshes the product into the subspace takes 12 (1.4 GFLOP in
float32 at 110 to 140 GFLOP/s; a large square product reaches 210), the one back 9.5, writing the weights 3, AdamW on the rest and
Adam in the subspace 4.5, Python and small operators 4.5; so float32 products alone take 2. In bfloat16 (``projection_dtype``) the
products take 16 ms instead of 22, for rounding each gradient costs as much as its product, and writing from bfloat16 5.5 instead of
3: 2.7 to 3.4. Fira adds 14 ms: norms of the gradient's rows 4, its multiple 4, small operators the rest. DCT-AdamW's choice takes a
product with the whole basis, 38 ms in float32. Natural GaLore reads its history, 142 MB, and works in float64. That history is s r
max(m, n) numbers a matrix, for s = 20 and r = 64 1.67 of AdamW's 2 m n where m = 4 n = 1536: no s above 0 keeps 0.25. Both sides
projected it is s r^2, and all state 0.21.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from optim_contenders import OURS, SIZES, Contender, Shapes, contenders, matrices
from torch import Tensor

from thalweg.linalg.polar import newton_schulz_dtype, newton_schulz_flops
from thalweg.optim import optimizer_state_bytes
from thalweg.optim.engine.passes import memory_words

REFRESHES = 2
"""Refreshes of a subspace that are timed."""


class Limits:
    """What the hardware allows: seconds a word and seconds a floating-point operation, measured in the same rounds as the rules."""

    def __init__(self, count: int) -> None:
        self._line = torch.randn(4 * count)  # AdamW's tensors: as many words, and as little of them in a cache
        self.dtype = newton_schulz_dtype(torch.device("cpu"), torch.float32)
        self._square = torch.randn(2048, 2048).to(self.dtype)
        self.words: list[float] = []
        self.products: list[float] = []

    def measure(self) -> None:
        """Once more."""
        self.words.append(timed(lambda: self._line.mul_(1.0000001)) / (2 * self._line.numel()))
        self.products.append(timed(lambda: self._square @ self._square, 2) / (2 * 2048**3))


def memory_limit(optimizer: Any, seconds_per_word: float) -> float:
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


def start(contender: Contender, model: Shapes, grads: list[Tensor]) -> None:
    """Make the optimizer and take its first two steps, which compile; note what goes wrong."""
    own = Shapes(*model.size)
    own.load_state_dict(model.state_dict())
    contender.params = list(own.parameters())
    try:
        contender.optimizer = contender.make(own)
        contender.give(grads)
        contender.first_step = timed(contender.optimizer.step)
        contender.give(grads)
        contender.optimizer.step()
    except Exception as error:
        contender.error = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    print(
        f"{contender.rule:14} {contender.package:18} first step {contender.first_step:6.1f} s {contender.error}",
        file=sys.stderr,
    )


def refresh_seconds(contender: Contender, grads: list[Tensor]) -> float:
    """What a step that refreshes its subspace takes beyond others, shared out over the steps between two."""
    groups = [group for group in contender.optimizer.param_groups if "update_every" in group]
    every = [group["update_every"] for group in groups]
    for group in groups:
        group["update_every"] = 1
    found = []
    for _ in range(REFRESHES):
        contender.give(grads)
        found.append(timed(contender.optimizer.step))
    for group, number in zip(groups, every, strict=True):
        group["update_every"] = number
    return max(0.0, min(found) - min(contender.seconds)) / min(every)


def state_share(optimizer: Any, model: Shapes) -> float:
    """Bytes kept for the hidden matrices, as a share of what AdamW would keep for them."""
    own = [p for group in optimizer.param_groups for p in group["params"] if p.ndim == 2]
    shapes = {p.shape for p in matrices(model)}
    bytes_ = sum(_bytes(optimizer.state.get(p, {})) for p in own if p.shape in shapes)
    return bytes_ / sum(8 * p.numel() for p in matrices(model))


def _bytes(state: dict[str, Any]) -> int:
    return sum(t.numel() * t.element_size() for t in state.values() if isinstance(t, Tensor))


def measure(size: str, rules: list[str], rounds: int, packages: list[str] | None) -> dict[str, object]:
    """Each rule beside its peers, in turn, ``rounds`` times over; best and median, and the limits measured in the same rounds."""
    torch.manual_seed(0)
    model = Shapes(*SIZES[size])
    grads = [torch.randn_like(p) * 0.01 for p in model.parameters()]
    count = sum(p.numel() for p in model.parameters())
    limits = Limits(count)
    rows = []
    for rule in rules:
        wanted = [c for c in contenders() if c.rule == rule and (not packages or c.package in packages)]
        reference = [c for c in contenders() if c.rule == "adamw" and c.package == "thalweg"]
        beside = reference if OURS[rule][1] == "adamw" else []
        running = [*beside, *wanted]
        for contender in running:
            start(contender, model, grads)
        gc.disable()
        first = len(limits.words)
        for _ in range(rounds):
            limits.measure()
            running.append(running.pop(0))  # what runs first is slower
            for contender in running:
                if not contender.error:
                    contender.give(grads)
                    contender.seconds.append(timed(contender.optimizer.step))
        gc.enable()
        words, products = limits.words[first:], limits.products[first:]
        if OURS[rule][1] == "products":
            limit, middle = product_limit(model, min(products)), statistics.median(products) / min(products)
        elif beside:
            limit, middle = min(beside[0].seconds), statistics.median(beside[0].seconds) / min(beside[0].seconds)
        else:
            ours = next(c for c in contenders() if c.rule == rule)
            limit, middle = memory_limit(ours.make(model), min(words)), statistics.median(words) / min(words)
        rows += [_row(contender, OURS[rule][1], limit, middle, grads, model) for contender in wanted]
    return {
        "size": size, "parameters": count, "tensors": len(grads), "rounds": rounds,
        "gigabytes_per_second": 4e-9 / min(limits.words), "teraflops": 1e-12 / min(limits.products),
        "product_dtype": str(limits.dtype), "rows": rows,
    }  # fmt: skip


def _row(
    contender: Contender, kind: str, limit: float, middle: float, grads: list[Tensor], model: Shapes
) -> dict[str, object]:
    row: dict[str, object] = {"rule": contender.rule, "package": contender.package, "error": contender.error}
    if not contender.seconds:
        return row
    extra = refresh_seconds(contender, grads) if kind == "adamw" and contender.package == "thalweg" else 0.0
    best, median = min(contender.seconds) + extra, statistics.median(contender.seconds) + extra
    row |= {"best_seconds": best, "median_seconds": median, "first_step_seconds": contender.first_step}
    row |= {"limit": kind, "best_multiple": best / limit, "median_multiple": median / (limit * middle)}
    if contender.package == "thalweg":
        row |= {"refresh_seconds": extra, "state_bytes": optimizer_state_bytes(contender.optimizer)}
        row |= {"matrix_state_share": state_share(contender.optimizer, model)}
    return row


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
    parser.add_argument("--rules", nargs="+", choices=OURS, default=list(OURS))
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
            f"{'rule':14} {'package':18} {'best ms':>9} {'median ms':>10} {'x limit (best)':>15} {'(median)':>9}  limit"
            "     state of matrices / AdamW's"
        )
        for row in result["rows"]:  # type: ignore[attr-defined]
            if row["error"]:
                print(f"{row['rule']:14} {row['package']:18} {row['error']}")
                continue
            share = f"{row['matrix_state_share']:.3f}" if "matrix_state_share" in row else ""
            print(
                f"{row['rule']:14} {row['package']:18} {row['best_seconds'] * 1e3:9.2f} {row['median_seconds'] * 1e3:10.2f} "
                f"{row['best_multiple']:15.2f} {row['median_multiple']:9.2f}  {row['limit']:9} {share}"
            )


if __name__ == "__main__":
    main()
