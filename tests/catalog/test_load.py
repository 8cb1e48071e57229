from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from thalweg.catalog import CatalogError, lookup, papers
from thalweg.catalog.load import LONGEST_FINDING, read
from thalweg.catalog.paper import Finding

Write = Callable[[str], Path]


def entry(**changed: str) -> str:
    """A good entry as TOML, with fields replaced by raw TOML; an empty text leaves the field out."""
    fields = {
        "slug": '"sign-rule"', "title": '"A title"', "year": "2023", "arxiv": '"2302.06675"', "seam": '"optim"',
        "kind": '"method"', "summary": '"What it is."', "claim": '"What comes of it."', "topics": '["optimizers"]',
        "implements": "[]",
    } | changed  # fmt: skip
    return "[[paper]]\n" + "".join(f"{key} = {value}\n" for key, value in fields.items() if value)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a catalogue file."""

    def call(text: str) -> Path:
        path = tmp_path / "papers.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return call


def test_an_entry_becomes_a_paper(write: Write) -> None:
    found = read(
        write(entry(topics='["a", "b c"]', implements='["thalweg.optim.Lion"]') + entry(slug='"b"', arxiv='""'))
    )
    assert list(found) == ["sign-rule", "b"]
    first = found["sign-rule"]
    assert (first.year, first.topics, first.implements) == (2023, ("a", "b c"), ("thalweg.optim.Lion",))
    assert (first.url, found["b"].url) == ("https://arxiv.org/abs/2302.06675", "")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seam": '"optm"'}, "seam: unknown seam 'optm'; did you mean 'optim'?"),
        ({"kind": '"methods"'}, "kind: unknown kind 'methods'; did you mean 'method'?"),
        ({"sumary": '"x"'}, "unknown field 'sumary'; did you mean 'summary'?"),
        ({"claim": ""}, "claim: missing"),
        ({"claim": '" "'}, "claim: must not be empty"),
        ({"title": "7"}, "title: must be text in quotes, not 7"),
        ({"year": '"2023"'}, "year: must be a year such as 2023, not '2023'"),
        ({"year": "true"}, "year: must be a year such as 2023, not True"),
        ({"year": "23"}, "year: must be a year such as 2023, not 23"),
        ({"arxiv": '"2302.06675v2"'}, "arxiv: must be an id"),
        ({"arxiv": '"https://arxiv.org/abs/2302.06675"'}, "arxiv: must be an id"),
        ({"arxiv": '"cs/011"'}, "arxiv: must be an id"),
        ({"topics": '"optimizers"'}, "topics: must be a list of texts"),
        ({"topics": '["Adam"]'}, "topics: must be lower case: 'Adam'"),
        ({"topics": '["adam", "adam"]'}, "topics: holds the same text twice"),
        ({"implements": '["torch.optim.Adam"]'}, "implements: must hold import paths such as 'thalweg.optim.Lion'"),
        ({"implements": '["thalweg.optim.Lion()"]'}, "implements: must hold import paths"),
    ],
)  # fmt: skip
def test_a_mistake_names_entry_and_field(write: Write, changed: dict[str, str], message: str) -> None:
    with pytest.raises(CatalogError) as caught:
        read(write(entry(**changed)))
    assert str(caught.value).startswith(f"papers.toml, entry 'sign-rule': {message}")
    assert "\n" not in str(caught.value)


def test_a_finding_is_one_short_sentence_about_one_verdict(write: Write) -> None:
    text = "A" + "b" * (LONGEST_FINDING - 2) + "."
    paper = read(write(entry(finding=finding(text))))["sign-rule"]
    assert paper.finding == Finding("partly", text)
    assert (paper.finding_for("partly"), paper.finding_for("reproduced")) == (text, "")
    assert read(write(entry()))["sign-rule"].finding_for("partly") == ""


def finding(text: str, verdict: str = "partly") -> str:
    return f'{{ verdict = "{verdict}", text = "{text}" }}'


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('"It holds."', "must be a table such as { verdict = "),
        ('{ text = "It holds." }', "must be a table such as { verdict = "),
        ('{ verdict = "partly", text = 7 }', "its text must be text in quotes, not 7"),
        (finding("It holds.", " "), "its verdict must be text in quotes, not ' '"),
        (finding("A" * LONGEST_FINDING + "."), "its text has 161 letters, at most 160 are allowed: 'AAAA"),
        (finding("It holds"), "its text must be one sentence, from a capital letter to a full stop: 'It holds'"),
        (finding("it holds."), "its text must be one sentence"),
        (finding("It holds. It does."), "its text must be one sentence"),
        (finding("It takes 0.55 of the steps."), "its text must say in words what '0.55' says"),
    ],
)
def test_a_mistake_in_a_finding_is_one_line(write: Write, value: str, message: str) -> None:
    with pytest.raises(CatalogError) as caught:
        read(write(entry(finding=value)))
    assert str(caught.value).startswith(f"papers.toml, entry 'sign-rule': finding: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (entry() + entry(), "papers.toml, entry 'sign-rule': slug: 'sign-rule' is given twice"),
        (entry(slug='"Sign Rule"'), "papers.toml, entry 'Sign Rule': slug: may hold lower-case letters"),
        (entry(slug=""), "papers.toml, entry number 1: slug: missing"),
        ("[paper]\nslug = 'a'\n", "papers.toml: 'paper' must be an array of tables"),
        (entry() + "[papers]\n", "papers.toml: unknown table 'papers'"),
        ("[[paper]\n", "papers.toml: not valid TOML"),
    ],
)
def test_a_malformed_file_is_one_line(write: Write, text: str, message: str) -> None:
    with pytest.raises(CatalogError, match=re.escape(message)) as caught:
        read(write(text))
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_kept(write: Write) -> None:
    with pytest.raises(CatalogError, match="1 more") as caught:
        read(write(entry(slug='"a"', year="1") + entry(slug='"b"', arxiv='"x"')))
    assert [line.split("'")[1] for line in caught.value.problems] == ["a", "b"]


def test_a_missing_file_is_one_line(tmp_path) -> None:
    with pytest.raises(CatalogError, match=r"papers\.toml: can't be read: No such file"):
        read(tmp_path / "papers.toml")


def test_the_real_list_is_read_once_and_says_what_is_near() -> None:
    assert papers() is papers() and lookup("lion").arxiv == "2302.06675"
    with pytest.raises(ValueError, match="unknown paper 'lyon'; did you mean 'lion'") as caught:
        lookup("lyon")
    assert len(str(caught.value)) < 150
