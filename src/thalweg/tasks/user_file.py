"""A user's own task: a Python file that defines ``task()``."""

from __future__ import annotations

import dataclasses
import sys
import zlib
from pathlib import Path
from types import CodeType, ModuleType

from thalweg.tasks.fault import one_line, user_line
from thalweg.tasks.task import Task, TaskError


def load_file(source: str) -> Task:
    """Run the file and call its ``task()``.

    The file's folder joins the end of ``sys.path``, so that it may import its neighbours, and the file becomes a module
    under a name of its own, so that its classes can be pickled; ``__name__`` isn't ``"__main__"``.

    Args:
        source: path of the file; messages repeat it as it is written here, and it becomes the task's ``source``.

    Raises:
        TaskError: the file is missing, is not Python, raises, defines no ``task()``, or ``task()`` raises or returns
            something else. One line that begins with the file, and the line in it where there is one.
    """
    module = _run(source, _compiled(source))
    build = getattr(module, "task", None)
    if build is None:
        raise TaskError(f"{source}: defines no function task(); it must return a thalweg.tasks.Task")
    if not callable(build):
        raise TaskError(f"{source}: task is {_a(build)}, not a function that returns a thalweg.tasks.Task")
    try:
        task = build()
    except (Exception, SystemExit) as error:
        said = str(error) if isinstance(error, TaskError) else f"task() raised {one_line(error)}"
        raise TaskError(f"{user_line(error, source)}: {said}") from error
    if not isinstance(task, Task):
        line = getattr(getattr(build, "__code__", None), "co_firstlineno", None)
        raise TaskError(
            f"{source}{f':{line}' if line else ''}: task() must return a thalweg.tasks.Task, not {_a(task)}"
        )
    return dataclasses.replace(task, source=source)


def _compiled(source: str) -> CodeType:
    path = Path(source)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise TaskError(f"{source}: there is no such file") from error
    except OSError as error:
        raise TaskError(f"{source}: can't be read: {error.strerror or error}") from error
    try:
        return compile(content, str(path.resolve()), "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f"{source}:{error.lineno}" if error.lineno else source
        raise TaskError(f"{where}: {type(error).__name__}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise TaskError(f"{source}: is not Python source: {error}") from error


def _run(source: str, code: CodeType) -> ModuleType:
    path = Path(source).resolve()
    module = ModuleType(f"thalweg_task_{path.stem}_{zlib.crc32(str(path).encode()):08x}")
    module.__file__ = str(path)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[module.__name__] = module
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise TaskError(f"{user_line(error, source)}: the file raised {one_line(error)}") from error
    return module


def _a(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"
