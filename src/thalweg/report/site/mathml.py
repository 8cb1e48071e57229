"""Formulas of docstrings, written in LaTeX, as MathML, which browsers draw by themselves."""

from __future__ import annotations

import itertools
import re
from functools import cache

from markupsafe import Markup, escape

_TOKEN = re.compile(r"\\([A-Za-z]+|.)|\s+|(.)", re.DOTALL)

_LETTERS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ϵ", "varepsilon": "ε", "zeta": "ζ", "eta": "η",
    "theta": "θ", "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ",
    "tau": "τ", "phi": "ϕ", "varphi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω", "Gamma": "Γ", "Delta": "Δ",
    "Theta": "Θ", "Lambda": "Λ", "Xi": "Ξ", "Pi": "Π", "Sigma": "Σ", "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω", "ell": "ℓ",
    "nabla": "∇", "partial": "∂", "infty": "∞", "top": "⊤", "dagger": "†", "emptyset": "∅",
}  # fmt: skip
_OPERATORS = {
    "leftarrow": "←", "gets": "←", "rightarrow": "→", "to": "→", "mapsto": "↦", "Rightarrow": "⇒", "iff": "⟺",
    "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ll": "≪", "gg": "≫", "ne": "≠", "neq": "≠", "approx": "≈",
    "equiv": "≡", "propto": "∝", "sim": "∼", "in": "∈", "notin": "∉", "subset": "⊂", "subseteq": "⊆", "cup": "∪",
    "cap": "∩", "setminus": "∖", "forall": "∀", "exists": "∃", "perp": "⊥", "mid": "∣", "pm": "±", "cdot": "⋅",
    "times": "×", "odot": "⊙", "oplus": "⊕", "otimes": "⊗", "circ": "∘", "star": "⋆", "dots": "…", "ldots": "…",
    "cdots": "⋯", "vdots": "⋮", "colon": ":", "%": "%", "&": "&amp;", "_": "_",
}  # fmt: skip
_FENCES = {
    "|": "‖", "lVert": "‖", "rVert": "‖", "lvert": "|", "rvert": "|", "langle": "⟨", "rangle": "⟩", "lfloor": "⌊",
    "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "{": "{", "}": "}",
}  # fmt: skip
_SIZED = ("left", "right", *(f"{size}{side}" for size in ("big", "Big", "bigg", "Bigg") for side in ("l", "r", "")))
_SPACES = {",": 0.17, ":": 0.22, ";": 0.28, "!": -0.17, " ": 0.33, "quad": 1.0, "qquad": 2.0}
_LIMITS = {"max": "max", "min": "min", "sup": "sup", "inf": "inf", "lim": "lim", "sum": "∑", "prod": "∏", "int": "∫"}
_FUNCTIONS = (
    "arg", "log", "ln", "exp", "cos", "sin", "tan", "arccos", "arcsin", "arctan", "cosh", "sinh", "tanh", "det", "dim", "ker", "deg",
)  # fmt: skip
_ACCENTS = {"hat": "^", "widehat": "^", "bar": "¯", "overline": "¯", "dot": "˙", "ddot": "¨", "tilde": "~", "vec": "→"}
_SCRIPT = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "𝒜ℬ𝒞𝒟ℰℱ𝒢ℋℐ𝒥𝒦ℒℳ𝒩𝒪𝒫𝒬ℛ𝒮𝒯𝒰𝒱𝒲𝒳𝒴𝒵", strict=True))
_DOUBLE = dict(zip("CEHNPQRZ", "ℂ𝔼ℍℕℙℚℝℤ", strict=True))
_PLAIN = {"-": "−", "*": "∗", "'": "′"}


class MathError(ValueError):
    """A formula holds what isn't known here, or isn't well formed."""


