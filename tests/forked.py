"""Programs that start in a tenth of a second: forked from a process that has imported what they need and computed nothing.

A race in a process of its own spends ten seconds on imports, more than on everything a test looks at. :class:`Forks` keeps one
process that has paid for them; each program is a fork of it, with its own environment, folder, output and (if asked) session,
which then runs a module, a script or a text as ``python`` would, and ends as ``python`` would. What it starts itself, workers
included, are fresh interpreters as always. Run as a script, this file is that process.

Libraries read environment variables when they are imported, so that a program whose environment differs in others than
``THALWEG_*`` gets a fresh interpreter; so do all programs where processes can't be forked like this.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import multiprocessing.process
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

LOADED = (
    "alembic.config",
    "alembic.migration",
    "alembic.script",
    "lightning_fabric",
    "matplotlib.backends.backend_svg",
    "matplotlib.pyplot",
    "optuna.storages._rdb.models",
    "scipy.stats",
    "sqlalchemy.dialects.sqlite",
    "torch._dynamo",
    "thalweg.cli.entry",
    "thalweg.cli.race",
    "thalweg.race.orchestrate",
    "thalweg.race.progress",
    "thalweg.race.statistics",
    "thalweg.race.trial",
    "thalweg.report.html",
    "thalweg.report.table",
    "typer.rich_utils",
)
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""So that results don't depend on the machine."""

_LONGEST_REQUEST = 1 << 17


class Fork:
    """A forked program: what tests use of :class:`subprocess.Popen`. Its output goes to files, so that it never waits."""

    def __init__(self, answers: socket.socket, words: Sequence[str], stdout: IO[str], stderr: IO[str]) -> None:
        self.args, self.stdout, self.stderr = words, stdout, stderr
        self._answers = answers
        self.pid = _number(answers)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; ``None`` while the program runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end."""
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = os.waitstatus_to_exitcode(_number(self._answers))
            self._answers.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; what was printed and not read yet."""
        self.wait(timeout)
        return self.stdout.read(), self.stderr.read()

    def send_signal(self, number: int) -> None:
        """Send a signal unless the program has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the program at once."""
        self.send_signal(signal.SIGKILL)


Program = Fork | subprocess.Popen[str]


