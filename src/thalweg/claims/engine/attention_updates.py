"""Do examples in the context change what attention gives as fine-tuning on them does? The measures of arXiv:2212.10559.

For a query alone (zero-shot), after examples (in context), and alone after fine-tuning on these examples: SimAOU is the mean
cosine between both changes of the attention layers' outputs at the query. Rec2FTP is the share of the answers that
fine-tuning alone corrects which the context corrects as well. The third, SimAM, compares attention over the tokens of the query's
own text; a query of a single token has no such vector.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.claims.engine import recall_model as recall
from thalweg.probe import fine_tuned
from thalweg.tasks.decoder import Decoder


class Likeness(NamedTuple):
    """What the comparison gives.

    Attributes:
        sim_aou: mean over queries and layers, at the step size where it is largest.
        corrected: answers that only fine-tuning corrects or both, at the step size with the most right answers;
        by_both: those of them that are right in context, too.
    """

    sim_aou: float
    corrected: int
    by_both: int


def sim_aou(context: Tensor, tuned: Tensor, alone: Tensor) -> Tensor:
    """The mean cosine between two changes of attention's outputs, each output scaled to length 1 before.

    Args:
        context, tuned, alone: outputs, ``(..., queries, layers, width)``; they broadcast.

    Returns:
        ``(...)``; 0 counts where nothing changed.

    Example:
        >>> before, after = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 2.0]]])
        >>> round(sim_aou(after, 3 * after, before).item(), 4)
        1.0
    """
    context, tuned, alone = (F.normalize(outputs, dim=-1) for outputs in (context, tuned, alone))
    return F.cosine_similarity(context - alone, tuned - alone, dim=-1).mean((-2, -1))


def compare(model: Decoder, tasks: recall.Tasks, lrs: tuple[float, ...]) -> Likeness:
    """Fine-tune keys' and values' matrices on each task, pair by pair in their order and once, as the paper does.

    Args:
        model: stays as it is.
        tasks: with the examples to learn.
        lrs: step sizes.
    """
    shown, context = _outputs(model, {}, tasks.prompts().flatten(0, 1))
    asked, alone = _outputs(model, {}, tasks.questions().flatten(0, 1))
    shape = tasks.queries.shape
    runs = tasks.pairs.repeat(len(lrs), 1, 1)
    rates = torch.tensor(lrs).repeat_interleave(len(tasks.pairs))
    tuning = fine_tuned(
        model,
        runs[:, :, :1],
        runs[:, :, 1],
        rates,
        1,
        loss=recall.answer_loss,
        batch_size=1,
        masks=_keys_and_values(model),
    )
    (weights,) = tuning
    questions = tasks.questions().repeat(len(lrs), 1, 1)
    with sdpa_kernel(SDPBackend.MATH):
        read, tuned = vmap(lambda own, x: _outputs(model, own, x))(weights, questions)
    read, tuned = (found.unflatten(0, (len(lrs), -1)).nan_to_num() for found in (read, tuned))
    alike = sim_aou(context.unflatten(0, shape), tuned, alone.unflatten(0, shape)).mean(1)
    right_shown, right_asked = (f.unflatten(0, shape).argmax(-1) == tasks.answers for f in (shown, asked))
    right_tuned = read.argmax(-1) == tasks.answers
    best = right_tuned.flatten(1).sum(1).argmax()
    corrected = right_tuned[best] & ~right_asked
    return Likeness(alike.max().item(), int(corrected.sum()), int((corrected & right_shown).sum()))


def _outputs(model: Decoder, weights: dict[str, Tensor], prompts: Tensor) -> tuple[Tensor, Tensor]:
    """After each prompt's last token: logits, ``(prompts, vocabulary)``, and attention's outputs, ``(prompts, layers, width)``."""
    found: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(output[:, -1])

    handles = [block.get_submodule("attention").register_forward_hook(keep) for block in model.blocks]
    try:
        with torch.no_grad():
            logits: Tensor = functional_call(model, weights, (prompts,))[:, -1]
    finally:
        for handle in handles:
            handle.remove()
    return logits, torch.stack(found, 1)


def _keys_and_values(model: Decoder) -> dict[str, Tensor]:
    """Of the joint matrix of queries, keys and values the last two thirds."""
    masks = {}
    for name, parameter in model.named_parameters():
        if name.endswith("qkv.weight"):
            width = parameter.shape[1]
            masks[name] = (torch.arange(3 * width) >= width).to(parameter).unsqueeze(1)
    return masks
