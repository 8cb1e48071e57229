"""Programs as optimizers: equal to the classes that they describe, in the engine and in lockstep."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from thalweg.optim import AdamW, Chained, Lion, Program, ProgramOptimizer, momentum, program_direction
from thalweg.optim.program_search import ADAMW, LION, RAW_LION, make_optimizer

PLAIN_LION = "c = interp(g, m, 0.9)\nu = sign(c)\nm = interp(g, m, 0.99)\nupdate = u * lr"


def trained(make, steps: int = 20, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(s, generator=draws, dtype=dtype)) for s in ((4, 3), (5,), ())]
    optimizer = make(params)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * steps)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=draws, dtype=dtype)
        optimizer.step()
        schedule.step()
    return [p.detach() for p in params]


def assert_same(one: list[torch.Tensor], two: list[torch.Tensor], tolerance: float = 1e-12) -> None:
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", [make_optimizer, lambda program, params, lr: ProgramOptimizer(params, program, lr)])
def test_lion_is_lion(kind) -> None:
    expected = trained(lambda params: Lion(params, lr=0.01))
    assert_same(trained(lambda params: kind(PLAIN_LION, params, 0.01)), expected)
    decayed = trained(lambda params: Lion(params, lr=1e-4, weight_decay=0.1))
    assert_same(trained(lambda params: kind(LION, params, 1.0)), decayed)


def test_adamw_in_both_forms_is_adamw_late_in_training() -> None:
    """Bias correction apart, which is gone after many steps; weight decay 0.01 relative to the learning rate, as in AdamW."""
    one = trained(lambda params: make_optimizer(ADAMW, params, 1.0))
    assert_same(one, trained(lambda params: ProgramOptimizer(params, ADAMW, 1.0)))
    program = "m = interp(g, m, 0.5)\ng2 = square(g)\nv = interp(g2, v, 0.5)\ns = sqrt(v)\nu = m / s\nupdate = u * lr"
    params = [[nn.Parameter(torch.ones(3, dtype=torch.float64))] for _ in range(2)]
    optimizers = (
        make_optimizer(program, params[0], 0.1),
        AdamW(params[1], lr=0.1, betas=(0.5, 0.5), eps=0.0, weight_decay=0.0),
    )
    for step in range(80):
        before = [own[0].detach().clone() for own in params]
        for own, optimizer in zip(params, optimizers, strict=True):
            own[0].grad = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64) * (1 + step % 3)
            optimizer.step()
    torch.testing.assert_close(before[0] - params[0][0], before[1] - params[1][0], rtol=1e-12, atol=1e-15)


def test_what_the_search_found_is_lion_but_for_what_does_nothing() -> None:
    """Its clip and arcsine change no sign while gradients are small together; the rest is Lion with other constants."""
    raw = "\n".join(str(RAW_LION).splitlines()[2:]).replace("m = cosh(u)", "")
    lion = (
        "v2 = v * 0.899\ng1 = g * 0.101\nm = v2 + g1\na = sign(m)\nv3 = v * 0.996991\ng3 = g * 0.003009\nv = v3 + g3\n"
    )
    lion += "wd = w * 0.4602\nu = a + wd\nlr = lr * 0.0002\nupdate = u * lr"
    assert_same(trained(lambda p: make_optimizer(raw, p, 1.0)), trained(lambda p: make_optimizer(lion, p, 1.0)), 1e-8)


def test_global_norms_see_all_parameters() -> None:
    params = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    optimizer = ProgramOptimizer([{"params": params[:1]}, {"params": params[1:]}], "update = clip(g, lr)", lr=1.0)
    params[0].grad, params[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert optimizer.step(lambda: 7) == 7
    assert [p.tolist() for p in params] == [pytest.approx([-0.6, 0.0]), pytest.approx([-0.8]), [0.0]]
    assert type(make_optimizer(RAW_LION, nn.Linear(2, 2))) is ProgramOptimizer


def test_a_learning_rate_of_zero_and_weights_without_gradients() -> None:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.tensor([1.0, 0.0])
    make_optimizer(ADAMW, [p], 0.0).step()
    assert p.tolist() == [1.0, 1.0]
    make_optimizer("s = square(g)\nq = g / s\nupdate = q * lr", [p], 1.0).step()
    assert p.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("kind", [make_optimizer, lambda program, params, lr: ProgramOptimizer(params, program, lr)])
def test_state_goes_on_where_it_was(kind) -> None:
    def steps(params, optimizer, count: int, seed: int) -> None:
        draws = torch.Generator().manual_seed(seed)
        for _ in range(count):
            for p in params:
                p.grad = torch.randn(p.shape, generator=draws)
            optimizer.step()

    params = [nn.Parameter(torch.ones(3, 2))]
    optimizer = kind(ADAMW, params, 0.5)
    steps(params, optimizer, 3, 0)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = copy.deepcopy(params)
    loaded = kind(ADAMW, others, 0.1)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    third, again = pickle.loads(pickle.dumps((params, optimizer)))
    for own, one in ((params, optimizer), (others, loaded), (third, again)):
        steps(own, one, 3, 1)
    assert torch.equal(params[0], others[0]) and torch.equal(params[0], third[0])


def test_low_precision_keeps_buffers_in_float32() -> None:
    for make in (make_optimizer, lambda program, params, lr: ProgramOptimizer(params, program, lr)):
        p = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
        optimizer = make(ADAMW, [p], 10.0)
        p.grad = torch.ones_like(p)
        optimizer.step()
        assert p.dtype is torch.bfloat16 and optimizer.state[p]["m"].dtype is torch.float32
        assert p[0].item() == pytest.approx(1 - 0.01 * (0.1 / 0.001**0.5 + 0.01), abs=0.01)


def test_the_transform_can_be_compiled_in_one_piece() -> None:
    """The engine's own compiled pass takes it too; this is the cheap part of it."""
    transform = program_direction(program=str(ADAMW)).type
    compiled = torch.compile(transform.update, backend="eager", fullgraph=True)
    w, g = torch.randn(4, 3), torch.randn(4, 3)
    found = []
    for update in (transform.update, compiled):
        state = {"m": torch.ones(4, 3), "v": torch.ones(4, 3)}
        found.append([update(g, w, state, lr=0.5, program=str(ADAMW)), state["m"], state["v"]])
    assert_same(found[1], found[0], 1e-6)