class Forks:
    """Starts programs; the process they are forked from starts with the first and ends with :meth:`close`."""

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        *words: str,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        start_new_session: bool = False,
        interruptible: bool = False,
    ) -> Program:
        """Start ``python WORDS``, where the first word is ``-m``, ``-c`` or a script, with one thread.

        Args:
            words: what follows ``python``.
            env: variables besides those of this process.
            cwd: its folder; this process's by default.
            start_new_session: whether it leads a session, so that :func:`os.killpg` reaches it and its children alone.
            interruptible: switch Ctrl-C on, which is off where the tests run in the background.
        """
        environment = {**os.environ, **ONE_THREAD, **(env or {})}
        if sys.platform != "linux" or not self._fits(environment):
            return subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                cwd=cwd,
                start_new_session=start_new_session,
                preexec_fn=_switch_interrupts_on if interruptible else None,
            )
        request = {
            "words": words,
            "env": environment,
            "cwd": str(Path(cwd or ".").resolve()),
            "session": start_new_session,
            "interruptible": interruptible,
        }
        return self._ask(words, request)

    def close(self) -> None:
        """End the process and what was forked from it and still runs."""
        if self._control is not None and self._process is not None:
            self._control.close()
            self._process.wait(60)

    def _fits(self, environment: dict[str, str]) -> bool:
        if self._process is None:
            self._launch()
        return _read_at_import(environment) == self._environment

    def _launch(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._environment = _read_at_import({**os.environ, **ONE_THREAD})
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=self._environment,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()

    def _ask(self, words: Sequence[str], request: dict[str, Any]) -> Fork:
        assert self._control is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        (out, stdout), (err, stderr) = _file(), _file()
        socket.send_fds(self._control, [json.dumps(request).encode()], [out, err, theirs.fileno()])
        os.close(out)
        os.close(err)
        theirs.close()
        return Fork(ours, words, stdout, stderr)


def _number(answers: socket.socket) -> int:
    answer = answers.recv(32)
    if not answer:
        raise RuntimeError("the process that programs are forked from has died; what it said is on standard error")
    return int(answer)


def _read_at_import(environment: dict[str, str]) -> dict[str, str]:
    """Without variables of ours, and those that libraries set in the tests' process when they are imported there."""
    ours = ("THALWEG_", "RAY_", "PYTEST_CURRENT_TEST")  # Ray is not among what is loaded
    theirs = ("TORCHINDUCTOR_CACHE_DIR", "KMP_", "RAY_CLIENT_MODE", "PYTORCH_NVML_BASED_CUDA_CHECK")
    return {key: value for key, value in environment.items() if not key.startswith((*ours, *theirs))}


def _switch_interrupts_on() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _file() -> tuple[int, IO[str]]:
    """A file without a name, to append to and to read from."""
    handle, name = tempfile.mkstemp()
    os.close(handle)
    write, read = os.open(name, os.O_WRONLY | os.O_APPEND), open(name)  # noqa: SIM115
    os.unlink(name)
    return write, read


def serve(control: socket.socket) -> Callable[[], object]:
    """Fork a program for each request; returns in the forks only, with what they are to do."""
    while True:
        message, handles, _, _ = socket.recv_fds(control, _LONGEST_REQUEST, 3)
        _clear_away()
        if not message:
            os.killpg(0, signal.SIGKILL)
        if os.fork():
            for handle in handles:
                os.close(handle)
            continue
        control.close()
        *output, answers = handles
        pid = os.fork()
        if pid == 0:
            os.close(answers)
            return become(json.loads(message), *output)
        _keep(pid, *handles)


def _clear_away() -> None:
    """Wait for keepers that have ended, so that their programs' time counts as this process's children's."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _keep(pid: int, stdout: int, stderr: int, answers: int) -> None:
    """Wait for a program, and say how it ended: its parent is a process that does nothing else."""
    os.close(stdout)
    os.close(stderr)
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(answers, b"%d" % pid)
        os.write(answers, b"%d" % os.waitpid(pid, 0)[1])
    os._exit(0)


def become(request: dict[str, Any], stdout: int, stderr: int) -> Callable[[], object]:
    """Make this process the one that was asked for."""
    for number, handle in ((1, stdout), (2, stderr)):
        os.dup2(handle, number)
        os.close(handle)
    if request["session"]:
        os.setsid()
    if request["interruptible"]:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    multiprocessing.process.ORIGINAL_DIR = os.getcwd()  # type: ignore[attr-defined]
    for library in ("torch", "numpy.random"):  # chance differs from program to program
        sys.modules[library].seed()
    return _program(*request["words"])


def _program(kind: str, *words: str) -> Callable[[], object]:
    """What ``python KIND WORDS`` runs."""
    if kind == "-m":
        sys.path[0], sys.argv = os.getcwd(), list(words)
        return lambda: runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    if kind == "-c":
        sys.path[0], sys.argv = "", ["-c", *words[1:]]
        return lambda: exec(compile(words[0], "<string>", "exec"), {"__name__": "__main__"})
    sys.path[0], sys.argv = str(Path(kind).resolve().parent), [kind, *words]
    return lambda: runpy.run_path(kind, run_name="__main__")


def load() -> None:
    """Import everything, and see that forking is safe."""
    for module in LOADED:
        importlib.import_module(module)
    importlib.import_module("thalweg.race.recipe").load_methods()
    gc.collect()
    gc.freeze()
    assert threading.active_count() == 1 and len(os.listdir("/proc/self/task")) == 1


if __name__ == "__main__":
    load()
    serve(socket.socket(fileno=int(sys.argv[1])))()
