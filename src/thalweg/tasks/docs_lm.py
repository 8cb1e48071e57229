"""Task ``docs-lm``: a byte-level language model of CPython's documentation and standard library."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from thalweg.tasks.decoder import Decoder
from thalweg.tasks.docs_text import documents, split_documents
from thalweg.tasks.task import Task

CONTEXT = 64
VALID_WINDOWS = 256


def task() -> Task:
    """Predict the next byte of real text: a 2-layer decoder of width 64 on windows of 64 bytes.

    The text is what this Python carries (about 4 MB): the reference topics behind ``help()`` and the source of public
    standard-library modules. Whole documents are held out. Symbols are plain bytes, all 256 of them: nothing is mapped
    away, so the loss is a true code length, in nats a byte, and any text can be scored; the rare symbols cost a larger
    embedding only. Training data are all windows side by side; validation data are 256 fixed ones.

    The figures differ a little between versions of Python, as their texts do; compare within one version.
    """
    train, valid = split_documents(documents())
    return Task(
        name="docs-lm",
        model=partial(Decoder, context=CONTEXT),
        train=TensorDataset(*windows(as_bytes(train), CONTEXT)),
        valid=TensorDataset(*spread(*windows(as_bytes(valid), CONTEXT), VALID_WINDOWS)),
        loss=next_byte_loss,
        metric_name="nats per byte",
        batch_size=16,
        steps=400,
        eval_every=25,
        source="docs-lm",
    )


def as_bytes(texts: dict[str, str]) -> Tensor:
    """All documents in the order of their names, one after the other, as UTF-8 bytes: uint8, shape (bytes,)."""
    return torch.tensor(bytearray("\n\n".join(texts[name] for name in sorted(texts)).encode()), dtype=torch.uint8)


def windows(text: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Cut a text into adjoining windows and what follows each of their bytes.

    Args:
        text: bytes, shape (length,).
        context: bytes in a window.

    Returns:
        Inputs and targets, both uint8 of shape (windows, context); ``targets[i, j]`` is the byte after ``inputs[i, j]``.

    Example:
        >>> windows(torch.arange(7, dtype=torch.uint8), 3)[1].tolist()
        [[1, 2, 3], [4, 5, 6]]
    """
    count = (len(text) - 1) // context
    inputs = text[: count * context].view(count, context)
    targets = text[1 : count * context + 1].view(count, context)
    return inputs, targets


def spread(inputs: Tensor, targets: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``count`` windows at equal distances over all of them."""
    chosen = torch.arange(count) * len(inputs) // count
    return inputs[chosen], targets[chosen]


def next_byte_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats per byte.

    Args:
        logits: shape (batch, length, 256).
        targets: the bytes that followed, shape (batch, length).
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten().long())