def test_refusals() -> None:
    p = [nn.Parameter(torch.ones(2))]
    with pytest.raises(
        ValueError, match=r"^the program needs whole tensors \(norms or products\): run it by ProgramOpt"
    ):
        program_direction(program="n = norm(g)\nupdate = g / n")
    with pytest.raises(ValueError, match=r"^update must be returned as a tensor, but it is never assigned$"):
        ProgramOptimizer(p, Program(()))
    with pytest.raises(ValueError, match=r"^line 1: x isn't defined there$"):
        make_optimizer("update = x * lr", p)
    with pytest.raises(ValueError, match=r"^Invalid lr: -1.0"):
        ProgramOptimizer(p, LION, lr=-1.0)
    with pytest.raises(ValueError, match=r"complex parameter of shape \(2,\)$"):
        ProgramOptimizer([nn.Parameter(torch.ones(2, dtype=torch.complex64))], LION)
    own = {"params": [nn.Parameter(torch.ones(1))], "program": LION, "lr": 0.1}
    assert ProgramOptimizer([own, {"params": p}], RAW_LION).param_groups[0]["program"] == str(LION)
    with pytest.raises(ValueError, match=r"program_direction must end its chain"):
        Chained(p, program_direction() >> momentum())
    with pytest.raises(TypeError, match="maximize"):
        make_optimizer(RAW_LION, p, maximize=True)
