import os

import pytest

from thalweg.race.errors import RaceError
from thalweg.race.folders import latest_race, new_race, stored_race


def test_names_are_taken_once(tmp_path):
    assert [new_race(tmp_path / "runs", None, "my task!", None) for _ in range(3)] == [
        "my-task",
        "my-task-2",
        "my-task-3",
    ]
    assert new_race(tmp_path / "runs", "mine", "t", None) == "mine"


@pytest.mark.parametrize("name", ["a/b", "..", "", "-x", "a b"])
def test_bad_names(tmp_path, name):
    with pytest.raises(RaceError, match="letters, digits"):
        new_race(tmp_path, name, "t", None)


def test_the_latest_race(tmp_path):
    with pytest.raises(RaceError, match="no race to resume"):
        latest_race(tmp_path, None)
    for age, name in enumerate(["b", "a", "c"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "race.db").touch()
        os.utime(tmp_path / name / "race.db", (1000 - age, 1000 - age))
    assert latest_race(tmp_path, None) == "b"
    with pytest.raises(RaceError, match="it has a, b, c"):
        stored_race(tmp_path, "d", None)


def test_places_that_can_not_be_used(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RaceError, match="is in the way"):
        new_race(tmp_path, "file", "t", None)
    with pytest.raises(RaceError, match="can't make the folder"):
        new_race(tmp_path / "file", None, "t", None)
