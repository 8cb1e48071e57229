"""Where a race keeps what it has done: Optuna's database storage, a SQLite file unless another database is named.

For a race called ``NAME`` there is a study ``NAME`` with the plan and the owner, and the studies ``NAME/RECIPE/tune``
and ``NAME/RECIPE/fresh`` with one trial for each finished run, so that Optuna's dashboard and Optuna's own tools can
read a race. A run is written when it is over, as one transaction; a process that is killed at any moment leaves all of
a run or nothing of it, and no trial that looks as if it still ran. Everything is JSON; nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import make_url

from thalweg.race.errors import RaceError, StorageError
from thalweg.race.interrupts import uninterrupted
from thalweg.race.outcome import one_line
from thalweg.race.owner import Ownership
from thalweg.race.plan import Plan
from thalweg.race.records import Run
from thalweg.race.tuning import distribution, score
from thalweg.race.urls import normalize, redact, shown

PATIENCE = 30.0
"""Seconds for which a lost database connection is tried again."""

BUSY = 60.0
"""Seconds to wait for another process that is writing to the same SQLite file."""

_PLAN, _RUN = "thalweg:plan", "thalweg:run"
_LONGEST_NAME = 500
_OPENINGS = 10
_T = TypeVar("_T")

_LASTING = {
    "SQLITE_READONLY_DBMOVED": "the file was moved or deleted while the race ran",
    "SQLITE_READONLY": "it is read-only; choose another place with --storage or --out",
    "SQLITE_CANTOPEN": "it can't be opened; does its folder exist, and may you write there?",
    "SQLITE_FULL": "the disk is full; what was finished is kept: make room, then use --resume",
    "SQLITE_IOERR": "reading or writing failed, the disk may be full; what was finished is kept: make room, then use --resume",
    "SQLITE_NOTADB": "it is not a SQLite database",
    "SQLITE_CORRUPT": "the file is damaged",
}


class Storage:
    """The storage of one race.

    Args:
        storage: a SQLAlchemy URL, or the name of a SQLite file.
        name: the race's name.

    Raises:
        StorageError: it can't be opened.
    """

    def __init__(self, storage: str, name: str) -> None:
        self.name = name
        self._url = normalize(storage)
        self.shown = (make_url(self._url).database or "") if self._url.startswith("sqlite") else shown(self._url)
        self._owner: Ownership | None = None
        self._studies: dict[str, optuna.Study] = {}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._rdb = self._try(self._open, patience=0.0)

    def begin(self, resume: bool) -> Plan | None:
        """Take the race for this process.

        Returns:
            The stored plan if the race exists and is resumed, ``None`` if it is new.

        Raises:
            RaceError: it exists and ``resume`` is false, it doesn't and ``resume`` is true, or another process runs it.
        """
        plan = self.read_plan()
        if plan is None and resume:
            raise RaceError(f"there is no race {self.name!r} to resume in {self.shown}; {self._known()}")
        if plan is not None and not resume:
            raise RaceError(f"race {self.name!r} exists already in {self.shown}; use --resume, or another --name")
        study = self._study(self.name)
        owner = Ownership(self._rdb.engine, study._study_id, self.name)
        self._try(owner.acquire)
        self._owner = owner
        return plan

    def write_plan(self, plan: Plan) -> None:
        """Store the plan of a new race."""
        self._try(lambda: self._study(self.name).set_user_attr(_PLAN, plan.to_json()))

    def read_plan(self) -> Plan | None:
        """The stored plan; ``None`` if there is no such race."""
        data = self._try(self._plan_data)
        return None if data is None else Plan.from_json(data)

    def races(self) -> list[str]:
        """Names of the races in this storage."""
        studies = self._try(self._rdb.get_all_studies)
        return sorted(study.study_name for study in studies if _PLAN in study.user_attrs)

    def write_run(self, plan: Plan, run: Run) -> None:
        """Store a finished run, in one transaction."""
        if self._owner is not None:
            self._owner.check()
        trial = _trial_of(plan, run)
        study = self._run_study(plan, run.recipe, run.phase)
        self._try(lambda: study.add_trial(trial))

    def read_runs(self, plan: Plan) -> list[Run]:
        """Every finished run; the first record of one stored twice because a connection broke during the commit."""
        runs: dict[tuple[str, str, int], Run] = {}
        for recipe in plan.recipes:
            for phase in ("tune", "fresh"):
                for trial in self._try(lambda r=recipe, p=phase: self._trials(r, p)):  # type: ignore[misc]
                    run = Run.from_json(trial.user_attrs[_RUN])
                    runs.setdefault((run.recipe, run.phase, run.index), run)
        return list(runs.values())

    def close(self) -> None:
        """Give the race up and close the connections."""
        if self._owner is not None:
            with contextlib.suppress(Exception), uninterrupted():  # a lost database ends an owner as well
                self._owner.release()
            self._owner = None
        self._rdb.remove_session()
        self._rdb.engine.dispose()

    def __enter__(self) -> Storage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> RDBStorage:
        arguments: dict[str, Any] = {"pool_pre_ping": True, "hide_parameters": True}
        if self._url.startswith("sqlite"):
            arguments["connect_args"] = {"timeout": BUSY}
        elif self._url.startswith("postgresql+psycopg:"):
            # A server that vanished without a word is noticed within half a minute.
            arguments["connect_args"] = {"connect_timeout": 10, "keepalives_idle": 10, "tcp_user_timeout": 30_000}
        # Optuna fills templates such as {SCHEMA_VERSION} in, so braces in a password have to be doubled.
        url = self._url.replace("{", "{{").replace("}", "}}")
        for _ in range(_OPENINGS):
            try:
                return RDBStorage(url, engine_kwargs=arguments)
            except sqlalchemy.exc.DBAPIError as error:
                if not _met_another(error):
                    raise
                time.sleep(random.uniform(0.1, 0.5))
        return RDBStorage(url, engine_kwargs=arguments)

    def _study(self, name: str, **attributes: Any) -> optuna.Study:
        if len(name) > _LONGEST_NAME:
            raise RaceError(f"{name[:60]!r}... is too long for a study's name; shorten the recipe or the race's --name")
        if name not in self._studies:
            create = lambda: optuna.create_study(storage=self._rdb, study_name=name, load_if_exists=True, **attributes)  # noqa: E731
            self._studies[name] = self._try(create)
        return self._studies[name]

    def _run_study(self, plan: Plan, recipe: str, phase: str) -> optuna.Study:
        direction = "minimize" if plan.goal == "min" else "maximize"
        return self._study(f"{self.name}/{recipe}/{phase}", direction=direction)

    def _plan_data(self) -> dict[str, Any] | None:
        try:
            study = self._rdb.get_study_id_from_name(self.name)
        except KeyError:
            return None
        return self._rdb.get_study_user_attrs(study).get(_PLAN)

    def _trials(self, recipe: str, phase: str) -> list[FrozenTrial]:
        try:
            study = self._rdb.get_study_id_from_name(f"{self.name}/{recipe}/{phase}")
        except KeyError:
            return []
        return self._rdb.get_all_trials(study, deepcopy=False)

    def _known(self) -> str:
        races = self.races()
        return f"it has {', '.join(map(repr, races))}" if races else "it has no race yet"

    def _try(self, action: Callable[[], _T], patience: float | None = None) -> _T:
        """Do something with the database; try again for a while if the connection is lost, else say what is wrong."""
        deadline = time.monotonic() + (PATIENCE if patience is None else patience)
        pause = 0.2
        while True:
            try:
                with uninterrupted():
                    return action()
            except RaceError:
                raise
            except (
                sqlalchemy.exc.SQLAlchemyError,
                optuna.exceptions.StorageInternalError,
                OSError,
                ImportError,
            ) as error:
                cause = _cause(error)
                if not _passing(cause) or time.monotonic() >= deadline:
                    raise StorageError(self._explain(cause)) from None
            except RuntimeError as error:  # Optuna's word for a database of another Optuna version
                raise StorageError(f"storage {self.shown}: {self._clean(str(error))}") from None
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    def _explain(self, error: BaseException) -> str:
        if isinstance(error, ImportError):
            hint = "pip install 'thalweg[postgres]'" if "psycopg" in str(error) else "install the database's driver"
            return f"storage {self.shown}: its driver is missing ({self._clean(str(error))}); {hint}"
        name = _sqlite_name(error)
        for prefix, text in _LASTING.items():
            if name.startswith(prefix):
                return f"storage {self.shown}: {text}"
        return (
            f"storage {self.shown}: {self._clean(str(getattr(error, 'orig', None) or error))}; "
            "what was finished is kept: when the database is back, use --resume"
        )

    def _clean(self, text: str) -> str:
        return one_line(redact(text, self._url)).rstrip(".;")


def _trial_of(plan: Plan, run: Run) -> FrozenTrial:
    """A run as Optuna's trial: settings inside their searched range as parameters, the metric's curve as its course."""
    spaces = {key: distribution(space) for key, space in plan.spaces[run.recipe].items()}
    inside = {key: value for key, value in run.settings.items() if key in spaces and _contains(spaces[key], value)}
    finished = run.outcome == "finished"
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE if finished else TrialState.FAIL,
        value=score(run, plan.goal) if finished else None,
        params=inside,
        distributions={key: spaces[key] for key in inside},
        user_attrs={_RUN: run.to_json(), "seed": run.seed, "outcome": run.outcome, "message": run.message},
        intermediate_values=dict(zip(run.steps, run.metric, strict=True)),
    )


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def _cause(error: BaseException) -> BaseException:
    """What lies behind Optuna's own exception."""
    while isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _met_another(error: sqlalchemy.exc.DBAPIError) -> bool:
    """Whether another process made the tables of a new database at the same moment; the next try finds them."""
    return isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in str(error.orig)


def _passing(error: BaseException) -> bool:
    """Whether trying again may help: a lost or refused connection, a locked file; not a full disk."""
    if not isinstance(error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError):
        return bool(getattr(error, "connection_invalidated", False))
    return not any(_sqlite_name(error).startswith(prefix) for prefix in _LASTING)


def _sqlite_name(error: BaseException) -> str:
    return str(getattr(getattr(error, "orig", None), "sqlite_errorname", ""))
