"""LaTeX to MathML: what each construct becomes, and what is refused."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from thalweg.report.site.mathml import MathError, mathml


def inside(tex: str) -> str:
    """The MathML between the outer tags."""
    return str(mathml(tex)).partition(">")[2].removesuffix("</math>")


@pytest.mark.parametrize(
    ("tex", "expected"),
    [
        ("x", "<mi>x</mi>"),
        ("x y", "<mi>x</mi><mi>y</mi>"),
        ("UV", "<mi>U</mi><mi>V</mi>"),
        ("low", "<mi>low</mi>"),
        ("12.5", "<mn>12.5</mn>"),
        ("a-b", "<mi>a</mi><mo>−</mo><mi>b</mi>"),
        ("a<b", "<mi>a</mi><mo>&lt;</mo><mi>b</mi>"),
        (r"\beta_1", "<msub><mi>β</mi><mn>1</mn></msub>"),
        (r"\beta_1^t", "<msubsup><mi>β</mi><mn>1</mn><mi>t</mi></msubsup>"),
        ("x^t_1", "<msubsup><mi>x</mi><mn>1</mn><mi>t</mi></msubsup>"),
        ("x^{1/2}", "<msup><mi>x</mi><mrow><mn>1</mn><mo>/</mo><mn>2</mn></mrow></msup>"),
        ("x_12", "<msub><mi>x</mi><mn>1</mn></msub><mn>2</mn>"),
        (r"\frac1n", "<mfrac><mn>1</mn><mi>n</mi></mfrac>"),
        (r"\frac{a b}{c}", "<mfrac><mrow><mi>a</mi><mi>b</mi></mrow><mrow><mi>c</mi></mrow></mfrac>"),
        (r"\sqrt 2", "<msqrt><mn>2</mn></msqrt>"),
        (r"\hat g", '<mover accent="true"><mi>g</mi><mo>^</mo></mover>'),
        (r"\mathrm{sign}", '<mi mathvariant="normal">sign</mi>'),
        (r"\text{ as in }", "<mtext>\u00a0as\u00a0in\u00a0</mtext>"),
        (r"\texttt{adam\_direction}", "<mtext>adam_direction</mtext>"),
        (r"\mathcal N", "<mi>𝒩</mi>"),
        (r"\mathbb{E}", "<mi>𝔼</mi>"),
        (r"\left. x \right|_0", '<mi>x</mi><msub><mo stretchy="true">|</mo><mn>0</mn></msub>'),
    ],
)
def test_constructs(tex: str, expected: str) -> None:
    assert inside(tex) == expected


def test_limits_go_below_and_brackets_keep_their_size() -> None:
    assert inside(r"\sum_i^n").startswith('<munderover><mo movablelimits="true">∑</mo>')
    assert inside(r"\max_r").startswith("<munder>") and "</munder>" in inside(r"\min_{i \in S}")
    assert inside(r"\|p\|^2").count('stretchy="false"') == 2 and "<msup>" in inside(r"\|p\|^2")


def test_cases_are_a_table() -> None:
    found = inside(r"\begin{cases} a & b \\ c & \text{else} \end{cases} + 1")
    table = ElementTree.fromstring(f"<math>{found}</math>").find("mrow/mtable")
    assert table is not None and [len(row) for row in table] == [2, 2] and found.endswith("<mn>1</mn>")


def test_wide_spaces_part_a_formula_on_its_own_lines_only() -> None:
    tex = r"a = 1, \qquad b = \frac{c \quad d}{2}"
    apart, together = str(mathml(tex, display=True)), str(mathml(tex))
    assert apart.count("<math") == 2 and apart.count('display="block"') == 2 and apart.count("alttext") == 1
    assert together.count("<math") == 1 and 'width="1em"' in together


def test_the_source_is_kept_and_nothing_of_it_is_markup() -> None:
    found = str(mathml(r'x < \text{<b>"</b>}'))
    root = ElementTree.fromstring(found)
    assert root.get("alttext") == r'x < \text{<b>"</b>}' and root.find(".//b") is None


@pytest.mark.parametrize(
    ("tex", "message"),
    [
        (r"\unheard x", r"\\unheard isn't known"),
        (r"\mathbb{x}", "'x' isn't known"),
        (r"\frac{1", "'}' is missing|something is missing"),
        (r"x}", "braces don't match"),
        (r"\frac1", "something is missing at its end"),
        (r"\begin{matrix} a \end{matrix}", "environment 'matrix' isn't known"),
    ],
)
def test_what_is_not_understood_is_said(tex: str, message: str) -> None:
    with pytest.raises(MathError, match=message):
        mathml(tex)
