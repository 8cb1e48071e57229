"""WTA-CRS: a linear layer that stores a weighted sample of its input rows for the weight gradient (arXiv:2305.15265)."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from thalweg.nn.column_row_sampling import Deterministic, RowSampling
from thalweg.nn.grad_norm_cache import GradNormCache
from thalweg.registry import method


class _SampledLinear(torch.autograd.Function):
    """``F.linear`` that keeps weighted rows of its input instead of the input."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, kept: Tensor, indices: Tensor, record: _NormRecord | None
    ) -> Tensor:
        return F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, kept, indices, ctx.record = inputs
        ctx.dtype = x.dtype
        ctx.save_for_backward(weight, kept, indices)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, kept, indices = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        with torch.autocast(grad.device.type, enabled=False):
            rows = grad.reshape(-1, grad.shape[-1])
            if ctx.needs_input_grad[0]:
                grad_x = (grad @ weight.to(grad.dtype).conj()).to(ctx.dtype)
            if ctx.needs_input_grad[1]:
                grad_weight = (rows[indices].mT @ kept.to(grad.dtype).conj()).to(weight.dtype)
            if ctx.needs_input_grad[2]:
                grad_bias = rows.sum(0).to(weight.dtype)
            if ctx.record is not None:
                ctx.record.add(_row_norms(rows))
        return grad_x, grad_weight, grad_bias, None, None, None


class _NormRecord:
    """Adds up the gradients' squares of all layers that share their rows, and hands the norms to the cache."""

    def __init__(self, cache: GradNormCache, layer: str, ids: Tensor) -> None:
        self.cache, self.layer, self.ids = cache, layer, ids
        self.squares: Tensor | None = None

    def add(self, norms: Tensor) -> None:
        self.squares = norms.square() if self.squares is None else self.squares + norms.square()
        self.cache.write(self.layer, self.ids, self.squares.sqrt())


class _Rows:
    """The rows kept of one input, and which layers use them."""

    def __init__(self, kept: Tensor, indices: Tensor, record: _NormRecord | None, version: int, how: Any) -> None:
        self.kept, self.indices, self.record, self.version, self.how = kept, indices, record, version, how
        self.users: set[int] = set()

    def fit(self, layer: WTACRSLinear, input: Tensor) -> bool:
        """Whether the layer may use them: it hasn't yet, would have drawn alike, and the input is still what it was."""
        return id(layer) not in self.users and (self.version, self.how) == (input._version, layer._how(input))


class WTACRSLinear(nn.Linear):
    r"""``nn.Linear`` that stores about ``sample_ratio`` of its input rows for the backward pass; its weight gradient stays unbiased.

    A linear layer stores its whole input, D rows (tokens), for the sum :math:`\sum_i g_i x_i^\top` over output gradients and
    inputs. Here it stores k rows: those that matter most for certain, and a weighted random sample of the others
    (:func:`wta_crs_select`), with

    .. math:: p_i = (1 - f)\,\frac{\|x_i\|\,\|g_i\|}{\sum_j \|x_j\|\,\|g_j\|} + \frac{f}{D}.

    As :math:`g_i` isn't known in the forward pass, its norm is that of the last visit to the same example, from a
    :class:`GradNormCache`; without one, or where it has no entry, rows count as of equal gradient. Output and gradients of bias and
    input are ``nn.Linear``'s, and so is all of it in evaluation mode, where weights don't train, and where k isn't below D.

    Memory falls only if nothing else holds the input: what follows a normalization layer qualifies, what follows a ReLU does
    not, which stores its output too. Activations, normalizations, dropout and attention keep what they keep: with all linear
    layers of a 6-layer sentence encoder at 0.3, autograd held 88 MB in the place of 110. ``saved_tensors_hooks`` tell for a
    model, and :func:`thalweg.probe.peak_memory` what a training step comes to. By the allocator (float32, 2048 rows of 256, on the
    CPU: ``benchmarks/wta_crs_memory.py``) 8 normalized linear layers take 42.1 MB, 30.4 at 0.3 and 27.0 at 0.1; a 6-layer encoder
    with its feed-forward layers converted 349.4 MB, 309.2 and 298.2.

    Layers that get the very same tensor one after the other, as queries, keys and values do, share one selection, drawn with the
    settings of the first; gradient norms are then those of all their outputs together. (Compiled, each draws its own.) Draws come
    from torch's global generator; under ``torch.func.vmap`` say ``randomness="different"``. Under activation checkpointing the
    selection that counts is that of the recomputation.

    Args:
        in_features, out_features: n and m.
        bias: add a learned bias (default True).
        sample_ratio: k / D, above 0 and at most 1 (default 0.3; the paper also has 0.1).
        min_rows: smallest k (default 10).
        deterministic, drop_tail: see :func:`wta_crs_select`.
        floor: f, the share of probability that is spread evenly (default 0.1). With 0, the paper's choice, a row that had no gradient
            last time and has one now would enter with a huge weight. It raises the variance by a factor of at most about
            :math:`1 / (1 - f)`.
        device, dtype: of the parameters.

    Attributes:
        norm_cache: a :class:`GradNormCache` or None, and ``norm_key`` the layer's name in it; :func:`convert_wta_crs` sets both.

    Raises:
        ValueError: a setting out of range.
        RuntimeError: on differentiating twice.

    The paper: arXiv:2305.15265.

    Example:
        >>> layer = WTACRSLinear(8, 4, sample_ratio=0.25)
        >>> saved = []
        >>> with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.shape), t)[1], lambda t: t):
        ...     y = layer(torch.randn(2, 50, 8))
        >>> [tuple(shape) for shape in saved]  # weight, rows and their indices
        [(4, 8), (25, 8), (25,)]
    """

    sampling: RowSampling
    norm_cache: GradNormCache | None
    norm_key: str

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        sample_ratio: float = 0.3,
        min_rows: int = 10,
        deterministic: Deterministic = "adaptive",
        drop_tail: float = 0.0,
        floor: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sampling = RowSampling(sample_ratio, min_rows, deterministic, drop_tail, floor)
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.sampling = sampling
        self.norm_cache, self.norm_key = None, ""

    def forward(self, input: Tensor) -> Tensor:
        count = input.shape[:-1].numel()
        keep = self.sampling.rows_of(count)
        samples = self.training and torch.is_grad_enabled() and self.weight.requires_grad
        if not samples or keep == count or input.shape[-1:] != self.weight.shape[1:]:
            return super().forward(input)
        rows = self._rows(input, keep)
        return _SampledLinear.apply(input, self.weight, self.bias, rows.kept, rows.indices, rows.record)

    def _rows(self, input: Tensor, keep: int) -> _Rows:
        """Those that another layer has just kept of this tensor, or new ones.

        They hang on the tensor, and so live as long as it. No layer takes the same ones twice: a tensor that comes again in the next
        step gets a new sample.
        """
        if torch.compiler.is_compiling():
            return self._draw(input, keep)
        found: _Rows | None = getattr(input, "_wta_crs_rows", None)
        if found is None or not found.fit(self, input):
            found = self._draw(input, keep)
            input._wta_crs_rows = found  # type: ignore[attr-defined]
        found.users.add(id(self))
        return found

    @torch.no_grad()
    def _draw(self, input: Tensor, keep: int) -> _Rows:
        flat = input.detach().reshape(-1, self.in_features)
        score = _row_norms(flat)
        record = None
        if self.norm_cache is not None:
            norms = self.norm_cache.read(self.norm_key, len(flat))
            if norms is not None:
                norms = norms.to(score.device)
                score = score * torch.where(norms.isnan(), norms.nanmean(), norms).nan_to_num(1.0)
            if self.norm_cache.ids is not None:
                record = _NormRecord(self.norm_cache, self.norm_key, self.norm_cache.ids)
        indices, weights = self.sampling.select(score, keep)
        kept = (flat[indices] * weights.to(score.dtype)[:, None]).to(_stored_dtype(input))
        return _Rows(kept, indices, record, input._version, self._how(input))

    def _how(self, input: Tensor) -> tuple[Any, ...]:
        """All that a selection depends on beside the input."""
        return self.sampling, self.norm_cache, _stored_dtype(input)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sample_ratio={self.sampling.sample_ratio}"


