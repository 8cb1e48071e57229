import dataclasses
import json
from pathlib import Path

import pytest

from thalweg.race.records import RaceResult
from thalweg.report.intervals import ratio_forest
from thalweg.report.table import race_table
from thalweg.report.words import FALSE_WORDS, answers, headline, method_points, reasons, target_text


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


def test_a_budget_in_seconds_is_told_in_seconds(race: RaceResult) -> None:
    rows = [dataclasses.replace(row) for row in race.recipes]
    lost = next(row for row in rows if row.name == "muon")
    lost.steps_ratio = lost.steps_ratio_ci = None
    lost.reason = "no ratio of steps, for the clock ended 2 runs before the target"
    timed = dataclasses.replace(race, recipes=rows, budget={"seconds": 2.0})
    assert "the whole interval of the seconds ratio" in method(timed)["The words"]
    assert "no ratio of steps is given" in method(timed)["Ratios and intervals"]
    assert "no ratio of steps is given" not in method(race)["Ratios and intervals"]
    said = {a.name: "".join(text for text, _ in a.sentence) for a in answers(timed)}
    assert "× the seconds" in said["muon"] and "× the steps" not in said["muon"]
    assert said["muon"].endswith("; no ratio of steps, for the clock ended 2 runs before the target.")
    assert said["sgd"].index("× the seconds") < said["sgd"].index("× the steps")
    ratios = [row.seconds_ratio for row in (timed.recipes[0], *timed.recipes[1:]) if row.seconds_ratio is not None]
    order = [a.name for a in answers(timed)[1:]]
    by_name = {row.name: row.seconds_ratio for row in rows}
    assert [by_name[name] for name in order] == sorted(ratios)
    assert "muon: no ratio of steps" in (ratio_forest(timed, "steps").description or "")
    assert "verdicts from seconds" in str(race_table(timed).caption) and lost.reason in str(race_table(timed).caption)


def test_why_nothing_is_compared(race: RaceResult) -> None:
    rows = [dataclasses.replace(row, reason="the baseline did not improve on seed 3") for row in race.recipes[:3]]
    for row in rows[1:]:
        row.verdict, row.steps_ratio, row.seconds_ratio = "no comparison", None, None
    result = dataclasses.replace(race, recipes=rows)
    assert headline(result).endswith(" can’t be compared with adamw: the baseline did not improve on seed 3.")
    assert [a.sentence[0][0] for a in answers(result)] == [
        "Nothing can be compared with it: the baseline did not improve on seed 3.",
        *["No comparison: the baseline did not improve on seed 3."] * 2,
    ]
    assert reasons(result) == [
        f"{rows[0].name}, {rows[1].name} and {rows[2].name}: the baseline did not improve on seed 3"
    ]
    rows[1].verdict = rows[2].verdict = "failed"
    assert headline(result) == f"No run of {rows[1].name} and {rows[2].name} finished."


def test_the_rates_of_false_words_are_the_measured_ones(race: RaceResult, races: dict[str, RaceResult]) -> None:
    measured = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "calibration.json").read_text())
    rows_of = {
        "steps": [row for row in measured["rows"] if row["method"] == "race"],
        "seconds": measured["timed"]["rows"],
    }
    for decides, rows in rows_of.items():
        for several, kind in ((False, "A/A"), (True, "A/A, 5 copies")):
            equal = [row for row in rows if row["race"] == kind]
            rates = [row["rate"] for row in equal]
            found = (min(rates), max(rates), max(row["rate_ci"][1] for row in equal))
            assert FALSE_WORDS[decides][several] == pytest.approx(found, abs=5e-5)
    assert "it was 0.0% to 4.2%, and with the measurement’s own error up to 5.2%" in method(race)["The words"]
    assert (
        "it was 1.7% to 5.4%, and with the measurement’s own error up to 6.5%"
        in method(races["no tuning"])["The words"]
    )
    assert "at most 5%" not in " ".join(method(race).values())
