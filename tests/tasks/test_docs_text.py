import os

import pytest

from thalweg.tasks.docs_text import documents, held_out, split_documents
from thalweg.tasks.task import TaskError


@pytest.fixture(scope="module")
def texts():
    return documents()


def test_documentation_and_public_sources_of_this_python(texts):
    assert {"argparse.py", "heapq.py", "topics/for", "topics/yield"} <= set(texts)
    assert "def heappush(heap, item)" in texts["heapq.py"]
    assert not any(name.startswith("_") for name in texts)
    assert sum(map(len, texts.values())) > 3_000_000


def test_a_name_stays_on_its_side_for_ever():
    held = [
        "await",
        "calls",
        "id-classes",
        "imaginary",
        "lambda",
        "slicings",
        "string-methods",
        "subscriptions",
        "unary",
    ]
    assert all(held_out(f"topics/{name}") for name in held)
    assert not any(held_out(name) for name in ("topics/for", "argparse.py", "heapq.py", "typing.py"))


def test_about_a_tenth_of_both_kinds_is_held_out(texts):
    for kind in (True, False):
        names = [name for name in texts if name.startswith("topics/") is kind]
        assert 0.03 < sum(map(held_out, names)) / len(names) < 0.2


def test_documents_are_held_out_whole(texts):
    train, valid = split_documents(texts)
    assert not train.keys() & valid.keys()
    assert train.keys() | valid.keys() == texts.keys()
    assert all(valid[name] == texts[name] for name in valid)


def test_no_passage_of_a_held_out_document_is_trained_on(texts):
    def passages(part):
        return {" ".join(p.split()) for text in part.values() for p in text.split("\n\n")}

    train, valid = split_documents(texts)
    shared = {p for p in passages(train) & passages(valid) if len(p) >= 80}
    untouched = {p for p in passages({n: texts[n] for n in train}) & passages(valid) if len(p) >= 80}
    assert not shared
    assert untouched, "Python's topics quote one another; without quotes this test would show nothing"


def test_little_training_text_is_lost(texts):
    train, _ = split_documents(texts)
    kept = sum(map(len, train.values())) / sum(len(texts[name]) for name in train)
    assert 0.95 < kept < 1


def test_a_python_without_sources_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "__file__", str(tmp_path / "os.py"))
    with pytest.raises(TaskError, match=r"docs-lm reads the standard library's source, and .* holds no \.py files$"):
        documents()