@method("wta_crs", search={"sample_ratio": ("choice", 0.1, 0.3, 0.5)})
def convert_wta_crs(
    model: nn.Module,
    sample_ratio: float = 0.3,
    include: Sequence[str] = ("*",),
    min_rows: int = 10,
    deterministic: Deterministic = "adaptive",
    drop_tail: float = 0.0,
    floor: float = 0.1,
    norm_cache: GradNormCache | None = None,
) -> nn.Module:
    """Turn a model's linear layers into layers that store a sample of their input rows, in place (arXiv:2305.15265).

    The layers stay the same objects with the same parameters and hooks; only their class changes. So optimizers made before go on
    working, and checkpoints load in both directions. Converting again changes the settings.

    Args:
        model: any module, or an ``nn.Linear`` itself.
        include: patterns of the layers' names, such as ``("*.query", "*.key", "*.value")``, which is what the paper converts;
            by default all plain linear layers.
        sample_ratio, min_rows, deterministic, drop_tail, floor: see :class:`WTACRSLinear`.
        norm_cache: gradient norms of earlier visits; tell it before each batch which examples come (``set_batch``).

    Returns:
        The same model.

    Raises:
        ValueError: a setting out of range, a pattern that no linear layer fits. Nothing has been changed then.

    Example:
        >>> block = nn.ModuleDict({"query": nn.Linear(4, 4), "out": nn.Linear(4, 4)})
        >>> [type(layer).__name__ for layer in convert_wta_crs(block, include=["query"]).values()]
        ['WTACRSLinear', 'Linear']
    """
    sampling = RowSampling(sample_ratio, min_rows, deterministic, drop_tail, floor)
    if isinstance(include, str):
        include = (include,)
    layers = {name: layer for name, layer in model.named_modules() if type(layer) in (nn.Linear, WTACRSLinear)}
    for pattern in include:
        if not any(fnmatch(name, pattern) for name in layers):
            raise ValueError(
                f"{type(model).__name__} has no plain nn.Linear named {pattern!r} (it has {', '.join(layers) or 'none'})"
            )
    for name, layer in layers.items():
        if any(fnmatch(name, pattern) for pattern in include):
            layer.__class__ = WTACRSLinear
            sampled = cast(WTACRSLinear, layer)
            sampled.sampling, sampled.norm_cache, sampled.norm_key = sampling, norm_cache, name
    return model


def _row_norms(rows: Tensor) -> Tensor:
    """Euclidean norms, in float32 at least."""
    return torch.linalg.vector_norm(rows, dim=-1, dtype=torch.promote_types(rows.dtype, torch.float32))


def _stored_dtype(input: Tensor) -> torch.dtype:
    """The dtype in which the product is taken: autocast's where it applies."""
    kind = input.device.type
    if torch.is_autocast_enabled(kind) and input.dtype in (torch.float32, torch.float16, torch.bfloat16):
        return torch.get_autocast_dtype(kind)
    return input.dtype
