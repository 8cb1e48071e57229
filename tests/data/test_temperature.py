import itertools
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from thalweg.data import CooldownSchedule, TemperatureSampler, scalarization_weights, temperature, temperature_probs
from thalweg.registry import lookup


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def domains(*sizes):
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def close(actual, expected, atol=1e-6):
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), atol=atol, rtol=0)


def test_two_domains():
    p = temperature_probs([900, 100], 5.0)
    close(p, [0.608127, 0.391873])
    close(scalarization_weights([900, 100], 5.0), [0.675696, 3.918732])
    q = torch.tensor([0.9, 0.1], dtype=torch.float64)
    assert (p.square() / q).sum().item() == pytest.approx(1.946555, abs=1e-6)


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (5.0, [0.492838, 0.310960, 0.196202]),
        (1.0, [0.900901, 0.090090, 0.009009]),
        (1e9, [1 / 3] * 3),
        (math.inf, [1 / 3] * 3),
    ],
)
def test_three_domains(tau, expected):
    close(temperature_probs([1000, 100, 10], tau), expected)


def test_huge_domains_do_not_overflow():
    assert temperature_probs([10**15, 10], 0.99 + 0.01).sum().item() == pytest.approx(1)
    with pytest.warns(UserWarning, match="below 1"):
        close(temperature_probs([10**15, 10**15], 1e-3), [0.5, 0.5])


def test_at_temperature_one_sampling_and_weighting_are_the_same():
    close(scalarization_weights([7, 2, 1], 1.0), [1.0, 1.0, 1.0], atol=1e-15)


def test_weighted_full_batch_gradient_is_the_mixture_of_domain_gradients():
    sizes, tau = [30, 8, 2], 5.0
    domain = domains(*sizes)
    torch.manual_seed(0)
    net = nn.Linear(3, 2).double()
    X, y = torch.randn(40, 3, dtype=torch.float64), torch.randint(2, (40,))

    def gradient(loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])

    def losses():
        return nn.functional.cross_entropy(net(X), y, reduction="none")

    weighted = gradient((scalarization_weights(sizes, tau)[domain] * losses()).mean())
    p = temperature_probs(sizes, tau)
    mixture = sum(p[k] * gradient(losses()[domain == k].mean()) for k in range(3))
    torch.testing.assert_close(weighted, mixture, atol=1e-12, rtol=0)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("tau", [1.0, 5.0])
def test_frequencies(replacement, tau):
    domain, draws = domains(900, 90, 10), 50_000
    sampler = TemperatureSampler(domain, tau, num_samples=draws, replacement=replacement, generator=seeded())
    counts = torch.bincount(domain[torch.tensor(list(sampler))], minlength=3)
    p = temperature_probs([900, 90, 10], tau)
    assert ((counts / draws - p).abs() < 4 * (p * (1 - p) / draws).sqrt()).all()
    torch.testing.assert_close(sampler.epochs_seen, counts / torch.tensor([900, 90, 10]))


def test_replacement_is_uniform_within_a_domain():
    sampler = TemperatureSampler(domains(20, 5), math.inf, num_samples=20_000, replacement=True, generator=seeded())
    counts = torch.bincount(torch.tensor(list(sampler)), minlength=25) / 20_000
    expected = torch.tensor([0.5 / 20] * 20 + [0.5 / 5] * 5)
    assert ((counts - expected).abs() < 5 * (expected / 20_000).sqrt()).all()


def test_a_domains_examples_come_once_an_epoch_each_time_in_a_new_order():
    domain = domains(40, 7)
    drawn = list(TemperatureSampler(domain, math.inf, num_samples=400, generator=seeded()))
    small = [i for i in drawn if i >= 40]
    whole = [tuple(small[start : start + 7]) for start in range(0, len(small) - 6, 7)]
    assert len(whole) > 20 and all(sorted(e) == list(range(40, 47)) for e in whole)
    assert len(set(whole)) > 15


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("stop", [0, 13, 57, 100])
def test_a_loaded_state_goes_on_with_the_same_indices(replacement, stop):
    def make(seed):
        schedule = CooldownSchedule([(0, 5.0), (6, 1.0)])
        return TemperatureSampler(
            domains(40, 7, 3), schedule, num_samples=100, batch_size=10, replacement=replacement, generator=seeded(seed)
        )

    sampler = make(1)
    list(itertools.islice(sampler, stop))
    state = sampler.state_dict()
    future = list(sampler)
    resumed = make(2)
    resumed.load_state_dict(state)
    assert list(resumed) == future
    assert resumed.step == sampler.step and torch.equal(resumed.epochs_seen, sampler.epochs_seen)
    assert list(make(2)) != future