@cache
def mathml(tex: str, display: bool = False) -> Markup:
    r"""A formula as MathML; one with ``\quad`` in it becomes several, so that they wrap on a narrow screen.

    Args:
        tex: LaTeX, the part of it that docstrings use.
        display: on lines of its own, with limits below sums.

    Raises:
        MathError: an unknown command, or braces that don't match.

    Example:
        >>> from thalweg.report.site.mathml import mathml
        >>> print(mathml("x^2"))
        <math alttext="x^2"><msup><mi>x</mi><mn>2</mn></msup></math>
    """
    parts = _Parser(tex).parts()
    wide = Markup(' display="block"') if display else ""
    pieces = parts if display else ['<mspace width="1em"/>'.join(parts)]
    source = Markup(' alttext="{}"').format(_spaced(tex))
    return Markup("").join(
        Markup("<math{}{}>{}</math>").format(wide, source if i == 0 else "", Markup(piece))
        for i, piece in enumerate(pieces)
    )


def _spaced(tex: str) -> str:
    return " ".join(tex.split())


def _tokens(tex: str) -> list[str]:
    found = []
    for match in _TOKEN.finditer(tex):
        command, char = match.groups()
        if command is not None or char is not None:
            found.append(f"\\{command}" if command is not None else char)
        elif found and found[-1] != " ":
            found.append(" ")
    return found


