"""Search by words: TF-IDF over stems and over pieces of words."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np

WAY = "words"

_SUFFIXES = (
    "izations", "ization", "ations", "ation", "ements", "ement", "izers", "izer", "izing", "ized", "izes", "ize",
    "nesses", "ness", "ings", "ing", "edly", "ions", "ion", "ers", "ies", "ed", "er", "es", "ly", "al", "s", "e", "y",
)  # fmt: skip


def stem(word: str) -> str:
    """What is left of a word without its ending, so that "tuning", "tuned" and "tune" meet; at least three letters.

    Example:
        >>> [stem(word) for word in ("tuning", "tunes", "optimizers", "quantization", "lion")]
        ['tun', 'tun', 'optim', 'quant', 'lion']
    """
    for suffix in _SUFFIXES:
        left = word.removesuffix(suffix)
        if left != word and len(left) >= 3 and re.search("[aeiouy]", left) and not (suffix == "ion" and len(left) < 4):
            return left[:-1] if len(left) > 3 and left[-1] == left[-2] and left[-1] not in "aels" else left
    return word


def stems(text: str) -> list[str]:
    """Stems of a text's words and of their neighbours in pairs, without the words that say nothing."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    words = re.findall(r"[a-z0-9]+", text.lower())
    kept = [stem(word) for word in words if word not in ENGLISH_STOP_WORDS]
    return kept + [f"{a} {b}" for a, b in itertools.pairwise(kept)]


def word_scores(query: str, texts: Sequence[str]) -> np.ndarray:
    """Cosine similarity of ``query`` to each text, from 0 to 1: mostly by stems, partly by pieces of 3 to 5 letters.

    The pieces find what is misspelt, cut short or written together.

    Returns:
        Array of shape ``(len(texts),)``.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    total = np.zeros(len(texts))
    by_stem = TfidfVectorizer(analyzer=stems, sublinear_tf=True)
    by_piece = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    for weight, vectorizer in ((0.75, by_stem), (0.25, by_piece)):
        known = vectorizer.fit_transform(texts)
        total += weight * (known @ vectorizer.transform([query]).T).toarray()[:, 0]
    return total
