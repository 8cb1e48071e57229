import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import os, sys, time
from thalweg.race.process import Child, wait_any

def main(connection, grandchild):
    if grandchild:
        below = Child(main, (False,), {})
        wait_any([below], 60)
        connection.send([os.getpid(), below.receive()[0], os.environ["MARK"]])
    else:
        connection.send([os.getpid(), os.environ.get("MARK")])
    print("to standard output")
    sys.stdout.flush()
    time.sleep(120)

if __name__ == "__main__":
    child = Child(main, (True,), {"MARK": "before anything is loaded"})
    wait_any([child], 60)
    print(*child.receive(), sep="|", flush=True)
    assert "MARK" not in os.environ
    time.sleep(120)
"""


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_children_and_theirs_end_with_the_parent(tmp_path, kill):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child, grandchild, mark = parent.stdout.readline().strip().split("|")
    assert mark == "before anything is loaded"
    assert running(int(child)) and running(int(grandchild))
    os.kill(parent.pid, kill)
    said, _ = parent.communicate(timeout=60)
    assert said == ""  # what children print never reaches standard output
    deadline = time.monotonic() + 60
    while running(int(child)) or running(int(grandchild)):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
