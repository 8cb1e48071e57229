"""Docstrings as blocks: every construct that they use, and that none of it is markup."""

from __future__ import annotations

import inspect

from markupsafe import Markup

from thalweg.report.site.docstring import Section, inline, sections

TEXT = r"""
Moves by the sign (arXiv:2302.06675).

.. math:: c = m, \qquad
    p \leftarrow p - c

Then a paragraph
of two lines:

- first, with ``code``;
- second
  goes on.

===== =========
kind  meaning
===== =========
"a"   one
"b"   two
      lines
===== =========

It is used so::

    step(1)
      more

Args:
    lr: learning rate,
        a float.
    a, b: two numbers: both.

State: one tensor a parameter.

Returns:
    The sum.

    It is finite.

Raises:
    ValueError: ``lr`` is negative.

Afterwards there is more.

Example:
    >>> 1 + 1
    2
"""


def parts(text: str) -> list[Section]:
    return sections(inspect.cleandoc(text))


def test_sections_and_their_blocks() -> None:
    found = parts(TEXT)
    assert [s.name for s in found] == ["", "Args", "State", "Returns", "Raises", "", "Example"]
    kinds = [[block.kind for block in section.blocks] for section in found]
    assert kinds[0] == ["text", "formula", "text", "list", "table", "text", "code"]
    assert kinds[1:] == [["names"], ["text"], ["text", "text"], ["names"], ["text"], ["code"]]


def test_contents() -> None:
    first, args, state, *_, after, example = parts(TEXT)
    link, formula, prose, items, table, _, code = (block.rows for block in first.blocks)
    assert 'href="https://arxiv.org/abs/2302.06675"' in link[0][0] and formula[0][0].count("<math") == 2
    assert prose == (("Then a paragraph of two lines:",),)
    assert items == (("first, with <code>code</code>;",), ("second goes on.",))
    assert table == (("kind", "meaning"), ("&#34;a&#34;", "one"), ("&#34;b&#34;", "two lines"))
    assert code == (("step(1)\n  more",),)
    assert args.blocks[0].rows == (("lr", "learning rate, a float."), ("a, b", "two numbers: both."))
    assert state.blocks[0].rows[0][0] == "one tensor a parameter."
    assert after.blocks[0].rows[0][0] == "Afterwards there is more."
    assert example.blocks[0].rows[0][0] == "&gt;&gt;&gt; 1 + 1\n2"


def test_names_lead_where_they_are_told() -> None:
    def link(name: str) -> str:
        return f"{name}.html" if name.startswith("thalweg") else ""

    assert (
        inline("see :class:`~thalweg.optim.Lion`", link)
        == 'see <a href="thalweg.optim.Lion.html"><code>Lion</code></a>'
    )
    assert inline(":func:`thalweg.optim.create`", link).count("thalweg.optim.create") == 2
    assert inline(":class:`~torch.nn.Module` and :func:`f`", link) == "<code>Module</code> and <code>f</code>"


def test_stress_and_signs_that_are_no_markup() -> None:
    assert inline("not *this* but 2 * 3 * 4 and **options") == "not <em>this</em> but 2 * 3 * 4 and **options"
    assert inline("the **mean** loss, f(**a) and g(**b)") == "the <strong>mean</strong> loss, f(**a) and g(**b)"
    assert inline(r"where \|c\| is large") == "where |c| is large"


def test_html_is_shown_and_not_obeyed() -> None:
    evil = "<script>alert(1)</script>"
    for text in (
        evil,
        f"``{evil}``",
        f":class:`{evil}`",
        f"*{evil}*",
        f":math:`\\text{{{evil}}}`",
        f":math:`\\odd {evil}`",
    ):
        assert isinstance(inline(text), Markup) and "<script" not in inline(text)
    for section in parts(f"{evil}\n\nArgs:\n    {evil}: {evil}\n\nExample:\n    >>> {evil}\n"):
        assert all("<script" not in cell for block in section.blocks for row in block.rows for cell in row)


def test_an_unknown_formula_shows_its_source() -> None:
    assert inline(r"by :math:`\unheard x`") == r'by <code class="source">\unheard x</code>'
