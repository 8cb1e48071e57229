"""What a saved state must hold before an optimizer lets it replace its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thalweg.optim.engine.transform import Chain


def loadable(
    saved: dict[str, Any], groups: list[dict[str, Any]], rules: Mapping[str, Chain], name: str
) -> dict[str, Any]:
    """A saved state dict, checked; its groups that name no rule get those of the optimizer's own groups.

    Parameters without state may be among the others: they start anew, as they would have done.

    Args:
        saved: the state dict.
        groups: the optimizer's parameter groups.
        rules: its rules.
        name: what messages call it.

    Raises:
        ValueError: a rule that the optimizer hasn't, or a state without tensors or numbers that its rule needs.
    """
    given = saved["param_groups"]
    if [len(group["params"]) for group in given] != [len(group["params"]) for group in groups]:
        return saved  # torch says what is wrong
    ruled = [{**_rule(own), **group} for group, own in zip(given, groups, strict=True)]
    for group in ruled:
        rule = group.get("rule", next(iter(rules)))
        if rule not in rules:
            known = ", ".join(filter(None, rules)) or "one rule without a name"
            raise ValueError(
                f"can't load a group that follows the rule {rule!r} into {name}, which has {known}: "
                "load it into the class that it was saved from"
            )
        _rename(group, rules[rule])
        for number in group["params"]:
            _check_state(saved["state"].get(number), rules[rule], name)
    return {**saved, "param_groups": ruled}


def _rule(group: dict[str, Any]) -> dict[str, Any]:
    return {"rule": group["rule"]} if "rule" in group else {}


def _rename(group: dict[str, Any], chain: Chain) -> None:
    """Give hyper-parameters that were saved before a transform renamed them the names that they have here."""
    for transform in chain:
        for name, label in transform.names:
            if label not in group and name in group and name not in (*chain.hypers, "lr", "weight_decay"):
                group[label] = group.pop(name)


def _check_state(state: Mapping[str, Any] | None, chain: Chain, name: str) -> None:
    if not state:
        return
    keys = {*chain.state_keys(of_matrices=False), *chain.state_keys(of_matrices=True)}
    if chain.needs_step:
        keys.add("step")
    missing = sorted(key for key in keys if state.get(key) is None)
    if missing:
        raise ValueError(
            f"can't load a state without {', '.join(missing)} into {name}: load it into the class that it was saved from, "
            "or start anew with its groups alone, 'state': {}"
        )
