from __future__ import annotations

import pytest

from thalweg.report.site.calls import call


def test_a_class_shows_signature_summary_and_example() -> None:
    found = call("thalweg.optim.Lion")
    assert found.signature == "Lion(params, lr=0.0001, betas=(0.9, 0.99), weight_decay=0.0, **options)"
    assert found.summary == (
        ("Sign momentum with two interpolations, found by program search (arXiv:2302.06675).", False),
    )
    assert found.example.startswith("import torch\nfrom thalweg.optim import Lion\n") and found.example.endswith(
        ".step()"
    )


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("thalweg.optim.sign.sign", "from thalweg.optim.sign import sign"),
        ("thalweg.registry.method", ""),
        (
            "thalweg.optim.trust_ratio",
            "import torch\nfrom torch import nn\nfrom thalweg.optim import Chained, trust_ratio\n",
        ),
        ("thalweg.probe.spectral_density", "import torch\n"),
    ],
)
def test_examples_run_as_they_are_shown(path: str, named: str) -> None:
    """Every example is a program: what it prints is a comment, and what it calls is imported."""
    found = call(path)
    assert not found.example or named in found.example
    exec(compile(found.example, path, "exec"), {})


def test_printed_results_become_comments() -> None:
    found = call("thalweg.report.numbers.duration")
    lines = found.example.split("\n")
    assert lines[0] == "from thalweg.report.numbers import duration"
    assert lines[-1] == "# ('12.3 ms', '2.50 s', '3 min 20 s')"
    exec(compile(found.example, "example", "exec"), {})


def test_an_attribute_comes_before_a_module_of_the_same_name() -> None:
    assert call("thalweg.optim.gradient_noise").signature.startswith("gradient_noise(")


def test_long_signatures_are_folded_and_values_have_none() -> None:
    folded = call("thalweg.optim.Muon").signature
    assert "\n" in folded and max(map(len, folded.split("\n"))) <= 80 and compile(f"def {folded}: pass", "x", "exec")
    assert " at 0x" not in folded
    value = call("thalweg.catalog.paper.SEAMS")
    assert (value.signature, value.summary, value.example) == ("", (), "")
    module = call("thalweg.optim.lion")
    assert module.signature == "" and module.summary[0][0].startswith("Lion: the sign of")


def test_markup_of_docstrings_is_told_apart() -> None:
    pieces = call("thalweg.report.text.shorten").summary
    assert pieces[0] == ("clean", True) and pieces[1][0].startswith(" text on one line")