class _Parser:
    """Reads tokens one after the other; what it gives is escaped."""

    def __init__(self, tex: str) -> None:
        self._tex, self._tokens, self._at = _spaced(tex), _tokens(tex.strip()), 0

    def parts(self) -> list[str]:
        """The formula, cut at the wide spaces that stand in no braces."""
        parts = [self._row(("\\quad", "\\qquad"))]
        while self._at < len(self._tokens):
            if self._next() not in ("\\quad", "\\qquad"):
                raise self._error("braces don't match")
            parts.append(self._row(("\\quad", "\\qquad")))
        return [part for part in parts if part]

    def _row(self, ends: tuple[str, ...]) -> str:
        """Terms up to one of ``ends``, which is left there."""
        terms = []
        while self._at < len(self._tokens) and self._tokens[self._at] not in (*ends, "}", "\\end"):
            terms.append(self._term())
        return "".join(terms)

    def _term(self) -> str:
        """An atom with what is below and above it."""
        name = self._tokens[self._at]
        base, below, above = self._atom(whole=True), "", ""
        while self._peek() in ("^", "_"):
            self._skip()
            if self._next() == "_":
                below = self._argument()
            else:
                above = self._argument()
        if not base or not (below or above):
            return base
        kind = "munderover" if name[1:] in _LIMITS else "msubsup"
        if below and above:
            return f"<{kind}>{base}{below}{above}</{kind}>"
        kind = kind.replace("over", "").replace("sup", "") if below else {"munderover": "mover"}.get(kind, "msup")
        return f"<{kind}>{base}{below or above}</{kind}>"

    def _argument(self) -> str:
        """What a command takes, as one element."""
        self._skip()
        if self._peek() == "{":
            return f"<mrow>{self._group()}</mrow>"
        return self._atom(whole=False)

    def _group(self) -> str:
        self._expect("{")
        row = self._row(())
        self._expect("}")
        return row

    def _words(self) -> str:
        """The text of a braced argument as it stands there."""
        self._skip()
        self._expect("{")
        words = []
        while (token := self._next()) != "}":
            words.append(token.removeprefix("\\"))
        return "".join(words)

    def _atom(self, whole: bool) -> str:
        """One element; a whole number or name if ``whole``, else its first character, as LaTeX takes arguments."""
        token = self._next()
        if token == " ":
            return ""
        if token == "{":
            self._at -= 1
            return f"<mrow>{self._group()}</mrow>"
        if token.startswith("\\"):
            return self._command(token[1:])
        if token.isdigit():
            while whole and self._at < len(self._tokens) and re.fullmatch(r"[\d.]", self._tokens[self._at]):
                token += self._next()
            return f"<mn>{token}</mn>"
        if token.isalpha():
            return f"<mi>{self._word(token) if whole else token}</mi>"
        if token in "()[]|":
            return _fence(token)
        return f"<mo>{escape(_PLAIN.get(token, token))}</mo>"

    def _word(self, letter: str) -> str:
        """A letter, or the name of three or more that it begins, such as ``low``; two are a product."""
        rest = "".join(itertools.takewhile(str.isalpha, self._tokens[self._at :]))
        if len(rest) < 2 or not rest.isascii():
            return letter
        self._at += len(rest)
        return letter + rest

    def _command(self, name: str) -> str:
        if name in _LETTERS:
            return f"<mi>{_LETTERS[name]}</mi>"
        if name in _OPERATORS:
            return f"<mo>{_OPERATORS[name]}</mo>"
        if name in _FENCES:
            return _fence(_FENCES[name])
        if name in _SPACES:
            return f'<mspace width="{_SPACES[name]}em"/>'
        if name in _LIMITS:
            return f'<mo movablelimits="true">{_LIMITS[name]}</mo>'
        if name in _FUNCTIONS:
            return f"<mi>{name}</mi>"
        if name in ("frac", "tfrac", "dfrac"):
            return f"<mfrac>{self._argument()}{self._argument()}</mfrac>"
        if name == "sqrt":
            return f"<msqrt>{self._argument()}</msqrt>"
        if name in _ACCENTS:
            return f'<mover accent="true">{self._argument()}<mo>{_ACCENTS[name]}</mo></mover>'
        return self._styled(name)

    def _styled(self, name: str) -> str:
        if name in _SIZED:
            self._skip()
            fence = self._next()
            if fence == ".":
                return ""
            fence = _FENCES.get(fence[1:], fence[1:]) if fence.startswith("\\") else fence
            return f'<mo stretchy="true">{escape(fence)}</mo>'
        if name in ("mathrm", "operatorname"):
            return f'<mi mathvariant="normal">{escape(self._words())}</mi>'
        if name in ("text", "texttt"):
            return f"<mtext>{escape(self._words()).replace(' ', chr(0xA0))}</mtext>"
        if name in ("mathcal", "mathbb"):
            self._skip()
            letter = self._words() if self._peek() == "{" else self._next()
            known = _SCRIPT if name == "mathcal" else _DOUBLE
            if letter not in known:
                raise self._error(f"\\{name} of {letter!r} isn't known")
            return f"<mi>{known[letter]}</mi>"
        if name in ("mathbf", "boldsymbol"):
            return f'<mrow style="font-weight: bold">{self._argument()}</mrow>'
        if name == "begin":
            return self._cases()
        if name in ("textstyle", "displaystyle", "limits"):
            return ""
        raise self._error(f"\\{name} isn't known")

    def _cases(self) -> str:
        """Rows of a case and its condition."""
        if (environment := self._words()) != "cases":
            raise self._error(f"the environment {environment!r} isn't known")
        rows: list[list[str]] = [[]]
        while True:
            rows[-1].append(f"<mtd>{self._row(('&', chr(92) * 2))}</mtd>")
            end = self._next()
            if end == "\\\\":
                rows.append([])
            elif end == "\\end":
                self._words()
                break
        cells = "".join(f"<mtr>{''.join(row)}</mtr>" for row in rows)
        return f'<mrow><mo stretchy="true">{{</mo><mtable columnalign="left">{cells}</mtable></mrow>'

    def _peek(self) -> str:
        """The next token that isn't a space; an empty text at the end."""
        rest = [token for token in self._tokens[self._at : self._at + 2] if token != " "]
        return rest[0] if rest else ""

    def _skip(self) -> None:
        while self._at < len(self._tokens) and self._tokens[self._at] == " ":
            self._at += 1

    def _next(self) -> str:
        if self._at >= len(self._tokens):
            raise self._error("something is missing at its end")
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, token: str) -> None:
        self._skip()
        if self._next() != token:
            raise self._error(f"{token!r} is missing")

    def _error(self, what: str) -> MathError:
        return MathError(f"formula {self._tex!r}: {what}")


def _fence(char: str) -> str:
    """A bracket that keeps its size."""
    return f'<mo stretchy="false" lspace="0" rspace="0">{escape(char)}</mo>'
