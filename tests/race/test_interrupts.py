import os
import signal
import threading

import pytest

from thalweg.race.interrupts import uninterrupted


@pytest.fixture(autouse=True)
def ctrl_c():
    """Where tests run in the background, Ctrl-C is switched off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_the_block_is_finished_first():
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        interrupt()
        done.append(True)
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_is_not_lost_where_the_block_fails():
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        interrupt()
        raise OSError


def test_a_second_one_comes_through():
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        interrupt()
        interrupt()
        done.append(True)
    assert not done and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ignored_signals_stay_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with uninterrupted():
        interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_have_no_signals_to_wait_for():
    done = []

    def work():
        with uninterrupted():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
