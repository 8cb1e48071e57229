"""The reference of the API: every public name has a page, papers and names link to each other, links resolve."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from thalweg.catalog import papers
from thalweg.report.site import build
from thalweg.report.site.calls import resolve
from thalweg.report.site.entries import entries
from thalweg.report.site.reference import AROUND, SEAMS, Reference, public_names


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(entries(papers(), ()))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the real list, without results."""
    folder = tmp_path_factory.mktemp("reference") / "site"
    build(folder, papers(), ())
    return folder


def test_every_public_name_has_a_page(out: Path) -> None:
    for path in SEAMS + AROUND:
        if importlib.util.find_spec(path) is None:
            continue
        assert (out / "api" / f"{path}.html").is_file()
        for name in public_names(importlib.import_module(path)):
            page = (out / "api" / f"{path}.{name}.html").read_text(encoding="utf-8")
            assert f"from {path} import {name}" in page
    assert (out / "api" / "thalweg.optim.program_search.simplify_by_score.html").is_file()  # named by a paper only


def test_every_documented_piece_of_linalg_and_tasks_has_a_page(reference: Reference) -> None:
    """What has an example is meant for others; a new module is listed in ``THEORY`` or ``PROBLEMS``."""
    inner = {"autocast", "docs_lm", "docs_text", "fault", "remembered", "split"}
    """What update rules, and the built-in tasks, use on their way."""
    shown = {id(resolve(path)) for path in reference.names}
    for package in ("thalweg.linalg", "thalweg.tasks"):
        for found in pkgutil.iter_modules(importlib.import_module(package).__path__):
            module = importlib.import_module(f"{package}.{found.name}")
            for name in public_names(module) if found.name not in inner else ():
                if ">>>" in (inspect.getdoc(getattr(module, name)) or ""):
                    assert id(getattr(module, name)) in shown, f"{module.__name__}.{name}"
    wanted = ("tasks.regression_prompts.linear_prompts", "linalg.mode_flow.mode_flow", "linalg.regression_dynamics.late_error",
              "linalg.factor_risk.excess_risk")  # fmt: skip
    assert all(f"thalweg.{path}" in reference.names for path in wanted)


def test_links_resolve_and_every_page_is_reached(out: Path) -> None:
    reached = set()
    for page in sorted((out / "api").glob("*.html")):
        text = page.read_text(encoding="utf-8")
        assert "undefined" not in text and len(text) < 300_000
        for target in text.split('href="')[1:]:
            address = urlsplit(target.partition('"')[0])
            if not address.netloc and address.scheme != "data" and address.path:
                goal = (page.parent / unquote(address.path)).resolve()
                assert goal.is_file(), f"{page.name}: {address.path}"
                reached.add(goal.name)
    for paper in (out / "papers").glob("*.html"):
        reached |= {part.partition('"')[0] for part in paper.read_text(encoding="utf-8").split('href="../api/')[1:]}
    assert {page.name for page in (out / "api").glob("*.html")} <= reached


def test_the_index_begins_with_the_main_modules(out: Path) -> None:
    text = (out / "api" / "index.html").read_text(encoding="utf-8")
    assert 'href="#thalweg.linalg"' in text and 'href="#thalweg.linalg.polar"' not in text
    assert 'id="thalweg.linalg.polar"' in text and 'href="thalweg.linalg.polar.html"' in text


def test_papers_and_names_link_to_each_other(out: Path) -> None:
    paper = (out / "papers" / "adabelief.html").read_text(encoding="utf-8")
    assert 'href="../api/thalweg.optim.AdaBelief.html"' in paper and 'href="../api/index.html"' in paper
    name = (out / "api" / "thalweg.optim.AdaBelief.html").read_text(encoding="utf-8")
    assert 'href="../papers/adabelief.html"' in name and "arXiv:2010.07468" in name


def test_a_page_says_what_the_docstring_says(reference: Reference) -> None:
    lion = reference.names["thalweg.optim.Lion"]
    assert lion.call.signature.startswith("Lion(params, lr=0.0001") and lion.file == "thalweg/optim/lion.py"
    assert [section.name for section in lion.sections] == ["", "Args", "State", "Example"]
    assert [entry.paper.slug for entry in lion.papers] == ["lion"] and "program search" in lion.summary
    transform = reference.names["thalweg.optim.lion_direction"]
    assert transform.call.signature == "lion_direction(*, betas=(0.9, 0.99))" and transform.file == lion.file


def test_members_are_those_that_a_class_defines(reference: Reference) -> None:
    members = {member.name: member for member in reference.names["thalweg.optim.ChainedOptimizer"].members}
    assert members["step"].signature == "step(closure=None)" and "closure" in members["step"].summary
    assert "zero_grad" not in members and not any(name.startswith("_") for name in members)
    assert reference.names["thalweg.optim.create"].members == ()


def test_values_and_modules_have_pages_without_a_signature(reference: Reference) -> None:
    seams = reference.names["thalweg.catalog.SEAMS"]
    assert (seams.call.signature, seams.sections, seams.summary) == ("", (), "")
    assert "thalweg.claims.engine.contract" in {module.path for module in reference.modules}


def test_addresses(reference: Reference) -> None:
    for target, module in (("thalweg.optim.Lion", ""), ("Lion", "thalweg.optim"), ("Lion", "thalweg.nn")):
        assert reference.address(target, module) == "thalweg.optim.Lion.html"
    assert reference.address("thalweg.optim") == "thalweg.optim.html"
    assert reference.address("lookup", "thalweg.catalog") == "thalweg.catalog.lookup.html"
    assert reference.address("lookup", "thalweg.optim") == ""  # there are two; neither is guessed
    assert reference.address("torch.nn.Module") == ""


def test_modules_without_a_list_of_names_offer_what_they_define() -> None:
    found = public_names(importlib.import_module("thalweg.registry"))
    assert {"method", "methods", "lookup", "Method"} <= set(found) and not {"field", "Any", "dataclass"} & set(found)
