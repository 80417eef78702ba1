"""What the demo's report says."""

from __future__ import annotations

import json

import pytest

from loom.demo import live_version

ROW = {"adapter": "x", "version": 1, "sha256": "0", "base_epoch": 1, "verdict": "passed"}


@pytest.mark.parametrize(
    ("task", "metric", "others"),
    [("tool", "call_accuracy", ("bad_calls", "irrelevance_accuracy")), ("chat", "token_f1", ("token_f1_open_book",)), ("classify", "macro_f1", ()), ("extract", "entity_f1", ())],
)
def test_a_version_is_told_by_the_metric_of_its_task_in_whatever_order_they_are(task: str, metric: str, others: tuple[str, ...]) -> None:
    values = {name: value for other in others for name, value in ((other, 0.1), (f"base_{other}", 0.2))} | {f"base_{metric}": 0.4, metric: 0.8}
    for metrics in (values, dict(reversed(values.items())), dict(sorted(values.items(), key=lambda item: (len(item[0]), item[0])))):
        told = live_version({**ROW, "metrics": json.dumps(metrics)}, task)
        assert (told["metric"], told["value"], told["base_value"]) == (metric, 0.8, 0.4)
