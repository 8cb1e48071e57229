"""One entry of the reading list."""

from __future__ import annotations

from dataclasses import dataclass

SEAMS = {
    "init": "starting weights",
    "data": "which examples, in which order",
    "nn": "layers and the forward pass",
    "adapt": "fine-tuning and adapters",
    "objective": "losses and how they combine",
    "optim": "update rules",
    "grow": "growing and merging models",
    "compress": "quantizing, pruning and searching architectures",
    "solve": "solvers that replace the training loop",
    "generate": "sampling, decoding and policies",
    "probe": "measuring without changing",
    "phenomena": "theory of learning, as experiments",
}
"""Places in the training stream, in its order, and what each is about."""


@dataclass(frozen=True)
class Finding:
    """What came out when a claim was rerun, in one sentence of ours for readers who don't know the paper.

    It is written by hand and says no numbers; ``thalweg list --check`` compares its word with the stored verdict.

    Args:
        verdict: the word of the verdict that it was written for.
        text: the sentence.
    """

    verdict: str
    text: str


@dataclass(frozen=True)
class Paper:
    """One entry of ``papers.toml``.

    Args:
        slug: its name in commands and file names.
        title: the paper's.
        year: of its first publication.
        arxiv: id, such as "2302.06675"; empty if it isn't on arXiv.
        seam: where it acts, a key of :data:`SEAMS`.
        kind: "method", "claim" (a finding about training) or "both".
        summary: what it is, in our words, two or three sentences.
        claim: what the paper says comes of it, with its figure, one or two sentences.
        topics: two to five words or short phrases to find and filter by, lower case.
        implements: dotted import paths of what we have of it; empty while it is planned.
        finding: what came out when its claim was rerun; None while there is no result.
    """

    slug: str
    title: str
    year: int
    arxiv: str
    seam: str
    kind: str
    summary: str
    claim: str
    topics: tuple[str, ...] = ()
    implements: tuple[str, ...] = ()
    finding: Finding | None = None

    @property
    def url(self) -> str:
        """The paper's page on arXiv; empty if it isn't there."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""

    def finding_for(self, verdict: str) -> str:
        """The finding's sentence, if it was written for this word; else nothing, since it may be wrong then."""
        return self.finding.text if self.finding and self.finding.verdict == verdict else ""
