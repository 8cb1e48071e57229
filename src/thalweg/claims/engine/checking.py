"""Checks a claim: runs its seeds in order, keeps each as soon as it is there, and lets it judge."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.claims.engine.claim_file import ClaimFile, load
from thalweg.claims.engine.contract import Measurement, Result, Verdict
from thalweg.claims.engine.device import CPU, accelerator, running_on
from thalweg.claims.engine.errors import ClaimError
from thalweg.claims.engine.lock import held
from thalweg.claims.engine.measured import good_measurement, good_verdict
from thalweg.claims.engine.progress import Listener, Silent
from thalweg.claims.engine.storage import result_path, write_result
from thalweg.claims.engine.verify import trusted
from thalweg.claims.engine.work import Finished, Work
from thalweg.registry import unknown
from thalweg.tasks.fault import one_line

if TYPE_CHECKING:
    import torch


def check(
    slug: str,
    scale: str = "cpu",
    *,
    results: Path | str = "results",
    resume: bool = False,
    listener: Listener | None = None,
) -> Result:
    """Check one claim and store the result as ``results/SLUG/SCALE.json``.

    A check that was interrupted and goes on gives what it would have given without: every seed starts with fresh random
    generators and is judged as it was stored.

    Args:
        slug: the paper's, or the path of a claim file that isn't in the package.
        scale: "smoke", "cpu", or "gpu" where the claim has it.
        results: folder of results; unfinished work is kept in it too, under ``.work``.
        resume: go on with an interrupted check, unless the claim file or a library has changed since; give back a
            finished one that still holds.
        listener: is told what happens.

    Returns:
        The result. At gpu scale on a machine without an accelerator it says so and isn't stored.

    Raises:
        ValueError: no such claim or scale.
        ClaimError: the claim raises, gives NaN, or is being checked by another process. There is no verdict then.

    Example:
        >>> from thalweg.claims.engine import check
        >>> check("deep-linear-dynamics", "smoke").verdict.word   # doctest: +SKIP
        'reproduced'
    """
    listener, results = listener or Silent(), Path(results)
    file = load(slug)
    if scale not in file.claim.SCALES:
        raise ValueError(f"{file.slug}: {unknown('scale', scale, file.claim.SCALES)}")
    command = f"thalweg check {slug} --scale {scale}"
    device = accelerator() if scale == "gpu" else CPU
    if device is None:
        because = "This machine has none that torch can use in float64; nothing was measured."
        verdict = Verdict("needs an accelerator", because)
        return Result(file.slug, scale, file.claim.RULE, (), (), verdict, claim_sha256=file.sha256, command=command)
    key = {"the claim file": file.sha256} | {f"the version of {name}": v for name, v in _versions().items()}
    work = Work(results, file.slug, scale, key)
    with _writable(results), held(work.lock, f"{file.slug} at {scale} scale"):
        if resume and not work.resumable and (kept := trusted(result_path(results, file.slug, scale), file)):
            listener.note(f"{file.slug}: finished before, {kept.date}")
            return kept
        note = work.begin(resume)
        if note:
            listener.note(f"{file.slug}: {note}")
        result = _result(file, scale, device, command, work, listener)
        write_result(results, result)
        work.clear()
    return result


def _result(file: ClaimFile, scale: str, device: torch.device, command: str, work: Work, listener: Listener) -> Result:
    from thalweg.race.environment import machine

    seeds = file.claim.SCALES[scale].seeds
    chooses = hasattr(file.claim, "choose")
    there = {f"seed {seed}": work.seed(seed) for seed in seeds}
    if chooses:
        there = {"choose": work.chosen(), **there}
    listener.started(file, scale, list(there), [part for part, found in there.items() if found])
    try:
        chosen: Finished | None = None
        with running_on(device):
            if chooses:
                chosen = there["choose"] or _choose(file, scale, work, listener)
            parts = [there[f"seed {seed}"] or _measure(file, scale, seed, chosen, work, listener) for seed in seeds]
        measurements = [part.value for part in parts]
        with _errors(file, "judge()"):
            verdict = good_verdict(file.claim.judge(measurements))
    finally:
        listener.stopped()
    seconds = sum(part.seconds for part in parts) + (chosen.seconds if chosen else 0)
    return Result(
        slug=file.slug, scale=scale, rule=file.claim.RULE, measurements=tuple(measurements), seeds=seeds, verdict=verdict,
        chosen=None if chosen is None else chosen.value, seconds=round(seconds, 1),
        claim_sha256=file.sha256, command=command, date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=_versions(), machine=machine(),
    )  # fmt: skip


def _choose(file: ClaimFile, scale: str, work: Work, listener: Listener) -> Finished:
    choose: Callable[..., Any] = getattr(file.claim, "choose")  # noqa: B009 - not every claim has it
    _seed_generators(0)
    start = time.monotonic()
    with _errors(file, "choose()"):
        value = choose(scale, report=_reporter(listener, "choose"))
        found = work.save_chosen(value, time.monotonic() - start)
    listener.finished("choose")
    return found


def _measure(
    file: ClaimFile, scale: str, seed: int, chosen: Finished | None, work: Work, listener: Listener
) -> Finished:
    run: Callable[..., Measurement] = file.claim.run
    settings = {} if chosen is None else {"chosen": chosen.value}
    _seed_generators(seed)
    start = time.monotonic()
    with _errors(file, f"seed {seed}"):
        value = run(scale, seed, report=_reporter(listener, f"seed {seed}"), **settings)
        value = good_measurement(value, file.claim.PANELS)
    found = work.save_seed(seed, value, time.monotonic() - start)
    listener.finished(f"seed {seed}")
    return found


def _reporter(listener: Listener, part: str) -> Callable[..., None]:
    def report(share: float, doing: str = "") -> None:
        listener.moved(part, share, doing)

    return report


@contextlib.contextmanager
def _errors(file: ClaimFile, what: str) -> Iterator[None]:
    """Whatever a claim raises becomes a :class:`ClaimError` that says where."""
    try:
        yield
    except ClaimError as error:
        raise ClaimError(f"{file.slug}, {what}: {error}") from error
    except (Exception, SystemExit) as error:
        raise ClaimError(f"{file.slug}, {what}: {file.where(error)} raised {one_line(error)}") from error


@contextlib.contextmanager
def _writable(results: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ClaimError(
            f"can't write to {results}: {error.strerror or error}; choose another one with --results"
        ) from error


def _seed_generators(seed: int) -> None:
    """Start all global random generators anew, so that a seed's numbers don't depend on what ran before it."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _versions() -> dict[str, str]:
    from thalweg.race.environment import versions

    return versions("numpy", "scipy", "scikit-learn")
