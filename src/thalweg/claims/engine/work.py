"""What an unfinished check has so far, so that it can go on after Ctrl-C, a crash or kill -9."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.claims.engine.contract import Measurement
from thalweg.claims.engine.storage import measurement_from_json, measurement_to_json, write_text

FOLDER = ".work"


@dataclass(frozen=True)
class Finished:
    """A finished part of a check: what it gave, and how long it took."""

    value: Any
    seconds: float


class Work:
    """The folder ``results/.work/SLUG-SCALE``: a file for the chosen settings and one for each finished seed.

    Whatever is handed out was read back from JSON, also in a run that is never interrupted, so that both are the same.

    Args:
        results: folder of results.
        slug, scale: which check.
        key: what the numbers depend on; work of another key is of no use.
    """

    def __init__(self, results: Path, slug: str, scale: str, key: Mapping[str, str]) -> None:
        self._root = results / FOLDER
        self._folder = self._root / f"{slug}-{scale}"
        self._key = dict(key)

    @property
    def lock(self) -> Path:
        """The lock file that goes with it."""
        return self._folder.with_suffix(".lock")

    @property
    def resumable(self) -> bool:
        """Whether there is work of this key."""
        return self._read("key.json") == self._key

    def begin(self, resume: bool) -> str:
        """Go on with what is there, or start anew.

        Returns:
            What to tell about it; empty if there is nothing to tell.
        """
        before, kept = self._read("key.json"), len(list(self._folder.glob("seed-*.json")))
        if resume and self.resumable:
            return ""
        self.clear()
        write_text(self._root / ".gitignore", "*\n")
        write_text(self._folder / "key.json", json.dumps(self._key))
        if not isinstance(before, dict):
            return "there is no interrupted run to go on with; starting with the first seed" if resume else ""
        if not resume:
            dropped = f"{kept} finished seed{'' if kept == 1 else 's'} of an interrupted run"
            return f"starting anew without {dropped} (--resume would have kept them)" if kept else ""
        changed = [name for name in self._key if before.get(name) != self._key[name]]
        return f"starting anew: {' and '.join(changed)} changed since the interrupted run"

    def clear(self) -> None:
        """Remove it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def chosen(self) -> Finished | None:
        """The chosen settings, if they are there."""
        return self._finished("chosen.json")

    def seed(self, seed: int) -> Finished | None:
        """The measurement of a seed, if it is there."""
        found = self._finished(f"seed-{seed}.json")
        return found and Finished(measurement_from_json(found.value), found.seconds)

    def save_chosen(self, value: Any, seconds: float) -> Finished:
        """Keep the chosen settings; gives them as they will be read.

        Raises:
            TypeError: they aren't plain JSON.
            ValueError: they hold NaN or infinity.
        """
        return self._save("chosen.json", value, seconds)

    def save_seed(self, seed: int, value: Measurement, seconds: float) -> Finished:
        """Keep the measurement of a seed; gives it as it will be read."""
        found = self._save(f"seed-{seed}.json", measurement_to_json(value), seconds)
        return Finished(measurement_from_json(found.value), seconds)

    def _save(self, name: str, value: Any, seconds: float) -> Finished:
        text = json.dumps({"value": value, "seconds": seconds}, allow_nan=False)
        write_text(self._folder / name, text)
        return Finished(json.loads(text)["value"], seconds)

    def _finished(self, name: str) -> Finished | None:
        data = self._read(name)
        return None if data is None else Finished(data["value"], data["seconds"])

    def _read(self, name: str) -> Any:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self._folder / name).read_text(encoding="utf-8"))
        return None
