"""Run by test_sharding.py in several processes: trains under FSDP2 and saves or compares what came out."""

from __future__ import annotations

import os
import sys
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from thalweg.autodiff import Closure
from thalweg.optim import (
    SAM,
    Chained,
    ChainedOptimizer,
    SophiaG,
    SophiaH,
    TargetSurrogate,
    cosh_damping,
    create,
    gradient_noise,
    lion_direction,
    matrix,
    momentum,
    radial_projections,
    trust_ratios,
)
from thalweg.optim.engine import owners

STEPS = 20


def build() -> nn.Module:
    """A small net with a convolution, sizes that two processes can't share evenly, norms, biases and a scalar-like vector."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7 * 36, 33), nn.LayerNorm(33), nn.ReLU(), nn.Linear(33, 33),
        nn.ReLU(), nn.Linear(33, 3),
    )  # fmt: skip


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(12, 1, 8, 8, generator=generator)
    return x, torch.randint(3, (12,), generator=generator)


@matrix(
    state={
        "row_mean": lambda m, n, **_: (m, 1),
        "basis": lambda m, n, **_: (min(m, n, 5), n),
        "count": (lambda m, n, **_: (1,), torch.int64),
    }
)
def remembered(
    stack: torch.Tensor, state: dict[str, torch.Tensor], *, step: int, every: int = 7
) -> tuple[torch.Tensor, ...]:
    """Keeps something of every kind beside each matrix."""
    if step % every == 1:
        state["basis"] = stack[:, : state["basis"].shape[1]] + 0.0
        state["count"] = state["count"] + 1
    state["row_mean"] = 0.9 * state["row_mean"] + 0.1 * stack.abs().mean(-1, keepdim=True)
    stack = stack + 0.1 * state["count"][..., None] * state["basis"].mean(1, keepdim=True)
    return stack, 1 / (state["row_mean"] + 0.1)


def optimizer_for(name: str, model: nn.Module) -> torch.optim.Optimizer:
    if name == "remembered":
        groups = [
            {"params": [p for p in model.parameters() if p.ndim >= 2 and len(p) != 33]},
            {"params": [p for p in model.parameters() if p.ndim >= 2 and len(p) == 33], "split": 3},
            {"params": [p for p in model.parameters() if p.ndim < 2], "rule": "plain"},
        ]
        rules = {"matrices": momentum(ema=True) >> remembered() >> cosh_damping(normalize=True), "plain": momentum()}
        return ChainedOptimizer(groups, rules, lr=1e-1)
    if name == "noisy_lion":
        return Chained(model, gradient_noise(eta=1e-3) >> lion_direction(), lr=1e-3, weight_decay=0.1)
    settings = {"weight_decay": 0.1} if name != "lars" else {}
    if name in ("fira", "frugal", "galore", "dct_adamw", "natural_galore"):
        settings["update_every"] = 6
    if name in ("fira", "galore", "dct_adamw", "natural_galore", "trion"):
        settings["rank"] = 2
    if name in ("muon", "normuon", "trion", "hybrid_auon"):
        settings["ns_dtype"] = torch.float64  # rounding of bfloat16 would hide what is compared
    if name == "lion_k":
        settings |= {"kernel": "topk", "k": 3}  # whole tensors, vectors among them
    if name == "adamp":
        settings["delta"] = 2.0  # so that each view passes now and then
    if name == "sso":
        settings |= {"inner": "gd", "inner_lr": 0.1, "inner_steps": 2}  # each is a pass through the model
    rates = {"lion": 1e-3, "sophia": 1e-4, "sophia_h": 1e-3}  # signs, or nearly: large steps from small differences
    return create(name, model, lr=rates.get(name, 1e-2), **settings)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        x, y = batch(step)
        if dist.is_initialized():
            x, y = x.chunk(dist.get_world_size())[dist.get_rank()], y.chunk(dist.get_world_size())[dist.get_rank()]
        count = dist.get_world_size() if dist.is_initialized() else 1
        closure = Closure(model, nn.functional.cross_entropy, x, y, zero_grad=optimizer.zero_grad, num_processes=count)
        if isinstance(optimizer, (SAM, TargetSurrogate)):
            optimizer.step(closure)
            continue
        closure()
        if isinstance(optimizer, SophiaG) and step % 5 == 0:  # labels of its own would be other ones on each process
            optimizer.update_hessian(len(x) * count)
        if (
            isinstance(optimizer, SophiaH) and step % 5 == 0
        ):  # its own estimate needs second derivatives, which FSDP2 doesn't pass on
            optimizer.set_hessian_estimate(
                [p.grad.abs() + 1 for group in optimizer.param_groups for p in group["params"]]
            )
        optimizer.step()
    optimizer.zero_grad()


def look(name: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, object]:
    """What the next step would use, for the rules that can be asked."""
    x, y = (t.chunk(dist.get_world_size())[dist.get_rank()] if dist.is_initialized() else t for t in batch(STEPS))
    nn.functional.cross_entropy(model(x), y).backward()
    return {"lamb": trust_ratios, "adamp": radial_projections}[name](optimizer)


def whole(model: nn.Module) -> list[torch.Tensor]:
    return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()]


def shard(model: nn.Module, layers: bool = False) -> nn.Module:
    """The whole model at once, or its layers by themselves: each takes three collectives a step."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model if layers else ():
        if any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def check_rounds(name: str, expected: list[torch.Tensor]) -> None:
    """Many rounds of few matrices give the same bits; each round's matrices set out before the work on those of the round before."""
    events: list[str] = []

    class Watched(owners._Arriving):
        def __init__(self, *arguments: object) -> None:
            events.append("set out")
            super().__init__(*arguments)

    def watched(*arguments: object) -> object:
        events.append("work")
        return map_stacks(*arguments)

    model = shard(build())
    optimizer = optimizer_for(name, model)
    map_stacks = owners.map_stacks
    with patch.multiple(owners, ROUND=300, _Arriving=Watched, map_stacks=watched):
        train(model, optimizer, 0, 1)
        rounds = len(events) // 2
        assert rounds > 1 and events == ["set out"] + ["set out", "work"] * (rounds - 1) + ["work"], events
        train(model, optimizer, 1, STEPS)
    assert all(torch.equal(x, y) for x, y in zip(whole(model), expected, strict=True))


