"""The story about alerts hurries the rules and weakens none of them."""

from __future__ import annotations

import re

import yaml

from tests.support.prometheus import RULES, SHORT_ENOUGH, hurried, metrics_of


def test_only_waits_spans_and_the_seconds_named_are_shortened() -> None:
    text = (RULES / "alerts.yml").read_text()
    old_groups, new_groups = (yaml.safe_load(t)["groups"] for t in (text, hurried(text)))
    changed = 0
    for before, after in zip(old_groups, new_groups, strict=True):
        for old, new in zip(before["rules"], after["rules"], strict=True):
            spans = re.compile(r"\[\w+\]")
            plain_old, plain_new = (spans.sub("[]", rule["expr"]) for rule in (old, new))
            changed += plain_old != plain_new
            assert metrics_of(old["expr"]) == metrics_of(new["expr"])
            assert re.sub(r"> \d+$", "", plain_old) == re.sub(r"> \d+$", "", plain_new)
    assert changed == len(SHORT_ENOUGH)
