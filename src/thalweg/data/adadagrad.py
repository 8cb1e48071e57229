"""Batches that grow when the gradient is noisier than it is long (arXiv:2402.11215)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thalweg.autodiff import FlatModel, per_example_gradients
from thalweg.data.gradient_noise_tests import GradientMoments, GradientNoise

TESTS = ("norm", "inner", "augmented", "coordinate")


class BatchSizeController:
    r"""The batch size of the next step, from the scatter of this step's per-example gradients (AdAdaGrad, arXiv:2402.11215).

    With mean gradient :math:`\bar g` and per-coordinate variance Var of b examples, each test names the size at which the noise of
    the mean would be as small as asked; the batch stays if it has that size, else it grows to it, and it never shrinks:

    ============ ===================================================================================================
    norm         :math:`\|\mathrm{Var}\|_1 / (\eta^2 \|\bar g\|^2)`
    inner        :math:`\mathrm{Var}\langle g_i, \bar g\rangle / (\theta^2 \|\bar g\|^4)`
    augmented    the larger of "inner" and :math:`o / (\nu^2 \|\bar g\|^2)`, o the variance orthogonal to the mean
    coordinate   :math:`\max_j \mathrm{Var}_j / (\eta^2 \bar g_j^2)`
    ============ ===================================================================================================

    All sums run over all parameters together. Where :math:`\bar g = 0` but the variance isn't, the batch jumps to ``max_batch``.
    Together with :class:`~thalweg.optim.Adagrad` this is AdAdaGrad, with :class:`~thalweg.optim.AdagradNorm` AdAdaGradNorm; the
    learning rate does not grow with the batch. For one process.

    Args:
        batch_size: size of the first batches, two or more (default 8).
        test: see above (default "norm").
        eta: noise allowed by "norm" and "coordinate", relative to the gradient, in (0, 1) (default 0.1; the paper to 0.5).
        theta: by "inner" and "augmented" (default 0.5).
        nu: by the orthogonality part of "augmented" (default 1).
        max_batch: largest size; None: no limit, which :class:`~thalweg.data.GrowingBatchSampler` sets to its data's size.
        interval: test on calls 1, T + 1, 2T + 1, ... (default 1).
        growth_cap: largest growth by one test, as a factor; None: no limit (default). Small batches sometimes ask for far too much.

    Raises:
        ValueError: a value out of range.

    Example:
        >>> controller = BatchSizeController(4, eta=0.5)
        >>> controller.propose(torch.tensor([[1.0, 2.0], [3.0, 0.0], [2.0, 1.0], [-2.0, 1.0]]))
        11
    """

    def __init__(
        self,
        batch_size: int = 8,
        test: Literal["norm", "inner", "augmented", "coordinate"] = "norm",
        *,
        eta: float = 0.1,
        theta: float = 0.5,
        nu: float = 1.0,
        max_batch: int | None = None,
        interval: int = 1,
        growth_cap: float | None = None,
    ) -> None:
        if test not in TESTS:
            raise ValueError(f"unknown test {test!r} (choose from {', '.join(TESTS)})")
        if not isinstance(batch_size, int) or batch_size < 2:
            raise ValueError(f"batch_size must be 2 or more, not {batch_size!r}: one example has no variance")
        if not 0 < eta < 1:
            raise ValueError(f"Invalid eta: {eta!r} (must be in (0, 1))")
        for name, value in (("theta", theta), ("nu", nu)):
            if not value > 0:
                raise ValueError(f"Invalid {name}: {value!r} (must be a number > 0)")
        if max_batch is not None and max_batch < batch_size:
            raise ValueError(f"max_batch {max_batch} is below the first batch_size {batch_size}")
        if interval < 1:
            raise ValueError(f"interval must be at least 1, not {interval}")
        if growth_cap is not None and not growth_cap > 1:
            raise ValueError(f"growth_cap must be above 1, not {growth_cap!r}")
        self.test, self.eta, self.theta, self.nu = test, eta, theta, nu
        self.max_batch, self.interval, self.growth_cap = max_batch, interval, growth_cap
        self.batch_size = batch_size
        self._calls = 0
        self._last: dict[str, float] = {}

    @property
    def due(self) -> bool:
        """Whether this step's batch is to be tested: on the calendar, and below the limit."""
        full = self.max_batch is not None and self.batch_size >= self.max_batch
        return self._calls % self.interval == 0 and not full

    def propose(self, per_example_grads: Tensor) -> int:
        """The next batch size, from the gradients ``(b, P)`` of this batch's examples at the weights before the update.

        Raises:
            ValueError: fewer than two rows.
        """
        moments = GradientMoments()
        moments.add(per_example_grads)
        return self._decide(moments.noise([per_example_grads @ moments.mean] if self._needs_inner else None))

    def backward(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        inputs: Tensor,
        targets: Tensor,
        *,
        chunk_size: int | None = None,
    ) -> Tensor:
        """Leave the batch's mean gradient in ``.grad`` and decide on the next size; what ``loss.backward()`` is to a fixed batch.

        The batch may be larger than memory allows at once: gradients are accumulated over chunks. On steps without a test it is
        ordinary accumulation, on steps with one the per-example gradients take ``chunk_size`` times the parameters' memory, and
        "inner" and "augmented" go over all chunks but the last a second time, as they need the mean first.

        Args:
            model: any module of one input.
            loss_fn: ``loss_fn(outputs, targets)``, the mean over a batch.
            inputs, targets: the batch, ``(b, ...)``.
            chunk_size: examples at a time; None: all.

        Returns:
            The batch's mean loss, detached.

        Raises:
            RuntimeError: a layer that mixes examples or draws at random is in training mode, so that an example's own gradient
                isn't defined.
        """
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
        due, size = self.due and len(inputs) > 1, chunk_size or max(1, len(inputs))
        chunks = list(zip(inputs.split(size), targets.split(size), strict=True))
        noise = None
        if due:
            _check_layers(model)
            flat = FlatModel(model)
            noise = self._noise(flat, loss_fn, chunks)  # nothing has changed yet, should it fail
        self._calls += 1
        model.zero_grad()
        loss = torch.zeros((), device=inputs.device)
        for x, y in chunks:
            with torch.set_grad_enabled(not due):
                part = loss_fn(model(x), y) * (len(x) / len(inputs))
            if not due:
                part.backward()
            loss = loss + part.detach()
        if noise is not None:
            own = dict(model.named_parameters())
            for name, gradient in flat.unflatten(noise.mean).items():
                own[name].grad = gradient.clone()
            self._decide(noise)
        return loss

    def stats(self) -> dict[str, float]:
        """What the last test saw: its ``batch`` of examples, the ``needed`` one, ``squared_norm`` and total ``variance``; empty
        before."""
        return dict(self._last)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers with which :meth:`load_state_dict` goes on."""
        return {"batch_size": self.batch_size, "calls": self._calls, "last": dict(self._last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`."""
        self.batch_size, self._calls, self._last = state["batch_size"], state["calls"], dict(state["last"])

    @property
    def _needs_inner(self) -> bool:
        return self.test in ("inner", "augmented")

    def _noise(
        self, flat: FlatModel, loss_fn: Callable[[Any, Any], Tensor], chunks: list[tuple[Tensor, Tensor]]
    ) -> GradientNoise:
        moments, rows = GradientMoments(), torch.empty(0)
        for x, y in chunks:
            rows = _rows(flat, loss_fn, x, y)
            moments.add(rows)
        products = None
        if self._needs_inner:
            products = [rows @ moments.mean]
            for x, y in chunks[:-1]:
                products.append(_rows(flat, loss_fn, x, y) @ moments.mean)
        return moments.noise(products)

    def _decide(self, noise: GradientNoise) -> int:
        needed = self._needed(noise)
        self._last = {
            "batch": float(noise.count),
            "needed": needed,
            "squared_norm": noise.mean.square().sum().item(),
            "variance": noise.variance.sum().item(),
        }
        if math.isnan(needed):
            raise ValueError("the gradients hold NaN: no batch size follows from them")
        if needed > noise.count:
            self.batch_size = self._limited(needed)
        return self.batch_size

    def _needed(self, noise: GradientNoise) -> float:
        if self.test == "norm":
            return noise.norm(self.eta)
        if self.test == "coordinate":
            return noise.coordinate(self.eta)
        inner = noise.inner_product(self.theta)
        return inner if self.test == "inner" else max(inner, noise.orthogonality(self.nu))

    def _limited(self, needed: float) -> int:
        if self.growth_cap is not None:
            needed = min(needed, self.batch_size * self.growth_cap)
        if self.max_batch is not None:
            needed = min(needed, self.max_batch)
        if math.isinf(needed):
            raise ValueError(
                "the mean gradient vanishes, so that no batch is large enough: give max_batch or growth_cap"
            )
        return max(self.batch_size, math.ceil(needed))


def _rows(flat: FlatModel, loss_fn: Callable[[Any, Any], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The per-example gradients; functions that draw at random show themselves here only."""
    try:
        return per_example_gradients(flat, loss_fn, x, y)
    except RuntimeError as error:
        if "randomness" not in str(error):
            raise
        raise RuntimeError(
            "the model or the loss draws at random, which gradients of single examples can't: put the model in evaluation mode, "
            "or its dropout (attention's too) to 0"
        ) from None


def _check_layers(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if not module.training:
            continue
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise RuntimeError(
                f"{name or 'the model'} mixes the batch's examples, so they have no gradient of their own: use GroupNorm, "
                "or put batch normalization in evaluation mode"
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise RuntimeError(
                f"{name or 'the model'} draws at random, which gradients of single examples can't: "
                "put dropout in evaluation mode"
            )
