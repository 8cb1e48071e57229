"""The small language model that learns to recall from its context, and the tasks on which claims about that compare it.

Nothing is trained on "learning in context" as such: the model predicts the next token of mixed documents, of which half
hold 1 to 8 pairs of a key and a value, each pair once and then repeated at random, and half are walks of many random Markov
chains. To predict repeated pairs well it has to look them up.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.tasks.decoder import Decoder

VOCAB, KEYS, CONTEXT = 64, 32, 48
"""Tokens 0 to 31 are keys, 32 to 63 values; a document has 48."""

PAIRS = 8
"""Examples in the context of a task, and most pairs of a document."""

CHAINS = 2000
HALF = 0.5
"""Share of right recalls at which the earlier checkpoint is taken."""
LR = 3e-3

Kind = Literal["retrieval", "conflict"]


def documents(batch: int, chains: Tensor, draws: torch.Generator) -> Tensor:
    """Half pairs, half walks, ``(batch, 48)``.

    Args:
        batch: even.
        chains: of :func:`markov_chains`.
        draws: source of randomness.
    """
    return torch.cat([_pairs(batch // 2, draws), _walks(batch - batch // 2, chains, draws)])


def markov_chains(draws: torch.Generator) -> Tensor:
    """For each chain and token the four equally likely next ones, ``(2000, 64, 4)``."""
    return torch.randint(VOCAB, (CHAINS, VOCAB, 4), generator=draws)


def _pairs(batch: int, draws: torch.Generator) -> Tensor:
    keys = torch.rand(batch, KEYS, generator=draws).argsort(1)[:, :PAIRS]
    values = torch.randint(KEYS, VOCAB, (batch, PAIRS), generator=draws)
    # from one pair on: with few pairs recall pays at once, and on 4 to 8 alone some seeds guess one of the values for ever
    counts = torch.randint(1, PAIRS + 1, (batch, 1), generator=draws)
    length = CONTEXT // 2
    places = torch.arange(length).expand(batch, length)
    again = (torch.rand(batch, length, generator=draws) * counts).long()
    chosen = torch.where(places < counts, places, again)
    return torch.stack([keys.gather(1, chosen), values.gather(1, chosen)], 2).flatten(1)


def _walks(batch: int, chains: Tensor, draws: torch.Generator) -> Tensor:
    chain = torch.randint(len(chains), (batch,), generator=draws)
    tokens = [torch.randint(VOCAB, (batch,), generator=draws)]
    for _ in range(CONTEXT - 1):
        tokens.append(chains[chain, tokens[-1], torch.randint(4, (batch,), generator=draws)])
    return torch.stack(tokens, 1)


@dataclass(frozen=True)
class Tasks:
    """Some tasks: new pairs, and what to ask.

    Args:
        pairs: examples in their order, ``(tasks, 8, 2)``.
        queries: keys to ask for, ``(tasks, queries)``.
        answers: their values, the later one where a key has two, ``(tasks, queries)``.
    """

    pairs: Tensor
    queries: Tensor
    answers: Tensor

    def prompts(self, order: Tensor | None = None) -> Tensor:
        """All examples and a query, ``(tasks, queries, 17)``, the examples as they stand or in an ``order``."""
        pairs = self.pairs if order is None else self.pairs[:, order]
        shown = pairs.flatten(1).unsqueeze(1).expand(-1, self.queries.shape[1], -1)
        return torch.cat([shown, self.queries.unsqueeze(2)], 2)

    def questions(self) -> Tensor:
        """The queries alone, ``(tasks, queries, 1)``."""
        return self.queries.unsqueeze(2)


def recall_tasks(kind: Kind, tasks: int, draws: torch.Generator) -> Tasks:
    """Tasks that ask for all shown keys.

    Args:
        kind: "retrieval": 8 keys with a value each; "conflict": 4 keys, shown twice each with two different values.
        tasks: how many.
        draws: source of randomness.
    """
    distinct = PAIRS if kind == "retrieval" else PAIRS // 2
    keys = torch.rand(tasks, KEYS, generator=draws).argsort(1)[:, :distinct]
    values = KEYS + torch.rand(tasks, VOCAB - KEYS, generator=draws).argsort(1)[:, :PAIRS]  # all different
    shown = keys.repeat(1, PAIRS // distinct)
    order = torch.rand(tasks, PAIRS, generator=draws).argsort(1)
    pairs = torch.stack([shown.gather(1, order), values.gather(1, order)], 2)
    places = torch.where(pairs[:, None, :, 0] == keys[:, :, None], torch.arange(PAIRS), -1).max(2).values
    return Tasks(pairs, keys, pairs[:, :, 1].gather(1, places))


@dataclass(frozen=True)
class Pretrained:
    """A trained model and its course.

    Args:
        model: at the end.
        early: at the first test that found half of the recalls right, which is the end where there was none.
        start: before training.
        steps, losses, recall: of the tests; losses are those of the last documents, recall is the share of right ones.
    """

    model: Decoder
    early: Decoder
    start: Decoder
    steps: tuple[float, ...]
    losses: tuple[float, ...]
    recall: tuple[float, ...]

    @property
    def early_recall(self) -> float:
        """The share of right recalls at the earlier checkpoint."""
        return next((right for right in self.recall if right >= HALF), self.recall[-1])


def pretrain(
    seed: int,
    most_steps: int,
    *,
    enough: float = 0.95,
    every: int = 25,
    batch: int = 32,
    width: int = 64,
    layers: int = 2,
    progress: Callable[[float], None] = lambda share: None,
) -> Pretrained:
    """A decoder by AdamW at 3e-3, for a width of 64, after 100 steps of warm-up, until it recalls.

    Args:
        seed: of weights and data.
        most_steps: when to stop in any case.
        enough: share of right recalls on fresh tasks at which to stop.
        every: steps between tests of that.
        batch: documents in a step.
        width: of the decoder. Rate and start fall with its square root.
        layers: of the decoder, with 4 heads each.
        progress: gets the share of ``most_steps`` done.
    """
    torch.manual_seed(seed)
    draws = torch.Generator().manual_seed(seed)
    model, chains = Decoder(VOCAB, CONTEXT, embed_dim=width, num_heads=4, num_layers=layers), markov_chains(draws)
    shrink = (64 / width) ** 0.5
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:  # a larger start: recall is learnt in a few hundred steps, not in thousands
            nn.init.normal_(parameter, std=0.5 if "embed" in name else 0.1 * shrink)
    adam = torch.optim.AdamW(model.parameters(), lr=LR * shrink, betas=(0.9, 0.98))
    start, early = deepcopy(model).requires_grad_(False), None
    course: list[tuple[float, float, float]] = []
    for step in range(1, most_steps + 1):
        for group in adam.param_groups:
            group["lr"] = LR * shrink * min(1.0, step / 100)
        tokens = documents(batch, chains, draws)
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        if step % every == 0 or step == most_steps:
            tasks = recall_tasks("retrieval", 32, draws)
            right = accuracy(predict(model, tasks.prompts()), tasks.answers)
            course.append((float(step), loss.item(), right))
            progress(step / most_steps)
            if early is None and right >= HALF:
                early = deepcopy(model).requires_grad_(False)
            if right >= enough:
                break
    steps, losses, recall = zip(*course, strict=True)
    model.requires_grad_(False)
    return Pretrained(model, early or model, start, steps, losses, recall)


@torch.no_grad()
def predict(model: nn.Module, prompts: Tensor) -> Tensor:
    """Probabilities of the token after each prompt, ``(..., 64)`` for prompts ``(..., length)``."""
    logits: Tensor = model(prompts.flatten(0, -2))[:, -1]
    return logits.softmax(-1).unflatten(0, prompts.shape[:-1])


def accuracy(probabilities: Tensor, answers: Tensor) -> float:
    """The share of queries whose likeliest token is the answer."""
    return (probabilities.argmax(-1) == answers).double().mean().item()


def answer_loss(logits: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy of the token after the prompt."""
    return F.cross_entropy(logits[:, -1], answers)
