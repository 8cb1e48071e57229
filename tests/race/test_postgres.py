"""A race on a real PostgreSQL server, started for these tests on this machine's loopback."""

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import optuna
import pytest

from thalweg import cli
from thalweg.race import RaceError, StorageError, race, report_of
from thalweg.race import storage as storages

pytestmark = [pytest.mark.service, pytest.mark.timeout(900)]
PASSWORD = "s3cr&t p@ss/w{ö}rd%41"
SMALL = {"trials": 2, "seeds": 2, "workers": 0, "report": False}


class Server:
    """A PostgreSQL cluster in a folder of its own; as root it runs as the user postgres."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.user = "postgres" if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="thalweg-pg-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (self.folder / "password").write_text(PASSWORD)
        if self.user:
            owner = pwd.getpwnam(self.user)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            os.chown(self.folder / "password", owner.pw_uid, owner.pw_gid)
        self.data = self.folder / "data"
        words = ["-D", self.data, "-U", "racer", "-A", "scram-sha-256", f"--pwfile={self.folder / 'password'}"]
        self.program("initdb", *words, "--no-sync", "-E", "UTF8", "--locale=C")

    @property
    def url(self) -> str:
        return f"postgresql://racer:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/postgres"

    def program(self, name: str, *words: object) -> None:
        command = [str(self.programs / name), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, user=self.user, cwd=self.folder, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.program("pg_ctl", "-D", self.data, "-l", self.folder / "log", "-o", options, "-w", "start")

    def stop(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self.program("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")


@pytest.fixture(scope="module")
def server(require_service):
    """The running server."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb")) or [shutil.which("initdb")]
    require_service(found[-1], "PostgreSQL's initdb is not installed (apt-get install postgresql)")
    server = Server(Path(found[-1]).parent)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)


def says_password(text: str) -> bool:
    forms = (PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD), "s3cr")
    return any(form in text for form in forms)


def test_a_race_equals_one_in_a_file(server, tiny_path, tmp_path, table):
    options = {"storage": server.url, "out": tmp_path, "name": "equal", **SMALL}
    stored = race(tiny_path, ["adamw", "lion"], **options)
    plain = race(tiny_path, ["adamw", "lion"], out=tmp_path, **SMALL)
    assert table(stored) == table(plain)
    assert table(report_of(server.url, "equal", tmp_path)) == table(plain)
    study = optuna.load_study(study_name="equal/adamw/tune", storage=server.url.replace("://", "+psycopg://", 1))
    assert study.best_value == max(run.best("max") for run in plain.runs_of("adamw", "tune"))


def test_kill_9_and_resume(server, tiny_path, tmp_path, table, start_thalweg):
    options = {"storage": server.url, "out": tmp_path, "name": "killed"}
    words = ["adamw", "lion", "--task", tiny_path, "--trials", "2", "--seeds", "2", "--steps", "100", "--workers", "0"]
    first = start_thalweg(
        "race", *words, "--name", "killed", "--out", str(tmp_path), env={"THALWEG_STORAGE": server.url}
    )
    deadline = time.monotonic() + 600
    while not number_of_runs(server, "killed/adamw/tune"):
        assert first.poll() is None and time.monotonic() < deadline, first.stderr.read()
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    resumed = race(resume=True, workers=0, report=False, **options)
    plain = race(tiny_path, ["adamw", "lion"], steps=100, out=tmp_path, **SMALL)
    assert len(resumed.runs) == 8
    assert table(resumed) == table(plain)


def number_of_runs(server: Server, study: str) -> int:
    """Asked with nothing but SQL: an Optuna storage takes longer to open than some races take."""
    import psycopg

    with psycopg.connect(server.url) as connection:
        if connection.execute("SELECT to_regclass('trials')").fetchone() == (None,):
            return 0
        query = "SELECT COUNT(*) FROM trials JOIN studies USING (study_id) WHERE study_name = %s"
        return connection.execute(query, (study,)).fetchone()[0]


