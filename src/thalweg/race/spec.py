"""How a task travels to the process that trains it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thalweg import tasks
from thalweg.race.outcome import one_line
from thalweg.tasks.task import Task, TaskError


@dataclass(frozen=True)
class TaskSpec:
    """A task by name, by file, or as an object; :meth:`load` makes the task in any process.

    A file travels with its text, so that it can be loaded on another machine, and so that a worker that starts later
    notices when the file has changed meanwhile.
    """

    kind: Literal["name", "file", "object"]
    value: str
    source: bytes = b""
    task: Task | None = dataclasses.field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, task: str | os.PathLike[str] | Task) -> TaskSpec:
        """The spec of a built-in task's name, of a ``.py`` file's path, or of a task object (see :meth:`pickled`)."""
        if isinstance(task, Task):
            return cls("object", task.name)
        text = os.fspath(task)
        if text in tasks.names() or not (
            text.endswith(".py") or os.path.basename(text) != text or os.path.isfile(text)
        ):
            return cls("name", text)
        path = Path(text).expanduser().absolute()
        try:
            return cls("file", str(path), path.read_bytes())
        except OSError as error:
            raise TaskError(f"{text}: can't be read: {error.strerror}") from None

    def pickled(self, task: Task) -> TaskSpec:
        """The spec for another process: an object goes inside, names and files stay as they are, and none is held."""
        source = _pickle(task) if self.kind == "object" else self.source
        return dataclasses.replace(self, source=source, task=None)

    def held(self, task: Task) -> TaskSpec:
        """The spec with the task object itself, for this process."""
        return dataclasses.replace(self, task=task)

    @property
    def fingerprint(self) -> str:
        """A hash that changes when a task file does; empty for built-in tasks and objects."""
        return hashlib.sha256(self.source).hexdigest()[:16] if self.kind == "file" else ""

    def load(self) -> Task:
        """The task, made in this process.

        Raises:
            TaskError: it can't be loaded, or its file has changed since the race started.
        """
        if self.task is not None:
            return self.task
        if self.kind == "object":
            return self._unpickle()
        if self.kind == "name":
            return tasks.load(self.value)
        path = Path(self.value)
        if not path.exists():
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / path.name
                copy.write_bytes(self.source)
                return tasks.load(copy)
        if path.read_bytes() != self.source:
            raise TaskError(
                f"{path.name} changed while the race was running; restore it and use --resume, or start a new race"
            )
        return tasks.load(path)

    def _unpickle(self) -> Task:
        try:
            task = pickle.loads(self.source)  # made by this race's own process, never read from a file or database
        except Exception as error:
            raise TaskError(
                f"task {self.value!r} can't be loaded in a worker process ({type(error).__name__}: {one_line(str(error))}); "
                "define its parts in an importable module, or use workers=0 on one device"
            ) from None
        assert isinstance(task, Task)
        return task


def _pickle(task: Task) -> bytes:
    try:
        return pickle.dumps(task)
    except Exception:
        for field in dataclasses.fields(task):
            try:
                pickle.dumps(getattr(task, field.name))
            except Exception as error:
                raise TaskError(
                    f"task {task.name!r}: its {field.name} can't be sent to worker processes ({one_line(str(error))}); "
                    "define it at the top level of a module, or use workers=0 on one device"
                ) from None
        raise
