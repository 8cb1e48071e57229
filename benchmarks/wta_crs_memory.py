"""Peak memory of a training step with WTA-CRS linear layers against ``nn.Linear``, as the allocator saw it.

    python benchmarks/wta_crs_memory.py            # on the CPU, seconds
    python benchmarks/wta_crs_memory.py cuda       # on a GPU

Two models in which activations dominate: normalized linear layers, where nothing but the layer holds its input, and a sentence encoder
of torch's own, where attention, activations and dropout keep what they keep. Writes ``benchmarks/results/wta_crs_memory.json``, from
which the docstring of ``thalweg.nn.WTACRSLinear`` has its figures.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.nn import convert_wta_crs
from thalweg.probe import peak_memory

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "wta_crs_memory.json"
RATIOS = (1.0, 0.3, 0.1)
"""Shares of rows that are kept; with 1 the layers are ``nn.Linear``."""


def normalized_layers(width: int = 256, depth: int = 8) -> nn.Module:
    """Layers that see normalized inputs."""
    return nn.Sequential(*(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) for _ in range(depth)))


def sentence_encoder(width: int = 256, depth: int = 6) -> nn.Module:
    """Attention and feed-forward layers, normalized before each; without nested tensors, which evaluation alone has."""
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, activation="gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


MODELS = {
    "8 normalized linear layers": (normalized_layers, "*"),
    "6-layer encoder, feed-forward layers": (sentence_encoder, "*.linear?"),
}
"""What is trained, and which of its layers are converted."""


def step_bytes(name: str, ratio: float, sequences: int = 32, tokens: int = 64, device: str = "cpu") -> int:
    """Peak of one step of forward pass, backward pass and SGD, above weights and input.

    Args:
        name: of :data:`MODELS`.
        ratio: share of rows kept.
        sequences, tokens: of the batch.
        device: "cpu" or "cuda".
    """
    torch.manual_seed(0)
    make, include = MODELS[name]
    model = convert_wta_crs(make(), ratio, [include]).to(device)
    x: Tensor = torch.randn(sequences, tokens, 256, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # what is made once, such as a library's workspace, isn't the step's
    return peak_memory(step, device)


def measure(device: str) -> dict[str, Any]:
    """Peaks of all models at all ratios, in bytes."""
    return {name: {str(ratio): step_bytes(name, ratio, device=device) for ratio in RATIOS} for name in MODELS}


def main(device: str = "cpu") -> None:
    """Measure, print, store beside what other devices gave."""
    found = measure(device)
    for name, peaks in found.items():
        whole = peaks["1.0"]
        print(f"{name}: " + ", ".join(f"{r}: {b / 1e6:.1f} MB ({b / whole:.2f})" for r, b in peaks.items()))
    label = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    stored = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    stored[label] = {"torch": torch.__version__, "python": platform.python_version(), "peak_bytes": found}
    RESULT.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
