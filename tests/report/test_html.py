import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from thalweg.race.records import RaceResult, Run
from thalweg.report import html, write_report

EVIL = "</style></script></svg><script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{ 7*7 }}$a$"


class Page(HTMLParser):
    """Elements with their attributes, and the text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._raw = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._raw += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._raw -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        self.text += "" if self._raw else data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def page(result: RaceResult, folder: Path) -> tuple[Page, str]:
    text = write_report(result, folder / "report.html").read_text(encoding="utf-8")
    return Page(text), text


@pytest.fixture(scope="module")
def report(race_report: Path) -> tuple[Page, str]:
    text = race_report.read_text(encoding="utf-8")
    return Page(text), text


def test_the_answer_comes_first(race: RaceResult, report: tuple[Page, str]) -> None:
    text = re.sub(r"\s+", " ", report[0].text)
    order = [text.index(part) for part in ("no difference", "All numbers", "Plots", "How the comparison was made",
                                           "Settings found", "What diverged or failed", "Environment")]  # fmt: skip
    assert order == sorted(order)
    for row in race.recipes:
        assert text.count(row.name) >= 4 and row.verdict in text
    assert "thalweg race --task mnist5k" in text and "2.13.0" in text and "accuracy ≥ 0.93" in text


def test_it_is_one_light_file_that_loads_nothing(report: tuple[Page, str]) -> None:
    found, text = report
    assert len(text.encode()) < 500_000
    links = [
        v for _, attrs in found.elements for k, v in attrs.items() if k in ("src", "href", "data", "action", "poster")
    ]
    assert all(link is None or link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttp|WebSocket|import\(", text)
    assert found.count("script") == 1 and found.count("iframe") == 0


def test_only_its_own_script_may_run(report: tuple[Page, str]) -> None:
    found, text = report
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    policy = next(
        a["content"] for t, a in found.elements if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None and f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_every_text_is_escaped(race: RaceResult, report: tuple[Page, str], tmp_path: Path) -> None:
    clean, _ = report
    dirty, text = page(poisoned(race), tmp_path)
    assert "<script>alert" not in text and "<img" not in text
    assert dirty.count("script") == 1 and dirty.count("style") == 1 and dirty.count("img") == 0
    assert "alert(1)" in dirty.text and "{{ 7*7 }}" in dirty.text
    assert {t for t, _ in dirty.elements} <= {t for t, _ in clean.elements}
    assert not [k for _, attrs in dirty.elements for k in attrs if k.startswith("on")]


def poisoned(race: RaceResult) -> RaceResult:
    """``race`` with something nasty in every text."""
    names = {row.name: f"{row.name} {EVIL}" for row in race.recipes}

    def settings(old: dict[str, Any]) -> dict[str, Any]:
        return {f"{key}{EVIL}": value for key, value in old.items()} | (
            {EVIL: EVIL + str(old.get("lr"))} if old else {}
        )

    rows = [
        dataclasses.replace(row, name=names[row.name], settings=settings(row.settings), edges=[EVIL], verdict=EVIL)  # type: ignore[arg-type]
        for row in race.recipes
    ]
    runs = [
        dataclasses.replace(run, recipe=names[run.recipe], settings=settings(run.settings), message=EVIL if run.message else "",
                            outcome=EVIL if run.outcome == "raised" else run.outcome)  # type: ignore[arg-type]
        for run in race.runs
    ]  # fmt: skip
    return dataclasses.replace(
        race, name=EVIL, task=EVIL, metric_name=EVIL, baseline=names[race.baseline], target_rule=EVIL, recipes=rows, runs=runs,
        budget={EVIL: EVIL}, environment={EVIL: {EVIL: [EVIL]}, "command": [EVIL, "postgresql://a:hush-hush@h/d"]},
    )  # fmt: skip


def test_passwords_and_control_characters_do_not_reach_the_page(race: RaceResult, tmp_path: Path) -> None:
    strange = dataclasses.replace(
        race, task="a\x00\x1b\ud800b", environment={"command": "x --storage pg://u:s3cret@h/d"}
    )
    _, text = page(strange, tmp_path)
    assert "s3cret" not in text and "u:***@h/d" in text
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]", text)


def test_every_edge_case_gives_a_page(races: dict[str, RaceResult], edge_report: Callable[[str], Path]) -> None:
    for name in races:
        text = edge_report(name).read_text(encoding="utf-8")
        found = Page(text)
        assert len(text.encode()) < 900_000, name
        visible = re.sub(r"\s+", " ", found.text)
        assert not re.search(r"\b(nan|inf|None(?! of them)|NaN|Infinity)\b", visible), name
        for line in "\n".join(attrs.get("data-hover") or "" for _, attrs in found.elements).split():
            assert line not in ("nan", "inf"), name


def test_a_race_read_back_from_json_gives_the_same_page(
    races: dict[str, RaceResult], edge_report: Callable[[str], Path], tmp_path: Path
) -> None:
    race = races["all diverged"]
    runs = [Run.from_json(json.loads(json.dumps(run.to_json()))) for run in race.runs]
    first, second = edge_report("all diverged").read_text(), page(dataclasses.replace(race, runs=runs), tmp_path)[1]
    # An infinite loss comes back as NaN; both are drawn as a failure.
    assert first == second


def test_writing_replaces_the_old_file_at_once_or_not_at_all(
    race: RaceResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    monkeypatch.setattr(html, "render_report", lambda result: "new")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("os.fsync", full)
        write_report(race, target)
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert write_report(race, str(target)) == target
    assert target.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(OSError):
        write_report(race, tmp_path / "missing" / "report.html")


def test_long_messages_fold(edge_report: Callable[[str], Path]) -> None:
    found = Page(edge_report("long messages").read_text(encoding="utf-8"))
    assert "no! " * 5_000 in found.text and found.count("details") >= 2
