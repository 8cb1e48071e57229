"""Sophia: momentum over a running diagonal of the curvature, clipped element by element (arXiv:2305.14342)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.autodiff.closure import Closure
from thalweg.autodiff.gauss_newton_bartlett import Likelihood, check_likelihood, sampled_loss
from thalweg.autodiff.hutchinson import check_probes, hutchinson_diagonal
from thalweg.autodiff.unchanged_buffers import unchanged_buffers
from thalweg.optim.engine import ChainedOptimizer, elementwise
from thalweg.optim.engine.hyperparameters import check_hyperparameter
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.engine.random import stream_key
from thalweg.optim.engine.sharding import local, sharding_of
from thalweg.registry import method

STALE = 100
"""Steps without a new curvature estimate after which a warning is due."""


def counts_steps(step: int, **_: Any) -> dict[str, float]:
    """No scalar is needed; having this, the engine counts steps, which the calendar of estimates goes by."""
    return {}


@elementwise(state=("exp_avg", "hessian"), prepare=counts_steps)
def sophia_direction(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    *,
    betas: tuple[float, float] = (0.965, 0.99),
    rho: float = 0.04,
    eps: float = 1e-15,
) -> Tensor:
    r"""The running mean of the gradient over a curvature that something else keeps in ``hessian``, clipped to 1.

    .. math:: m \leftarrow \beta_1 m + (1-\beta_1) g, \qquad u = \mathrm{clip}\!\left(\frac{m}{\max(\rho h, \epsilon)}, 1\right)

    Example:
        >>> from thalweg.optim import Chained, sophia_direction
        >>> p = nn.Parameter(torch.zeros(2))
        >>> optimizer = Chained([p], sophia_direction(betas=(0.5, 0.9), rho=1.0), lr=0.1)
        >>> p.grad = torch.tensor([1.0, 1.0])
        >>> optimizer.step()  # no curvature is known yet: both are clipped
        >>> optimizer.state[p]["hessian"] = torch.tensor([10.0, 0.0])
        >>> optimizer.step()
        >>> p.data
        tensor([-0.1075, -0.2000])
    """
    mean = state["exp_avg"] = betas[0] * state["exp_avg"] + (1 - betas[0]) * update
    ratio = mean / (rho * state["hessian"]).clamp(min=eps)
    return ratio.clamp(-1, 1) + 0 * mean  # clipping would hide an infinite mean


@dataclass(frozen=True)
class _Estimates:
    """When and on what the optimizer works out curvature by itself."""

    update_every: int | None
    batch_size: int | None
    seed: int
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        for name in ("update_every", "batch_size"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"Invalid {name}: {value!r} (must be None or a whole number >= 1)")
        check_hyperparameter("seed", self.seed)


class Sophia(ChainedOptimizer):
    """What :class:`SophiaG` and :class:`SophiaH` share: everything but :meth:`estimate_hessian`."""

    needs_closure = True
    _steps_since_estimate = 0

    def __init__(
        self,
        params: Params,
        lr: float | Tensor,
        betas: tuple[float, float],
        rho: float,
        weight_decay: float,
        eps: float,
        estimates: _Estimates,
        **options: Any,
    ) -> None:
        self._estimates = estimates
        rule = sophia_direction(betas=betas, rho=rho, eps=eps)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, **options)

    def estimate_hessian(self, closure: Closure) -> None:
        """Draw one estimate of the curvature on the closure's batch, and mix it into the running one."""
        raise TypeError(f"{type(self).__name__} has no estimator: use SophiaG or SophiaH")

    @torch.no_grad()
    def update_hessian(self, num_terms: int = 1) -> None:
        r"""Mix the Gauss-Newton-Bartlett estimate :math:`B\,g \odot g` in, ``p.grad`` being the gradient of a **sampled** loss.

        For training loops with a backward pass of their own (accumulation, pipelines). Gradients must be whole: unscaled, unclipped,
        averaged over processes.

        Args:
            num_terms: terms B in the mean of that loss, over all processes: examples, or tokens for a language model.

        Raises:
            ValueError: ``num_terms`` below 1.
        """
        if num_terms < 1:
            raise ValueError(f"num_terms must be at least 1, not {num_terms}")
        self._mix([None if p.grad is None else p.grad for _, p in self._all()], lambda g: num_terms * (g * g))

    @torch.no_grad()
    def set_hessian_estimate(self, estimates: Sequence[Tensor | None]) -> None:
        """Mix an estimate of your own in.

        Args:
            estimates: for every parameter in the order of the groups, the diagonal of the **loss's** Hessian, of the parameter's
                shape, or None to leave it; ``maximize`` groups turn its sign.

        Raises:
            ValueError: not as many as parameters, or another shape.
        """
        pairs = list(self._all())
        if len(estimates) != len(pairs):
            raise ValueError(f"{len(estimates)} estimates for {len(pairs)} parameters")
        for (_, param), estimate in zip(pairs, estimates, strict=True):
            if estimate is not None and estimate.shape != param.shape:
                raise ValueError(
                    f"an estimate of shape {tuple(estimate.shape)} for a parameter of {tuple(param.shape)}"
                )
        self._mix(
            [-e if e is not None and g["maximize"] else e for (g, _), e in zip(pairs, estimates, strict=True)],
            lambda e: e,
        )

    @torch.no_grad()
    def win_rate(self) -> float:
        """Share of all weights that the clipping let through at the last step; 1 minus it is the clipped share.

        The authors tune ``rho`` so that it is 0.1 to 0.5. Shards are added up; NaN before the first step.
        """
        kept = total = 0.0
        for group, param in self._all():
            state = self.state.get(param)
            if not state:
                continue
            mean, curvature = local(state["exp_avg"]), local(state["hessian"])
            inside = mean.abs() < (group["rho"] * curvature).clamp(min=group["eps"])
            counts = torch.stack([inside.sum(), torch.tensor(inside.numel(), device=inside.device)]).double()
            sharding = sharding_of(param)
            if sharding is not None:
                ((first, second),) = sharding.add_up([(counts[0], counts[1])], [((), (), ())])
                counts = torch.stack([first, second])
            kept, total = kept + counts[0].item(), total + counts[1].item()
        return kept / total if total else float("nan")

    def _evaluate(self, closure: Callable[[], Any] | None) -> Any:
        own = self._estimates
        if isinstance(closure, Closure) and own.update_every is not None and self._steps() % own.update_every == 0:
            self.estimate_hessian(closure)
        self._steps_since_estimate += 1
        if self._steps_since_estimate == STALE:
            warnings.warn(
                f"{type(self).__name__}: {STALE} steps without a new curvature estimate, so it steps by signs or old curvature: "
                "call estimate_hessian or update_hessian every few steps, or step with a thalweg.autodiff.Closure",
                stacklevel=4,
            )
        return super()._evaluate(closure)

    def _all(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        return ((group, param) for group in self.param_groups for param in group["params"])

    def _steps(self) -> int:
        return max((int(state.get("step", 0)) for state in self.state.values()), default=0)

    def _generator(self, like: Tensor, process: int) -> torch.Generator:
        """Draws that depend on the seed, the step and the process alone, so that a resumed run goes on with the same."""
        key = stream_key(self._estimates.seed, self._steps(), process)
        return torch.Generator(like.device).manual_seed(key)

    def _mix(self, estimates: Sequence[Tensor | None], function: Callable[[Tensor], Tensor]) -> None:
        given = [(group, p, e) for (group, p), e in zip(self._all(), estimates, strict=True) if e is not None]
        if self._settings.nonfinite != "propagate" and self._spoilt([(p, e) for _, p, e in given]):
            return
        for group, param, estimate in given:
            state = self.state[param]
            if not state:
                self._init_state(param, state, self.rule_of(group), group)
            running, fresh = map(_real, (local(state["hessian"]), local(estimate)))
            beta = float(group["betas"][1])
            wide = torch.promote_types(running.dtype, torch.float32)
            running.copy_(beta * running.to(wide) + (1 - beta) * function(fresh.to(wide)))
        self._steps_since_estimate = 0

    def _spoilt(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
        """Whether an estimate holds NaN or infinity, on any process; raises instead if so asked."""
        found = False
        for param, estimate in pairs:
            bad = ~torch.isfinite(local(estimate)).all()
            sharding = sharding_of(param)
            found |= bool(bad if sharding is None else sharding.any_true(bad))
        if found and self._settings.nonfinite == "raise":
            raise FloatingPointError("the curvature estimate is not finite")
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_estimates": self._estimates}


@method(
    "sophia",
    search={"lr": ("log", 3e-5, 1e-2), "rho": ("log", 1e-3, 1.0), "weight_decay": ("log", 1e-3, 1.0)},
    use="Long trainings of classifiers and language models, where an estimate of the curvature every ten steps is affordable.",
)
class SophiaG(Sophia):
    r"""Clipped second-order steps with the Gauss-Newton-Bartlett estimate of the curvature (arXiv:2305.14342).

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g, \qquad
        p \leftarrow (1 - \eta\lambda) p - \eta\, \mathrm{clip}\!\left(\frac{m}{\max(\rho h, \epsilon)}, 1\right)

    where every ``update_every`` steps, before the step, :math:`h \leftarrow \beta_2 h + (1-\beta_2)\, B\,\hat g \odot \hat g`, and
    :math:`\hat g` is the gradient of the mean loss over B terms under labels drawn from the model
    (:func:`~thalweg.autodiff.gauss_newton_bartlett`). Where curvature is large it is a Newton-like step; where it is small it is
    signed momentum of size ``lr``, which no weight ever exceeds. B is inside ``h``, so ``step`` needs no batch size and one ``rho``
    suits all of them (authors' code: ``step(bs=B)``).

    The loss must be the mean of a negative log-likelihood. Two ways to keep ``h`` fresh:

    - ``optimizer.step(closure)`` with a :class:`~thalweg.autodiff.Closure` does it by itself, on calls 1, k + 1, 2k + 1, ... (works
      under DDP and FSDP2). A race does this.
    - In a loop of your own: every k steps, before the step, ``optimizer.estimate_hessian(closure)``, or your own backward pass of a
      :func:`~thalweg.autodiff.sampled_loss` and :meth:`update_hessian`. ``step()`` itself then never estimates.

    A warning is given once 100 steps pass without either.

    Args:
        params: parameters, named parameters, parameter groups, or a module (biases and norm gains then aren't decayed).
        lr: learning rate (default 1e-4).
        betas: decay rates of the running means of gradient and curvature (default (0.965, 0.99)).
        rho: what curvature is multiplied by: larger clips less (default 0.04). Choose it by :meth:`win_rate`.
        weight_decay: decoupled decay rate (default 0.1).
        eps: smallest divisor, which negative and unknown curvature get as well (default 1e-15).
        update_every: steps between estimates of its own; None: never (default 10).
        hessian_batch_size: examples of the batch to estimate on; None: all (default; the paper takes half).
        likelihood: how labels are drawn; None: told from the loss where that can be done
            (see :func:`~thalweg.autodiff.sample_targets`).
        seed: names the stream of draws (default 0).
        options: see :class:`~thalweg.optim.EngineOptions`; with ``nonfinite`` other than "propagate" an estimate that isn't finite
            is skipped, or raises, as well.

    State: two tensors a parameter, ``exp_avg`` and ``hessian``.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch
        >>> from thalweg.autodiff import Closure
        >>> from thalweg.optim import SophiaG
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = SophiaG(model, lr=1e-3)
        >>> batch = torch.randn(8, 4), torch.randint(3, (8,))
        >>> loss = optimizer.step(Closure(model, torch.nn.functional.cross_entropy, *batch))
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.965, 0.99),
        rho: float = 0.04,
        weight_decay: float = 0.1,
        eps: float = 1e-15,
        update_every: int | None = 10,
        hessian_batch_size: int | None = None,
        likelihood: Likelihood | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if likelihood is not None:
            check_likelihood(likelihood)
        estimates = _Estimates(update_every, hessian_batch_size, seed, {"likelihood": likelihood})
        super().__init__(params, lr, betas, rho, weight_decay, eps, estimates, **options)

    def estimate_hessian(self, closure: Closure) -> None:
        """Mix one Gauss-Newton-Bartlett estimate on the closure's batch in; it leaves its gradient in ``p.grad``."""
        part = closure.head(self._estimates.batch_size)
        rank = dist.get_rank() if closure.num_processes > 1 else 0
        _, first = next(self._all())
        with torch.enable_grad(), unchanged_buffers(closure.model):
            loss, terms = sampled_loss(part, generator=self._generator(first, rank), **self._estimates.settings)
            part.backward(loss)
        self.update_hessian(terms * closure.num_processes)


@method(
    "sophia_h",
    search={"lr": ("log", 3e-5, 1e-2), "rho": ("log", 1e-3, 1.0), "weight_decay": ("log", 1e-3, 1.0)},
    use="As sophia, for losses that aren't a likelihood; needs second derivatives, so one process.",
)
class SophiaH(Sophia):
    r"""Clipped second-order steps with Hutchinson's estimate of the Hessian's diagonal (arXiv:2305.14342).

    The rule and its options are :class:`SophiaG`'s; the estimate is :math:`\hat h = u \odot (H u)` by double backward
    (:func:`~thalweg.autodiff.hutchinson_diagonal`), which any twice differentiable loss allows and which may be negative: there the
    step is signed momentum. It doesn't pass through DDP or FSDP2, and costs about two gradients more.

    Args:
        params, lr, betas, weight_decay, eps, update_every, hessian_batch_size, seed, options: as for :class:`SophiaG`.
        rho: what curvature is multiplied by (default 0.01).
        samples: probes in an estimate (default 1).
        probes: "rademacher" signs (default; the diagonal part is exact) or "normal", as in the paper.

    State: two tensors a parameter, ``exp_avg`` and ``hessian``.

    Raises:
        ValueError: a setting out of range.
        RuntimeError: in ``step``: a closure of several processes.

    Example:
        >>> import torch
        >>> from thalweg.autodiff import Closure
        >>> from thalweg.optim import SophiaH
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = SophiaH(model, lr=1e-3, update_every=None)
        >>> closure = Closure(model, torch.nn.functional.mse_loss, torch.randn(8, 4), torch.randn(8, 1))
        >>> for step in range(20):
        ...     if step % 10 == 0:
        ...         optimizer.estimate_hessian(closure)
        ...     loss = optimizer.step(closure)
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.965, 0.99),
        rho: float = 0.01,
        weight_decay: float = 0.1,
        eps: float = 1e-15,
        update_every: int | None = 10,
        hessian_batch_size: int | None = None,
        samples: int = 1,
        probes: Literal["rademacher", "normal"] = "rademacher",
        seed: int = 0,
        **options: Any,
    ) -> None:
        check_probes(samples, probes)
        estimates = _Estimates(update_every, hessian_batch_size, seed, {"samples": samples, "probes": probes})
        super().__init__(params, lr, betas, rho, weight_decay, eps, estimates, **options)

    def estimate_hessian(self, closure: Closure) -> None:
        """Mix one of Hutchinson's estimates on the closure's batch in; ``p.grad`` is not touched."""
        if closure.num_processes > 1:
            raise RuntimeError(
                "SophiaH needs second derivatives, which DDP and FSDP don't pass on: use SophiaG, or one process"
            )
        trained = [param for _, param in self._all() if param.requires_grad]
        # The fused attention kernels have no second derivative.
        with torch.enable_grad(), unchanged_buffers(closure.model), sdpa_kernel(SDPBackend.MATH):
            loss = closure.head(self._estimates.batch_size).loss()
            found = hutchinson_diagonal(
                loss, trained, generator=self._generator(trained[0], 0), **self._estimates.settings
            )
        estimates = dict(zip(map(id, trained), found, strict=True))
        self.set_hessian_estimate([estimates.get(id(param)) for _, param in self._all()])


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
