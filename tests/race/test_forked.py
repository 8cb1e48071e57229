"""Forked programs are what fresh interpreters would be."""

import json
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are forked on Linux only")
SAY = """
import json, multiprocessing, os, signal, sys

def there(pipe):
    pipe.send([__name__, os.environ["THALWEG_MARK"], sys.argv, "torch" in sys.modules])

if __name__ == "__main__":
    import torch
    from multiprocessing.process import ORIGINAL_DIR

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=there, args=(theirs,))
    child.start()
    print(json.dumps({
        "argv": sys.argv, "path": sys.path[0], "name": __name__, "folder": os.getcwd(), "first folder": ORIGINAL_DIR,
        "environment": sorted(os.environ.items()), "leads": os.getsid(0) == os.getpid(), "threads": torch.get_num_threads(),
        "interrupts": signal.getsignal(signal.SIGINT) is signal.default_int_handler, "child": ours.recv(),
        "descriptors": sorted(os.listdir("/proc/self/fd")), "seed": torch.initial_seed(),
    }))
    child.join()
    print("to the other", file=sys.stderr)
    sys.exit(int(sys.argv[1]))
"""


def test_as_a_fresh_interpreter(start_python, tmp_path):
    (tmp_path / "say.py").write_text(SAY)
    words = [str(tmp_path / "say.py"), "7"]
    options = {"cwd": tmp_path, "start_new_session": True, "interruptible": True}
    forked = start_python(*words, env={"THALWEG_MARK": "x"}, **options)
    fresh = start_python(*words, env={"THALWEG_MARK": "x", "OTHER_MARK": "y"}, **options)
    assert not isinstance(forked, subprocess.Popen) and isinstance(fresh, subprocess.Popen)
    said, told = forked.communicate(200), fresh.communicate(timeout=200)
    assert (forked.returncode, fresh.returncode) == (7, 7), (said, told)
    assert said[1] == told[1] == "to the other\n"
    one, other = json.loads(said[0]), json.loads(told[0])
    other["environment"].remove(["OTHER_MARK", "y"])
    again = start_python(*words, env={"THALWEG_MARK": "x"}, **options)
    seeds = {one.pop("seed"), other.pop("seed"), json.loads(again.communicate(200)[0])["seed"]}
    assert len(seeds) == 3
    assert one == other
    assert one["child"] == ["__mp_main__", "x", words, False]
    assert (one["leads"], one["interrupts"], one["folder"]) == (True, True, str(tmp_path))


def test_how_programs_end(start_python, tmp_path):
    waits = start_python("-c", "import sys, time; print('here', flush=True); time.sleep(600)", cwd=tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        waits.wait(0.01)
    assert waits.poll() is None
    waits.send_signal(signal.SIGTERM)
    assert (waits.wait(60), waits.poll()) == (-signal.SIGTERM, -signal.SIGTERM)
    waits.kill()  # has ended, so that nothing happens
    raises = start_python("-c", "raise ValueError('no')")
    assert raises.communicate(60)[1].endswith("ValueError: no\n") and raises.returncode == 1
    command = start_python("-m", "thalweg.cli", "--version")
    assert command.communicate(60)[0].startswith("thalweg ") and command.returncode == 0
