"""What a model is trained on, and how often: samplers for torch's DataLoader, weights, scores of examples."""

from thalweg.data.adadagrad import BatchSizeController
from thalweg.data.batch_regime import adapt_regime, sqrt_lr_scale
from thalweg.data.el2n import el2n
from thalweg.data.gradient_noise_tests import GradientMoments, GradientNoise
from thalweg.data.growing_batches import GrowingBatchSampler
from thalweg.data.prune import prune_by_score
from thalweg.data.scores import EnsembleScores, el2n_scores, ensemble_scores, grand_scores
from thalweg.data.temperature import (
    CooldownSchedule,
    TemperatureSampler,
    scalarization_weights,
    temperature,
    temperature_probs,
)

__all__ = [
    "BatchSizeController",
    "CooldownSchedule",
    "EnsembleScores",
    "GradientMoments",
    "GradientNoise",
    "GrowingBatchSampler",
    "TemperatureSampler",
    "adapt_regime",
    "el2n",
    "el2n_scores",
    "ensemble_scores",
    "grand_scores",
    "prune_by_score",
    "scalarization_weights",
    "sqrt_lr_scale",
    "temperature",
    "temperature_probs",
]
