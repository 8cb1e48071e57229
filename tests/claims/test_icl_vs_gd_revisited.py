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
}


def measured(**changes):
    names = {"recall": "recall", "flat": "order deviation/linear attention", "cosine": "cosine/linear attention"}
    rest = {
        "shared": "overlap of descent/retrieval",
        "context_r": "order deviation in context/retrieval",
        "context_c": "order deviation in context/conflict",
    }
    return Measurement(GOOD | {(names | rest)[key]: value for key, value in changes.items()})


def quiet(share, doing=""):
    assert 0 <= share <= 1


def test_smoke_runs_and_is_judged():
    (seed,) = claim.SCALES["smoke"].seeds
    result = claim.run("smoke", seed, report=quiet)
    assert claim.judge([result]).word == "not testable at this scale"  # so little training teaches no recall
    assert result.numbers["order deviation/linear attention"] < 1e-6
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
