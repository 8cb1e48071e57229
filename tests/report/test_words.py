import dataclasses

import pytest

from thalweg.race.records import RaceResult
from thalweg.report.words import answers, headline, method_points, target_text


def method(result: RaceResult) -> dict[str, str]:
    return dict(method_points(result))


def test_the_headline_repeats_the_verdicts_and_nothing_else(race: RaceResult) -> None:
    rows = [dataclasses.replace(row, verdict="no difference shown") for row in race.recipes]
    rows[0].verdict = "baseline"
    assert headline(dataclasses.replace(race, recipes=rows)) == "No difference from adamw was shown for 5 recipes."
    rows[1].verdict = "faster"
    rows[5].verdict = "slower"
    text = headline(dataclasses.replace(race, recipes=rows))
    assert text.startswith("muon is faster than adamw; sgd is slower; no difference was shown for ")


def test_one_sentence_a_recipe_with_ratio_and_interval(race: RaceResult) -> None:
    found = answers(race)
    assert len(found) == len(race.recipes) and found[0].name == race.baseline
    row = next(row for row in race.recipes if row.name == "muon")
    sentence = next("".join(text for text, _ in a.sentence) for a in found if a.name == "muon")
    assert row.steps_ratio is not None and row.steps_ratio_ci is not None
    low, high = row.steps_ratio_ci
    assert f"{row.steps_ratio:.2f} × the steps (interval {low:.2f} to {high:.2f})" in sentence


def test_what_went_wrong_stands_beside_the_ratio(race: RaceResult) -> None:
    asides = {answer.name: answer.aside for answer in answers(race)}
    assert "1 diverged" in asides["lamb"] and "4 of 5 runs reached the target" in asides["lamb"]
    assert "1 failed" in asides["sgd"] and asides["muon"] == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [("one recipe", "adamw ran alone"), ("one seed", "Too few seeds for a verdict on lion")],
)
def test_races_without_a_comparison_say_so(races: dict[str, RaceResult], name: str, words: str) -> None:
    assert words in headline(races[name])


def test_no_run_finished(races: dict[str, RaceResult]) -> None:
    lion = answers(races["all killed"])[1]
    assert lion.sentence == [("No comparison: none of its 5 fresh runs finished.", False)]


def test_the_method_follows_the_records(race: RaceResult, races: dict[str, RaceResult]) -> None:
    points = method(race)
    assert "12 settings" in points["Equal tuning"] and "edge of the searched range" in points["Equal tuning"]
    assert "5 new seeds (1, 2, 3, 4, 5). None of them was used in tuning." in points["Fresh, paired seeds"]
    assert "Holm" in points["The words"] and "5 recipes" in points["The words"]
    assert "lamb (4 of 5)" in points["Runs that never got there"]
    assert race.target_rule in points["What is timed"]
    assert "No recipe was tuned" in method(races["no tuning"])["Equal tuning"]
    assert (
        "Holm" not in method(races["one seed"])["The words"]
        and "95% interval" in method(races["one seed"])["The words"]
    )


def test_a_seed_that_was_tuned_on_is_reported(race: RaceResult) -> None:
    runs = [dataclasses.replace(run, seed=3) if run.phase == "tune" else run for run in race.runs]
    text = method(dataclasses.replace(race, runs=runs))["Fresh, paired seeds"]
    assert "tuning used 3 too" in text and "None of them" not in text


def test_the_target_names_its_direction(race: RaceResult, races: dict[str, RaceResult]) -> None:
    assert target_text(race).startswith("accuracy ≥ ")
    assert target_text(races["error goes down"]).startswith("error ≤ ")
    assert target_text(races["all killed"]) == "no target for accuracy"
