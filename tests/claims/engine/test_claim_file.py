from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from thalweg.claims.engine.claim_file import fingerprint, load, slugs
from thalweg.claims.engine.errors import ClaimError


def test_a_claim_of_the_package_is_found_by_its_slug() -> None:
    assert "deep-linear-dynamics" in slugs()
    file = load("deep-linear-dynamics")
    assert file.slug == "deep-linear-dynamics" and file.path.name == "deep_linear_dynamics.py"
    assert file.claim.__name__ == "thalweg.claims.deep_linear_dynamics"
    assert file.headline.startswith("Deep linear networks") and len(file.sha256) == 64


def test_a_file_of_ones_own(coin: str) -> None:
    file = load(coin)
    assert (file.slug, file.headline) == ("coin-mean", "Means of coins come near one half.")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deep-linear-dynamic", "unknown claim 'deep-linear-dynamic'; did you mean 'deep-linear-dynamics'?"),
        ("textgrad", "there is no claim for 'textgrad' yet"),
        ("nowhere/claim.py", "nowhere/claim.py: there is no such file"),
    ],
)
def test_what_is_not_there(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")) as caught:
        load(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_name_that_is_no_slug(changed: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match="named after its paper, in lower case"):
        load(changed({}, "Sum-of-halves.py"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RULE =": "RULES ="}, "needs RULE, a str"),
        ({'"cpu": Scale((7, 8), 0.2)': ""}, "needs the scale 'cpu'"),
        ({"(7, 8)": "(7, 7)"}, "needs a Scale with seeds, each once, for 'cpu'"),
        ({"Scale((7,), 0.1)": "7"}, "needs a Scale with seeds, each once, for 'smoke'"),
        ({"PANELS = (Panel(": "PANELS = (str("}, "sum_of_halves.py:9 raised TypeError"),
        ({"PANELS = (": "PANELS = ('a', "}, "needs PANELS made of Panel"),
        ({"def judge": "def judged"}, "needs a function judge()"),
        ({"RULE = ": "import sys; sys.exit(3)\nRULE = "}, "sum_of_halves.py:7 raised SystemExit: 3"),
        ({"RULE =": "RULE = = "}, "raised SyntaxError"),
    ],
)
def test_a_file_that_breaks_the_contract(changed: Callable[..., str], changes: dict[str, str], message: str) -> None:
    with pytest.raises(ClaimError) as caught:
        load(changed(changes))
    assert str(caught.value).startswith("sum-of-halves: sum_of_halves.py") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_line_ends_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abcd"]
    for path, content in zip(paths, (b"a\nb\n", b"a\r\nb\r\n", b"a\rb\r", b"a\nc\n"), strict=True):
        path.write_bytes(content)
    assert len({fingerprint(path) for path in paths[:3]}) == 1 and fingerprint(paths[3]) != fingerprint(paths[0])
