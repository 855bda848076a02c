"""The estimated time of a search."""

import pytest

from quantkit.config.choices import Stage
from quantkit.search.estimate import estimated_seconds


def test_estimate_grows_with_stages_and_times() -> None:
    everything = estimated_seconds(frozenset(Stage), 2.0, 10.0)
    assert everything == pytest.approx(estimated_seconds(frozenset(Stage) - {Stage.PRECISION}, 2.0, 10.0))
    assert everything == pytest.approx(2.0 * estimated_seconds(frozenset(Stage), 1.0, 5.0))
    assert 0.0 < estimated_seconds(frozenset({Stage.METHOD}), 2.0, 10.0) < everything
    assert estimated_seconds(frozenset(), 2.0, 10.0) == 0.0
