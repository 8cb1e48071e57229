import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg import registry
from thalweg.race import recipe as recipes
from thalweg.race.recipe import parse, parse_all
from thalweg.race.tuning import trial_settings

recipes.load_methods()

numbers = st.one_of(st.integers(-10, 10), st.floats(1e-8, 1e3), st.booleans(), st.none(), st.text(max_size=5))
values = st.one_of(numbers, st.tuples(numbers, numbers), st.lists(numbers, max_size=3))
optimizers = [name for name, method in recipes.raceable().items() if recipes.is_optimizer(method)]


@st.composite
def texts(draw):
    def part(name):
        allowed = recipes.allowed_settings(registry.lookup(name))
        keys = draw(st.lists(st.sampled_from(allowed), unique=True, max_size=2)) if allowed else []
        arguments = ", ".join(f"{key} = {draw(values)!r}" for key in keys)
        return f"{name}({arguments})" if keys or draw(st.booleans()) else name

    others = draw(st.lists(st.sampled_from(["orthogonal", "ghost_batch_norm", "gradient_noise", "el2n"]), unique=True))
    names = draw(st.permutations([draw(st.sampled_from(optimizers)), *others]))
    return draw(st.sampled_from([" + ", "+", "  +"])).join(map(part, names))


@given(texts())
@settings(max_examples=150, deadline=None)
def test_normalized_text_reads_back_as_the_same_recipe(text):
    recipe = parse(text)
    assert parse(recipe.name) == recipe
    assert parse(recipe.name).name == recipe.name
    assert [dict(part.fixed) for part in parse(recipe.name).parts] == [dict(part.fixed) for part in recipe.parts]


@given(st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_parses_or_raises_one_line(text):
    try:
        parse(text)
    except ValueError as error:
        assert "\n" not in str(error).replace(repr(text), "")


def test_normalizes_order_and_spacing():
    assert parse("orthogonal+lion( weight_decay=0.0,lr = 1e-3)").name == "lion(lr=0.001, weight_decay=0.0) + orthogonal"
    assert parse("orthogonal + adamw") == parse("adamw+orthogonal")


def test_fixed_settings_are_not_tuned():
    recipe = parse("lion(lr=0.001) + orthogonal")
    assert set(recipe.search_space()) == {"weight_decay", "gain"}
    optimizer = recipe.of_kind("optim")[0]
    assert recipe.settings_of(optimizer, {"weight_decay": 0.5, "gain": 2.0}) == {"lr": 0.001, "weight_decay": 0.5}
    assert recipe.settings_of(recipe.of_kind("init")[0], {"weight_decay": 0.5, "gain": 2.0}) == {"gain": 2.0}


def test_a_setting_of_two_parts_is_named_with_its_part(monkeypatch):
    noise = registry.Method("noise_of_test", "optim", lambda lr=0.1: None, {"lr": ("log", 1e-3, 1.0)})
    monkeypatch.setitem(registry._METHODS, "noise_of_test", noise)
    recipe = parse("lion + noise_of_test")
    assert set(recipe.search_space()) == {"lion.lr", "noise_of_test.lr", "weight_decay"}
    settings = {"lion.lr": 1.0, "noise_of_test.lr": 2.0, "weight_decay": 3.0}
    assert recipe.settings_of(recipe.parts[0], settings) == {"lr": 1.0, "weight_decay": 3.0}
    assert recipe.settings_of(recipe.parts[1], settings) == {"lr": 2.0}


def test_defaults_are_the_published_ones():
    assert parse("lion + orthogonal").defaults() == {"lr": 1e-4, "weight_decay": 0.0, "gain": 1.0}


def test_kinds():
    recipe = parse("adamw + gradient_noise + orthogonal + ghost_batch_norm + temperature")
    assert [part.kind for part in recipe.parts] == ["optim", "transform", "init", "nn", "data"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't read recipe"),
        ("adamw +", "can't read recipe"),
        ("adamw - lion", "can't read 'adamw - lion'"),
        ("adamw(0.1)", r"write a method's name or name\(setting=value, ...\)"),
        ("adamw(**x)", "can't read"),
        ("torch.optim.SGD(lr=1)", "can't read"),
        ("adanw", "unknown method 'adanw'; did you mean 'adamw'"),
        ("adamw(lrr=1)", r"unknown setting of adamw 'lrr'; did you mean 'lr'\? \(choose from betas"),
        ("adamw(lr=x)", "lr=x is not a plain value"),
        ("adamw(lr=__import__('os'))", "is not a plain value"),
        ("adamw(lr=1e999)", "is not a plain value"),
        ("adamw(params=1)", "unknown setting"),
        ("adamw(before=1)", "unknown setting"),
        ("adamw + lion", r"more than one optimizer \(adamw, lion\)"),
        ("orthogonal", "has no optimizer; add one"),
        ("adamw + orthogonal + orthogonal", "more than one initialization"),
        ("adamw + el2n + temperature", "more than one data selection"),
        ("adamw + gradient_noise + gradient_noise", "names 'gradient_noise' twice"),
        ("adamw(lr=1, lr=2)", "gives a setting twice"),
    ],
)
def test_mistakes_are_one_line(text, message):
    with pytest.raises(ValueError, match=message) as error:
        parse(text)
    assert "\n" not in str(error.value)


