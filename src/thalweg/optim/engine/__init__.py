"""The machinery behind every optimizer: transforms, chains, and one class that runs them as a ``torch.optim.Optimizer``."""

from thalweg.optim.engine.memory import optimizer_state_bytes
from thalweg.optim.engine.optimizer import Chained, ChainedOptimizer, EngineOptions
from thalweg.optim.engine.transform import Chain, Transform, elementwise, layerwise, matrix

__all__ = [
    "Chain",
    "Chained",
    "ChainedOptimizer",
    "EngineOptions",
    "Transform",
    "elementwise",
    "layerwise",
    "matrix",
    "optimizer_state_bytes",
]
