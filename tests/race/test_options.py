import json

import numpy as np
import pytest

from thalweg.race.options import check_options


def test_what_was_left_out_stays_out():
    assert check_options({"steps": 3, "seconds": None}, None, None) == {"steps": 3}


@pytest.mark.parametrize(
    ("asked", "workers", "message"),
    [
        ({"steps": 0}, None, "steps must be a whole number, at least 1, not 0"),
        ({"seeds": 1.5}, None, "seeds must be a whole number"),
        ({"seconds": -1.0}, None, "seconds must be a positive number"),
        ({"seconds": float("inf")}, None, "seconds must be a positive number"),
        ({"seconds": 1.0, "steps": 1}, None, "in steps or in seconds, not in both"),
        ({"target": float("nan")}, None, "target must be a finite number"),
        ({"device": "gpu0"}, None, "unknown device 'gpu0'; did you mean 'gpu'"),
        ({"precision": "bf16"}, None, "unknown precision 'bf16'"),
        ({"strategy": "fsdp2"}, None, "did you mean 'fsdp'"),
        ({}, -1, "workers must be 0"),
        ({}, "2", "workers must be 0 .* not '2'"),
        ({}, 1.5, "workers must be 0"),
        ({"trials": True}, None, "trials must be a whole number, at least 1, not True"),
        ({"seconds": "3"}, None, "seconds must be a positive number, not '3'"),
        ({"target": "x"}, None, "target must be a finite number, not 'x'"),
        ({"stop_at_target": "no"}, None, "stop_at_target must be True or False, not 'no'"),
    ],
)
def test_mistakes(asked, workers, message):
    with pytest.raises(ValueError, match=message):
        check_options(asked, workers, None)


def test_ray_needs_workers():
    with pytest.raises(ValueError, match="at least one worker"):
        check_options({}, 0, "local")


def test_numbers_of_numpy_can_be_stored():
    given = check_options({"target": np.float32(0.5), "seconds": np.float64(2)}, None, None)
    assert json.loads(json.dumps(given)) == {"target": 0.5, "seconds": 2.0}