def test_two_races_at_once(server, tiny_path, tmp_path, table, start_thalweg):
    words = ["adamw", "lion", "--task", tiny_path, "--trials", "2", "--seeds", "2", "--workers", "0"]
    both = {"env": {"THALWEG_STORAGE": server.url}}
    racers = [start_thalweg("race", *words, "--name", name, "--out", str(tmp_path), **both) for name in ("one", "two")]
    said = [racer.communicate(timeout=600) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], said
    first, second = (report_of(server.url, name, tmp_path) for name in ("one", "two"))
    assert table(first) == table(second)


def test_the_password_is_never_shown(server, tiny_path, tmp_path, monkeypatch, capfd):
    """Not in the output of a race, not in its report, not in errors, not in tracebacks."""

    def thalweg(*words):
        monkeypatch.setattr(sys, "argv", ["thalweg", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capfd.readouterr()
        return subprocess.CompletedProcess(words, end.value.code, said.out, said.err)

    words = ["race", "adamw", "--task", tiny_path, "--trials", "1", "--seeds", "1", "--workers", "0"]
    place = ["--storage", server.url, "--name", "secret", "--out", str(tmp_path)]
    done = thalweg(*words, *place, "--json")
    assert done.returncode == 0, done.stderr
    shown = [done.stdout, done.stderr, (tmp_path / "secret" / "report.html").read_text()]
    for more in ([], ["--debug"], ["--resume", "--trials", "3", "--debug"]):
        again = thalweg(*words, *place, *more)
        assert again.returncode == 2
        shown += [again.stdout, again.stderr]
    wrong = server.url.replace("127.0.0.1", "127.0.0.1:1", 1).replace(f":1:{server.port}", ":1")
    for url in (
        wrong,
        server.url.replace("racer", "nobody"),
        server.url.replace("postgresql", "postgressql"),
        server.url + "?x=1",
    ):
        for more in ([], ["--debug"]):
            failed = thalweg(*words, "--storage", url, "--name", "no", "--out", str(tmp_path), *more)
            assert failed.returncode in (2, 3), (failed.stdout, failed.stderr)
            assert more or failed.stderr.count("\n") == 1, failed.stderr
            shown += [failed.stdout, failed.stderr]
    assert not [text for text in shown if says_password(text)]
    assert "***" in "".join(shown)


def test_a_server_that_comes_back_soon_is_waited_for(server, tiny_path, tmp_path):
    class Restart:
        def started(self, name, plan, done): ...
        def running(self, job, share): ...
        def stopped(self): ...

        def finished(self, run):
            if (run.phase, run.index, run.recipe) == ("tune", 1, "adamw"):
                server.stop()
                server.start()

    result = race(tiny_path, ["adamw"], storage=server.url, out=tmp_path, name="again", progress=Restart(), **SMALL)
    assert len(result.runs) == 4


def test_a_server_that_stays_away_ends_the_race_and_loses_nothing(server, tiny_path, tmp_path, monkeypatch):
    monkeypatch.setattr(storages, "PATIENCE", 2.0)

    class Stop:
        runs = 0

        def started(self, name, plan, done): ...
        def running(self, job, share): ...
        def stopped(self): ...

        def finished(self, run):
            self.runs += 1
            if self.runs == 2:
                server.stop()

    options = {"storage": server.url, "out": tmp_path, "name": "away", **SMALL}
    with pytest.raises(StorageError, match=r"storage postgresql\+psycopg://racer:\*\*\*@.*use --resume") as error:
        race(tiny_path, ["adamw"], progress=Stop(), **options)
    assert not says_password(str(error.value))
    with pytest.raises(RaceError) as error:
        race(resume=True, **{key: value for key, value in options.items() if key not in ("trials", "seeds")})
    assert not says_password(str(error.value))
    server.start()
    result = race(resume=True, **options)
    assert len(result.runs) == 4
