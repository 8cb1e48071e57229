"""A child process with a message pipe that never outlives its parent."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

_PR_SET_PDEATHSIG = 1


class Child:
    """A spawned process that runs ``main(connection, *arguments)``.

    Args:
        main: importable function; its first argument is the child's end of the pipe.
        arguments: sent to the child; they must pickle.
        environment: variables that the child has from its very start, before any library is loaded.
    """

    def __init__(self, main: Callable[..., None], arguments: tuple[Any, ...], environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_start, args=(os.getpid(), main, theirs, arguments))
        with _environment(environment), _interrupts_blocked():
            self.process.start()
        theirs.close()

    def send(self, message: Any) -> None:
        """Send a message; one to a dead child is lost (its death shows in :attr:`waitables`)."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    @property
    def waitables(self) -> list[Any]:
        """What :func:`multiprocessing.connection.wait` can wait on: a message, or the end of the process."""
        return [self.connection, self.process.sentinel]

    def receive(self) -> Any:
        """The next message if one is there, else ``None``; messages sent before a child's death are still delivered."""
        try:
            return self.connection.recv() if self.connection.poll() else None
        except (EOFError, OSError):  # the latter where a message was cut off
            return None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.is_alive()

    def death(self) -> tuple[str, int]:
        """How the process ended, in words, and the signal that killed it (0 if none did)."""
        self.process.join(5)
        code = self.process.exitcode or 0
        if code < 0:
            return f"the worker was killed by signal {-code} ({signal.Signals(-code).name})", -code
        return f"the worker ended by itself with exit code {code}", 0

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.join(5)
        self.connection.close()


def wait_any(children: list[Child], timeout: float) -> bool:
    """Wait until a child sent something or ended; ``False`` after ``timeout`` seconds."""
    return bool(wait([item for child in children for item in child.waitables], timeout))


def _start(parent: int, main: Callable[..., None], connection: Connection, arguments: tuple[Any, ...]) -> None:
    """Entry of every child: tie its life to the parent's, keep it off standard output, then run ``main``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent alone decides how a race ends
    _die_with(parent)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(2, 1)  # what users' code prints must not mix with the parent's --json
    main(connection, *arguments)


def _die_with(parent: int) -> None:
    """End when the parent does, however that ends; Linux does it at once, elsewhere a thread notices."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    process = multiprocessing.parent_process()
    if process is not None:
        threading.Thread(target=_exit_after, args=(process.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Children inherit a blocked Ctrl-C, which covers the time until they ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it unblocks Ctrl-C, so it must not happen in between
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
