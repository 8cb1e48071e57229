"""Temperature sampling over domains, with cooldown (arXiv:2410.04579)."""

from __future__ import annotations

import bisect
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from thalweg.data.labels import labels_of
from thalweg.registry import method


def temperature_probs(sizes: Sequence[int] | Tensor, tau: float) -> Tensor:
    r"""Probability of each domain: :math:`p_i = n_i^{1/\tau} / \sum_j n_j^{1/\tau}`.

    ``tau=1`` is proportional to size, ``tau=inf`` uniform. Many papers write :math:`\alpha = 1/\tau`.

    Args:
        sizes: number of examples :math:`n_i` of each of K domains, all positive.
        tau: temperature, positive; below 1 it sharpens, with a warning.

    Returns:
        ``(K,)``, float64, sums to 1.

    Raises:
        ValueError: a domain is empty, or tau is not positive.

    Example:
        >>> temperature_probs([900, 100], tau=5.0)
        tensor([0.6081, 0.3919], dtype=torch.float64)
    """
    counts = torch.as_tensor(sizes, dtype=torch.float64)
    if counts.dim() != 1 or counts.numel() == 0 or not bool((counts > 0).all()):
        raise ValueError("every domain needs at least one example")
    _check_tau(tau)
    return (counts.log() / tau).softmax(0)


def scalarization_weights(sizes: Sequence[int] | Tensor, tau: float) -> Tensor:
    r"""Loss weights :math:`w_i = p_i(\tau) / q_i`, with :math:`q_i = n_i / n`.

    They give the same expected gradient as temperature sampling, usually with a larger variance. Draw examples in
    proportion to size and take ``(w[domain] * loss_per_example).mean()``; dividing by the weights' sum would bias it.

    Args:
        sizes: as in :func:`temperature_probs`.
        tau: temperature.

    Returns:
        ``(K,)``, float64.

    Example:
        >>> scalarization_weights([900, 100], tau=5.0)
        tensor([0.6757, 3.9187], dtype=torch.float64)
    """
    return temperature_probs(sizes, tau) / temperature_probs(sizes, 1.0)


class CooldownSchedule:
    r"""Temperature as a function of the step.

    Args:
        points: ``(step, tau)`` pairs with rising steps, the first at step 0.
        mode: ``"step"`` holds each temperature until the next point, which holds from its step on. ``"linear"`` and
            ``"cosine"`` interpolate :math:`1/\tau` between points, on which the probabilities depend smoothly even
            through infinity.

    Raises:
        ValueError: no points, steps that do not rise from 0, a temperature that is not positive, or an unknown mode.

    Example:
        >>> cooldown = CooldownSchedule([(0, 5.0), (1000, 1.0)])
        >>> cooldown(999), cooldown(1000)
        (5.0, 1.0)
    """

    def __init__(self, points: Sequence[tuple[int, float]], mode: Literal["step", "linear", "cosine"] = "step") -> None:
        steps = [step for step, _ in points]
        if not steps or steps[0] != 0 or any(a >= b for a, b in itertools.pairwise(steps)):
            raise ValueError(f"a schedule's steps must rise from 0, not {steps}")
        if mode not in ("step", "linear", "cosine"):
            raise ValueError(f"mode must be 'step', 'linear' or 'cosine', not {mode!r}")
        for _, tau in points:
            _check_tau(tau)
        self.points = list(points)
        self.mode = mode

    def __call__(self, step: int) -> float:
        """The temperature at a step, counted from 0."""
        at = bisect.bisect_right(self.points, step, key=lambda point: point[0]) - 1
        start, tau = self.points[max(at, 0)]
        if self.mode == "step" or at + 1 >= len(self.points):
            return tau
        end, next_tau = self.points[at + 1]
        part = (step - start) / (end - start)
        if self.mode == "cosine":
            part = (1 - math.cos(math.pi * part)) / 2
        inverse = (1 - part) / tau + part / next_tau
        return 1 / inverse if inverse > 0 else math.inf


