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
    ],
)
def test_mistakes(asked, workers, message):
    with pytest.raises(ValueError, match=message):
        check_options(asked, workers, None)


def test_ray_needs_workers():
    with pytest.raises(ValueError, match="at least one worker"):
        check_options({}, 0, "local")
