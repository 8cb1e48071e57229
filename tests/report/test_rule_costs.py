"""What a step costs: operations counted by hand, and costs in closed form."""

from __future__ import annotations

import pytest
import torch

from thalweg.linalg.polar import newton_schulz_flops
from thalweg.race.recipe import load_methods
from thalweg.registry import lookup
from thalweg.report.rule_costs import LAYERS, RANK, WIDTH, Operations, costs
from thalweg.tasks.decoder import Decoder


@pytest.fixture(scope="module", autouse=True)
def registered():
    load_methods()


def counted(function):
    with Operations() as counter:
        function()
    return counter.count


A, B, C = torch.ones(4, 3), torch.ones(3, 5), torch.ones(4, 3)


@pytest.mark.parametrize(
    ("function", "operations"),
    [
        (lambda: A + C, 12),
        (lambda: A.add(C, alpha=0.5), 24),
        (lambda: torch.lerp(A, C, 0.1), 36),
        (lambda: A.sqrt_(), 12),
        (lambda: A.sum(), 12),
        (lambda: torch.linalg.vector_norm(A), 24),
        (lambda: A @ B, 2 * 4 * 3 * 5),
        (lambda: torch.linalg.eigh(torch.eye(3)), 9 * 27),
        (lambda: torch._foreach_mul([A, B], 2.0), 12 + 15),
        (lambda: (A > C).any(), 0),
        (lambda: A.t().reshape(-1).clone(), 0),
        (lambda: torch.arange(5) * 3, 0),
    ],
)
def test_operations_by_hand(function, operations):
    assert counted(function) == operations


def test_a_call_of_unknown_cost_is_an_error():
    with pytest.raises(ValueError, match=r"the cost of aten.*lgamma.* is unknown: add 'lgamma'"):
        counted(lambda: torch.lgamma(A))


def test_what_is_paused_is_not_counted():
    with Operations() as counter:
        A + C
        with counter.paused():
            A @ B
        A + C
    assert counter.count == 24


@pytest.fixture(scope="module")
def sizes():
    model = Decoder(context=32, embed_dim=WIDTH, num_layers=LAYERS)
    hidden = [p for name, p in model.named_parameters() if "blocks" in name and p.ndim == 2]
    return hidden, sum(p.numel() for p in hidden), sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("rule", "state_bytes", "words"),
    [("adamw", 8, 7), ("sgd", 4, 5), ("diffgrad", 12, 9), ("adagrad_norm", 0, 3), ("rolling_median", 8, 4)],
)
def test_state_and_words_of_elementwise_rules(rule, state_bytes, words):
    found = costs(lookup(rule))
    assert (found.state_bytes, found.words) == (state_bytes, words)


def test_muon_costs_its_matrix_products(sizes):
    hidden, inside, total = sizes
    found = costs(lookup("muon"))
    assert found.state_bytes == pytest.approx((4 * inside + 8 * (total - inside)) / total)
    assert found.words == pytest.approx((5 * inside + 7 * (total - inside)) / total)
    products = sum(newton_schulz_flops(*p.shape) for p in hidden) / total
    assert products < found.flops < 1.1 * products


def test_galore_keeps_its_rank_alone(sizes):
    hidden, inside, total = sizes
    kept = sum(RANK * (2 * max(p.shape) + min(p.shape)) for p in hidden)
    found = costs(lookup("galore"))
    assert found.state_bytes == pytest.approx((4 * kept + 8 * (total - inside)) / total, rel=1e-3)
    assert found.words == pytest.approx((3 * inside + 2 * kept + 7 * (total - inside)) / total, rel=1e-3)


def test_sam_asks_for_two_gradients():
    assert costs(lookup("sam")).gradients == 2 and costs(lookup("adamw")).gradients == 1


def test_random_numbers_outside_stay_as_they_were():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    costs(lookup("sgd"))
    assert torch.equal(torch.get_rng_state(), before)