def main(task: str, names: str, folder: str, rank: str, processes: str) -> None:
    store = dist.FileStore(f"{folder}/{task}.store", int(processes))
    dist.init_process_group("gloo", store=store, rank=int(rank), world_size=int(processes))
    torch.set_num_threads(1)
    for name in names.split(","):
        run(task, name, f"{folder}/{name}")
    dist.destroy_process_group()


def run(task: str, name: str, folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    model = shard(build(), layers=task != "train" or name == "muon")
    optimizer = optimizer_for(name, model)
    if task == "train":
        train(model, optimizer, 0, STEPS)
        assert all(isinstance(v, DTensor) for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v))
        if name in ("lamb", "adamp"):
            torch.save(look(name, model, optimizer), f"{folder}/look{dist.get_rank()}.pt")
        if name in ("muon", "fira"):
            check_rounds(name, whole(model))
    elif task == "save":
        train(model, optimizer, 0, STEPS // 2)
        state = {"model": model.state_dict(), "optim": get_optimizer_state_dict(model, optimizer)}
        dcp.save(state, checkpoint_id=f"{folder}/checkpoint")
    elif task == "load":
        state = {"model": model.state_dict(), "optim": get_optimizer_state_dict(model, optimizer)}
        dcp.load(state, checkpoint_id=f"{folder}/checkpoint")
        model.load_state_dict(state["model"])
        set_optimizer_state_dict(model, optimizer, state["optim"])
        assert all(isinstance(v, DTensor) for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v))
        train(model, optimizer, STEPS // 2, STEPS)
    result = whole(model)
    if dist.get_rank() == 0:
        torch.save(result, f"{folder}/{task}.pt")
    dist.barrier()  # nobody leaves while another still talks to it


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # threads of gloo sometimes abort the process while the interpreter shuts down, after all is done
