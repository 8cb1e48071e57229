import pytest
import torch

from thalweg.claims import icl_vs_gd_revisited as claim
from thalweg.claims.engine import recall_model as recall
from thalweg.claims.engine.contract import Measurement
from thalweg.tasks.decoder import Decoder

GOOD = {
    "recall": 0.97,
    "order deviation/linear attention": 1e-9,
    "cosine/linear attention": 0.9999,
    **{f"overlap of another order/{kind}": 0.8 for kind in claim.KINDS},
    **{f"overlap of descent/{kind}": 0.55 for kind in claim.KINDS},
    **{f"order deviation in context/{kind}": 0.06 for kind in claim.KINDS},
    **{f"order deviation of SGD/{kind}": 0.01 for kind in claim.KINDS},
    **{f"order deviation in context, earlier/{kind}": 0.02 for kind in claim.KINDS},
    **{f"order deviation of SGD, earlier/{kind}": 0.01 for kind in claim.KINDS},
    **{f"largest order deviation of SGD/{kind}": 0.05 for kind in claim.KINDS},
    **{f"least order deviation of SGD/{kind}": 0.001 for kind in claim.KINDS},
    "recall, earlier": 0.6,
    "SimAOU/trained": 0.4,
    "SimAOU/untrained": 0.35,
    "answers that fine-tuning corrects": 8.0,
    "answers that fine-tuning and context correct": 7.0,
}


def measured(**changes):
    names = {"recall": "recall", "flat": "order deviation/linear attention", "cosine": "cosine/linear attention"}
    rest = {
        "shared": "overlap of descent/retrieval",
        "context_r": "order deviation in context/retrieval",
        "context_c": "order deviation in context/conflict",
        "early_c": "order deviation in context, earlier/conflict",
        "moved": "SimAOU/trained",
    }
    return Measurement(GOOD | {(names | rest)[key]: value for key, value in changes.items()})


def quiet(share, doing=""):
    assert 0 <= share <= 1


def test_smoke_runs_and_is_judged():
    (seed,) = claim.SCALES["smoke"].seeds
    result = claim.run("smoke", seed, report=quiet)
    assert claim.judge([result]).word == "not testable at this scale"  # so little training teaches no recall
    assert result.numbers["order deviation/linear attention"] < 1e-6
    assert -1 <= result.numbers["SimAOU/untrained"] <= 1
    roles = {(curve.panel, curve.label): curve.role for curve in result.curves}
    assert roles["order", "retrieval, in context"] == roles["order", "retrieval, gradient descent"] == "measured"
    assert {curve.panel for curve in result.curves} == {panel.key for panel in claim.PANELS}
    assert {(curve.panel, curve.role) for curve in result.curves} >= {("overlap", "theory"), ("cosine", "theory")}


def test_derivatives_by_the_query():
    """Against finite differences of the row of the query's own embedding, which nothing else in the prompt uses."""
    torch.manual_seed(0)
    model = Decoder(vocab_size=8, context=4, embed_dim=8, num_heads=2, num_layers=1).double()
    prompts, wanted = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([0, 7])
    torch.set_default_dtype(torch.float64)
    try:
        slopes = claim._derivatives(model, dict(model.named_parameters()), prompts, wanted)
    finally:
        torch.set_default_dtype(torch.float32)
    for row in range(2):
        for entry in (0, 5):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    model.embed.weight[prompts[row, -1], entry] += sign * 1e-5
                    values.append(model(prompts)[row, -1].log_softmax(-1)[wanted[row]].item())
                    model.embed.weight[prompts[row, -1], entry] -= sign * 1e-5
            assert slopes[row, entry].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-8)


def test_full_batch_descent_does_not_see_the_order():
    torch.manual_seed(0)
    model = Decoder(recall.VOCAB, recall.CONTEXT, embed_dim=16, num_heads=2, num_layers=1)
    tasks = recall.recall_tasks("conflict", 2, torch.Generator().manual_seed(0))
    size, rates = claim.SIZES["smoke"], torch.tensor([0.3, 0.3])

    def after(order, batch):
        stacks = claim._every(model, tasks.pairs[:, order], rates, size, batch, None)
        return claim._predictions(model, stacks[-1], tasks)

    shown, turned = torch.arange(8), torch.arange(7, -1, -1)
    assert torch.allclose(after(shown, None), after(turned, None), atol=1e-6)
    assert (after(shown, 1) - after(turned, 1)).abs().max() > 1e-5


def test_all_that_is_asked_for():
    verdict = claim.judge([measured(), measured(recall=0.93)])
    assert verdict.word == "reproduced" and "93%" in verdict.because and "0.25 (retrieval)" in verdict.because


def test_one_kind_of_task_is_enough_for_the_order():
    assert claim.judge([measured(context_r=0.0)]).word == "reproduced"


@pytest.mark.parametrize("bad", [{"context_r": 1e-4, "context_c": 0.02}, {"shared": 0.75}])
def test_one_part_is_partly(bad):
    assert claim.judge([measured(**bad)]).word == "partly"


def test_neither_part():
    assert claim.judge([measured(shared=0.75, context_r=0.0, context_c=0.0)]).word == "not reproduced at this scale"


@pytest.mark.parametrize("bad", [{"recall": 0.89}, {"flat": 1e-5}, {"cosine": 0.98}])
def test_what_must_be_there(bad):
    verdict = claim.judge([measured(), measured(**bad)])
    assert verdict.word == "not testable at this scale"
    assert ("hasn't learnt" if "recall" in bad else "measures fail") in verdict.because


def test_the_earlier_checkpoint_gives_the_reason():
    """Only where order mattered before recall was nearly certain may the reason be that it now is."""
    late = {"context_r": 0.01, "context_c": 0.01}
    assert "hardly depends on the order" in claim.judge([measured(**late, early_c=0.2)]).because
    verdict = claim.judge([measured(**late), measured(context_r=0.03, context_c=0.01)])
    assert verdict.word == "partly" and "isn't it" in verdict.because
    assert "by seed 1.0, 3.0 and 1.0, 1.0" in verdict.because


def test_when_order_matters_is_told_with_any_word():
    verdict = claim.judge([measured()])
    assert verdict.word == "reproduced" and "changes 50 (retrieval) and 50 (conflict) times" in verdict.because
    assert "which recalls 60%, order matters 2.00 (retrieval) and 2.00 (conflict) times" in verdict.because


def test_gaps_about_the_limit_are_told_by_seed():
    verdict = claim.judge([measured(shared=0.75), measured(shared=0.69)])
    assert verdict.word == "partly" and "0.05 to 0.11 (retrieval)" in verdict.because


@pytest.mark.parametrize(("moved", "said"), [(0.44, "not 0.1 more"), (0.46, "so more")])
def test_attention_updates_are_told(moved, said):
    verdict = claim.judge([measured(moved=moved)])
    assert verdict.word == "reproduced" and said in verdict.because and "of the 8 answers" in verdict.because