def test_every_recipe_once():
    with pytest.raises(ValueError, match="given twice"):
        parse_all(["adamw + orthogonal", "orthogonal+adamw"])
    with pytest.raises(ValueError, match="no recipe given"):
        parse_all([])


def test_methods_of_a_users_file_have_to_name_their_seam():
    def mine(model, lr=0.1): ...

    with pytest.raises(ValueError, match="seam='optim'"):
        registry.method("mine_of_test")(mine)


def test_a_range_in_the_text_is_searched_instead_of_the_declared_one():
    recipe = parse("lion(lr=log(1e-5, 0.1), weight_decay=0.0, betas=(0.9, 0.99))")
    assert recipe.search_space() == {"lr": ("log", 1e-5, 0.1)}
    assert recipe.defaults() == {"lr": 1e-4}
    assert recipe.settings_of(recipe.parts[0], {"lr": 0.02}) == {"lr": 0.02, "weight_decay": 0.0, "betas": (0.9, 0.99)}
    assert parse(recipe.name) == recipe


def test_a_setting_that_no_method_declares_can_be_searched():
    recipe = parse("sgd(lr=0.1, weight_decay=0.0, momentum=linear(0.5, 0.95), nesterov=choice(True, False))")
    assert recipe.search_space() == {"momentum": ("linear", 0.5, 0.95), "nesterov": ("choice", True, False)}
    assert parse(str(recipe)) == recipe
    drawn = trial_settings(recipe, 8)
    assert all(0.5 <= settings["momentum"] <= 0.95 for settings in drawn[1:])
    assert {settings["nesterov"] for settings in drawn} == {True, False}


def test_a_label_is_the_name_and_the_text_stays():
    recipe = parse("my lion 2: lion( lr =1e-3)+orthogonal")
    assert recipe.name == "my lion 2"
    assert str(recipe) == "my lion 2: lion(lr=0.001) + orthogonal"
    assert parse(str(recipe)) == recipe
    assert parse(str(recipe)).label == "my lion 2"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("adamw(lr=log(0.0, 1.0))", "is no range; give numbers above 0, the lower and the upper bound"),
        ("adamw(lr=log(1.0, 0.1))", "the lower and the upper bound"),
        ("adamw(lr=log(0.1))", "the lower and the upper bound"),
        ("adamw(lr=log(low=0.1, high=1))", "the lower and the upper bound"),
        ("adamw(lr=linear('a', 1))", "give numbers, the lower and the upper bound"),
        ("galore(rank=int(2.0, 8.0))", "give whole numbers, the lower and the upper bound"),
        ("galore(rank=choice(2))", "is no choice; give two or more"),
        ("adamw(betas=choice((0.9, 0.99), (0.9, 0.95)))", "is no choice"),
        ("adamw(lr=exp(1, 2))", "is not a plain value"),
        ("adamw(lr=log(1e-4, 1e999))", "is not a plain value"),
        ("adamw(rate=log(1e-4, 1.0))", "unknown setting of adamw"),
        ("adamw(lr=0.1, lr=log(1e-4, 1.0))", "gives a setting twice"),
        (": adamw", "can't read recipe"),
        ("a: b: adamw", "can't read recipe"),
    ],
)
def test_bad_ranges_and_labels_say_what_to_do(text, says):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_one_label_races_once():
    with pytest.raises(ValueError, match="'a' is given twice"):
        parse_all(["a: adamw", "a: lion"])


@pytest.mark.parametrize("texts", ["adamw", 5, None])
def test_recipes_come_in_a_list(texts):
    with pytest.raises(ValueError, match=r"recipes must be a list of strings such as \['adamw', 'lion'\], not"):
        parse_all(texts)


def test_a_recipe_is_a_string():
    with pytest.raises(ValueError, match="a recipe is a string such as 'adamw', not 1"):
        parse_all([1])