def test_states_survive_the_safe_loader(tmp_path):
    sampler = TemperatureSampler(domains(8, 3), 2.0, generator=seeded())
    list(itertools.islice(sampler, 5))
    torch.save(sampler.state_dict(), tmp_path / "sampler.pt")
    resumed = TemperatureSampler(domains(8, 3), 2.0)
    resumed.load_state_dict(torch.load(tmp_path / "sampler.pt", weights_only=True))
    assert list(resumed) == list(sampler)
    with pytest.raises(ValueError, match="the state has 2 domains, this sampler 1"):
        TemperatureSampler(domains(4)).load_state_dict(sampler.state_dict())


def test_the_schedule_switches_at_exactly_its_step():
    switch, batch = 20, 16
    sharp = CooldownSchedule([(0, math.inf), (switch, 1.0)])
    taus = []

    def spy(step):
        taus.append(sharp(step))
        return taus[-1]

    sampler = TemperatureSampler(domains(90, 10), spy, num_samples=40 * batch, batch_size=batch, generator=seeded())
    list(sampler)
    assert taus == [math.inf] * (switch * batch) + [1.0] * (switch * batch)
    sampler.set_step(19)
    assert sampler.step == 19
    next(iter(sampler))
    assert taus[-1] == math.inf


def test_prefetching_workers_do_not_move_the_switch():
    domain = domains(50, 50)
    schedule = CooldownSchedule([(0, math.inf), (3, 1.0)])
    data = TensorDataset(torch.arange(100))

    def stream(**loader):
        sampler = TemperatureSampler(domain, schedule, num_samples=48, batch_size=8, generator=seeded())
        return torch.cat([batch for (batch,) in DataLoader(data, 8, sampler=sampler, **loader)])

    assert torch.equal(stream(), stream(num_workers=1, prefetch_factor=4))


def test_interpolation_is_in_the_inverse_temperature():
    linear = CooldownSchedule([(0, math.inf), (10, 1.0)], mode="linear")
    assert linear(0) == math.inf and linear(5) == pytest.approx(2.0) and linear(10) == linear(99) == 1.0
    cosine = CooldownSchedule([(0, 5.0), (10, 1.0)], mode="cosine")
    assert cosine(5) == pytest.approx(1 / 0.6)
    assert 1 / cosine(1) == pytest.approx(0.2 + 0.8 * (1 - math.cos(math.pi / 10)) / 2)


@pytest.mark.parametrize(
    ("points", "mode", "message"),
    [
        ([], "step", "steps must rise from 0"),
        ([(5, 1.0)], "step", "steps must rise from 0"),
        ([(0, 5.0), (9, 2.0), (9, 1.0)], "step", "steps must rise from 0"),
        ([(0, 5.0), (9, 0.0)], "step", "tau must be positive"),
        ([(0, 5.0)], "spline", "mode must be"),
    ],
)
def test_bad_schedules(points, mode, message):
    with pytest.raises(ValueError, match=message):
        CooldownSchedule(points, mode)


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_bad_temperatures(tau):
    with pytest.raises(ValueError, match="tau must be positive"):
        temperature_probs([2, 1], tau)
    with pytest.raises(ValueError, match="tau must be positive"):
        TemperatureSampler([0, 1], tau)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 2],), "1 is empty"),
        (([],), "one domain number"),
        (([-1, 0],), "one domain number"),
        ((torch.tensor([0.0, 1.0]),), "one domain number"),
        (([0, 1], lambda step: 1.0), "needs batch_size"),
    ],
)
def test_bad_domains(arguments, message):
    with pytest.raises(ValueError, match=message):
        TemperatureSampler(*arguments)


def test_empty_domains_have_no_probability():
    with pytest.raises(ValueError, match="at least one example"):
        temperature_probs([3, 0], 1.0)


def test_the_recipe_part_takes_classes_as_domains():
    labels = torch.tensor([7] * 80 + [3] * 20)
    sampler = temperature(TensorDataset(torch.zeros(100, 1), labels), None, seeded(), tau=math.inf)
    assert sampler.sizes.tolist() == [20, 80] and len(sampler) == 100
    seen = torch.cat([labels[torch.tensor(list(sampler))] for _ in range(20)])
    assert abs((seen == 3).double().mean().item() - 0.5) < 4 * 0.5 / 2000**0.5
    given = temperature(TensorDataset(torch.zeros(3, 1)), None, seeded(), domain_of=[0, 1, 1])
    assert given.sizes.tolist() == [1, 2]


def test_the_recipe_part_cools_down_after_its_epoch():
    data = TensorDataset(torch.zeros(1000, 1), domains(950, 50))
    sampler = temperature(data, None, seeded(), tau=math.inf, tau_end=1.0, cooldown_epoch=2)
    share = [sum(i >= 950 for i in sampler) / 1000 for _ in range(4)]
    assert min(share[:2]) > 0.4 and max(share[2:]) < 0.1


def test_it_is_registered_as_a_data_method():
    entry = lookup("temperature", "data")
    assert entry.target is temperature and set(entry.search) <= set(entry.settings())