class TemperatureSampler(Sampler[int]):
    """Draws a domain by temperature, then an example of it.

    An example comes again only after all others of its domain (a domain's own reshuffled epochs), unless
    ``replacement``. The stream goes on from one pass to the next; its position counts what was drawn, which with a
    prefetching loader is ahead of what was trained on. Under data parallelism give every process the same seed and let
    each take its share of the stream, as Lightning Fabric does.

    Args:
        domain_of: domain number of each example, ``(N,)``, from 0 to K - 1, none empty.
        tau: a temperature, or a schedule from step to temperature, e.g. :class:`CooldownSchedule`.
        num_samples: indices in one pass (default N).
        batch_size: draws in one step of the schedule; needed with a schedule. Under data parallelism the sum over
            processes.
        replacement: draw uniformly within the domain instead.
        generator: source of randomness; ``None`` seeds one from torch's global state.

    Raises:
        ValueError: domains are not numbered 0 to K - 1 without gaps, tau is not positive, or a schedule comes without
            ``batch_size``.

    Example:
        >>> import math
        >>> generator = torch.Generator().manual_seed(0)
        >>> sampler = TemperatureSampler([0] * 90 + [1] * 10, math.inf, generator=generator)
        >>> len(list(sampler))
        100
        >>> sampler.epochs_seen[1].item() > 4  # half of the draws go to the 10 examples of domain 1
        True
    """

    def __init__(
        self,
        domain_of: Tensor | Sequence[int],
        tau: float | Callable[[int], float] = 1.0,
        *,
        num_samples: int | None = None,
        batch_size: int | None = None,
        replacement: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        domains = torch.as_tensor(domain_of)
        if domains.dim() != 1 or domains.numel() == 0 or domains.is_floating_point() or int(domains.min()) < 0:
            raise ValueError("domain_of must hold one domain number from 0 on for each example")
        self.sizes = torch.bincount(domains)
        if bool((self.sizes == 0).any()):
            empty = int((self.sizes == 0).nonzero()[0])
            raise ValueError(f"domains must be numbered without gaps: {empty} is empty")
        if callable(tau) and batch_size is None:
            raise ValueError("a schedule needs batch_size, the number of draws in one step")
        if not callable(tau):
            _check_tau(tau)
        for name, value in (("num_samples", num_samples), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if generator is None:
            generator = torch.Generator().manual_seed(int(torch.empty((), dtype=torch.int64).random_()))
        self.tau = tau
        self.num_samples = num_samples or len(domains)
        self.batch_size = batch_size or 1
        self.replacement = replacement
        self.generator = generator
        self._members = [(domains == k).nonzero().flatten() for k in range(len(self.sizes))]
        self._left: list[list[int]] = [[] for _ in self._members]  # of each domain's running epoch, the next one last
        self._draws = [0] * len(self._members)
        self._position = 0

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        tau, bounds = None, []
        for _ in range(self.num_samples):
            now = self.tau(self.step) if callable(self.tau) else self.tau
            if now != tau:
                tau, bounds = now, temperature_probs(self.sizes, now).cumsum(0)[:-1].tolist()
            domain = bisect.bisect_right(bounds, self._uniform())
            index = self._draw(domain)
            self._draws[domain] += 1
            self._position += 1
            yield index

    @property
    def step(self) -> int:
        """The schedule's step that the next draw belongs to."""
        return self._position // self.batch_size

    def set_step(self, step: int) -> None:
        """Jump to a step of the schedule; the order of the examples goes on as it was."""
        self._position = step * self.batch_size

    @property
    def epochs_seen(self) -> Tensor:
        """How often each domain has been passed over so far, ``(K,)``, with fractions."""
        return torch.tensor(self._draws) / self.sizes

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the future indices: tensors and plain numbers."""
        return {
            "position": self._position,
            "draws": list(self._draws),
            "left": [torch.tensor(left, dtype=torch.int64) for left in self._left],
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where :meth:`state_dict` was taken, in a sampler made with the same arguments.

        Raises:
            ValueError: the state has another number of domains.
        """
        if len(state["left"]) != len(self.sizes):
            raise ValueError(f"the state has {len(state['left'])} domains, this sampler {len(self.sizes)}")
        self._position = state["position"]
        self._draws = list(state["draws"])
        self._left = [left.tolist() for left in state["left"]]
        self.generator.set_state(state["generator"])

    def _uniform(self) -> float:
        return float(torch.rand((), dtype=torch.float64, generator=self.generator))

    def _draw(self, domain: int) -> int:
        members = self._members[domain]
        if self.replacement:
            return int(members[int(self._uniform() * len(members))])
        if not self._left[domain]:
            self._left[domain] = members[torch.randperm(len(members), generator=self.generator)].tolist()
        return self._left[domain].pop()


@method("temperature", search={"tau": ("log", 1.0, 20.0)})
def temperature(
    dataset: Dataset[Any],
    make_model: Callable[[], Any] | None = None,
    generator: torch.Generator | None = None,
    *,
    tau: float = 5.0,
    tau_end: float | None = None,
    cooldown_epoch: float = 1.0,
    domain_of: Tensor | Sequence[int] | None = None,
) -> TemperatureSampler:
    """Temperature sampling as a race uses it: by class, unless the domains are given.

    Args:
        dataset: map-style.
        make_model: not used.
        generator: source of randomness.
        tau: temperature at the start.
        tau_end: temperature from ``cooldown_epoch`` on; ``None`` keeps ``tau``.
        cooldown_epoch: when to cool down, in passes over as many examples as the data set has.
        domain_of: domain number of each example; ``None`` takes the data set's labels as domains.

    Raises:
        ValueError: the data set has no whole-number labels; see also :class:`TemperatureSampler`.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> data = TensorDataset(torch.zeros(10, 1), torch.tensor([3] * 8 + [7] * 2))
        >>> temperature(data, tau=2.0).sizes.tolist()
        [8, 2]
    """
    if domain_of is None:
        domain_of = labels_of(dataset).unique(return_inverse=True)[1]
    if tau_end is None:
        return TemperatureSampler(domain_of, tau, generator=generator)
    switch = max(1, round(cooldown_epoch * len(domain_of)))
    schedule = CooldownSchedule([(0, tau), (switch, tau_end)])
    return TemperatureSampler(domain_of, schedule, batch_size=1, generator=generator)


def _check_tau(tau: float) -> None:
    if not tau > 0:
        raise ValueError(f"the temperature tau must be positive, not {tau}")
    if tau < 1:
        warnings.warn(f"tau={tau} is below 1: large domains are drawn even more than their share", stacklevel=3)
