"""Devices, precision and sharding of one run, through Lightning Fabric."""

from __future__ import annotations

import warnings
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from thalweg.race.errors import RaceError
from thalweg.race.job import Conditions
from thalweg.race.outcome import one_line
from thalweg.race.process import Child, wait_any

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@lru_cache(maxsize=4)
def fabric_for(device: str, devices: int, precision: str, strategy: str) -> Fabric:
    """The Fabric of this process for these conditions; in a group of ranks it joins the group.

    Args:
        device: Fabric's accelerator.
        devices: devices of a run.
        precision: Fabric's precision.
        strategy: ``"auto"``, ``"ddp"`` or ``"fsdp"``.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy

    plan: Any = "auto"
    if strategy == "fsdp":
        plan = ModelParallelStrategy(shard, data_parallel_size=devices, tensor_parallel_size=1)
    elif strategy == "ddp" or devices > 1:
        plan = DDPStrategy()
    fabric = Fabric(accelerator=device, devices=devices, strategy=plan, precision=precision)  # type: ignore[arg-type]
    fabric.launch()
    return fabric


def shard(model: nn.Module, mesh: Any) -> nn.Module:
    """FSDP2: every block (element of a ``ModuleList``) is gathered on its own, the rest with the whole model."""
    from torch.distributed.fsdp import fully_shard

    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    for block in (block for blocks in lists for block in blocks):
        if any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(model, mesh=mesh["data_parallel"])
    return model


_PATIENCE = 300.0
"""Seconds that a process may take to start and make one step."""


def check_devices(conditions: Conditions, workers: int | None, ray: str | None) -> None:
    """See that this machine can train under ``conditions``: the devices are there, and one small step works in the precision.

    The step on an accelerator is made in a process of its own, unless this one trains: a process that has touched a GPU holds
    memory there until it ends. Nothing is tried for a CPU in the usual precision, nor where a Ray cluster trains, whose machines
    this one doesn't know.

    Raises:
        RaceError: one line that says what can't be done.
    """
    device, devices, precision = conditions.device, conditions.devices, conditions.precision
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    accelerated = device != "cpu" and (cuda or mps)
    if ray is not None or (device in ("auto", "cpu") and not accelerated and precision == "32-true"):
        return
    there = {"cuda": cuda, "mps": mps, "gpu": cuda or mps}
    if not there.get(device, True):
        raise RaceError(
            f"device {device!r}: torch finds none on this machine; choose another with --device, or leave it out"
        )
    problem = _missing(device, devices)
    if not problem:
        problem = _in_child(device, precision) if accelerated and workers != 0 else _step(device, precision)
    if problem:
        raise RaceError(
            f"can't train with device {device!r}, devices {devices} and precision {precision!r} on this machine: {problem}"
        )


def _missing(device: str, devices: int) -> str:
    """What Fabric says about the number of devices; empty if they are there."""
    from lightning_fabric import Fabric

    try:
        Fabric(accelerator=device, devices=devices)
    except Exception as error:
        return one_line(str(error))
    return ""


def _step(device: str, precision: Any) -> str:
    """Make one small training step; what went wrong, or empty."""
    from lightning_fabric import Fabric

    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            fabric = Fabric(accelerator=device, devices=1, precision=precision)
            model = fabric.setup_module(nn.Linear(16, 16))
            loss = model(torch.ones(16, 16, device=fabric.device)).float().square().mean()
            fabric.backward(loss)
            loss.item()  # an accelerator's errors come late
    except Exception as error:
        return one_line(f"{type(error).__name__}: {error}")
    return ""


def _in_child(device: str, precision: str) -> str:
    """:func:`_step` in another process."""
    child = Child(_answer, (device, precision), {})
    try:
        wait_any([child], _PATIENCE)
        answer = child.receive()
        if answer is None:
            return f"a step took longer than {_PATIENCE:.0f} s" if child.alive else child.death()[0]
        return str(answer)
    finally:
        child.kill()


def _answer(connection: Connection, device: str, precision: str) -> None:
    connection.send(_step(device, precision))
