"""Devices, precision and sharding of one run, through Lightning Fabric."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from torch import nn

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
