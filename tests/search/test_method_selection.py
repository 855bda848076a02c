"""Method auto: which of several methods is chosen, which are measured, and what is reported of each."""

import re
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from tune_models import minmax_ranges, small_images, small_model

from quantkit.config.method import Kl, Method, MinMax, Mse, Percentile
from quantkit.engine.scores import scores_of
from quantkit.evaluation.selection import closeness, without_mean_change
from quantkit.graph.analysis.values import add_constant
from quantkit.graph.qdq.plan import plan
from quantkit.graph.qdq.write import write_qdq
from quantkit.numerics import Range
from quantkit.search.method_selection import CANDIDATES, MethodSelection, select_method
from quantkit.targets import ORT

MODEL = small_model()
IMAGES = small_images(40, seed=3)
PLAN = plan(MODEL, ORT)
RIGHT = minmax_ranges(MODEL, PLAN.observed, small_images(60, seed=4))


def scaled(factor: float) -> dict[str, Range]:
    return {name: Range(one.lo * factor, one.hi * factor) for name, one in RIGHT.items()}


def select(factors: dict[Method, float], count: int = 40, **changed: Any) -> MethodSelection:
    """Compare methods whose ranges are the observed ones times a factor."""
    options: dict[str, Any] = {"corrected": True, "threads": 1} | changed
    return select_method(
        MODEL,
        list(factors),
        lambda method: scaled(factors[method]),
        lambda ranges: write_qdq(MODEL, PLAN, ranges),
        IMAGES[:count],
        **options,
    )


def outcomes(selection: MethodSelection) -> dict[str, str]:
    return {row["method"]: row["outcome"] for row in selection.rows()}


def test_select_method_nearest_to_fp32_is_chosen() -> None:
    found = select({Percentile(): 0.3, MinMax(): 6.0, Mse(): 1.0})
    assert found.method == Mse()
    assert outcomes(found) == {"percentile": "further", "minmax": "further", "mse": "chosen"}
    assert re.fullmatch(r"mse: nearest to fp32 on \d+ calibration images", found.reason)


def test_select_method_clearly_further_runs_first_images_only() -> None:
    found = select({Percentile(): 1.0, MinMax(): 200.0, Mse(): 1.03})
    images = {one.name: one.images for one in found.results}
    assert images["minmax"] == 8


def test_select_method_equally_near_gives_simplest() -> None:
    found = select({Percentile(): 1.0, MinMax(): 1.015, Mse(): 0.985})
    assert found.method == Percentile()
    assert set(outcomes(found).values()) <= {"chosen", "tied", "further"}


def test_select_method_nearly_equal_ranges_are_one_candidate() -> None:
    counts: list[tuple[int, int]] = []
    found = select({Percentile(): 1.0, MinMax(): 1.004, Mse(): 1.002}, progress=lambda *done: counts.append(done))
    assert outcomes(found) == {"percentile": "chosen", "minmax": "as percentile", "mse": "as percentile"}
    assert found.reason == "percentile: all methods give nearly equal ranges"
    assert counts == [(1, 1)]


def test_select_method_variant_of_further_method_is_not_tried() -> None:
    relay = Kl(definition="relay")
    tried, left_out = (
        {one.method: one for one in select({Percentile(): 1.0, Kl(): factor, relay: 1.06}).results}[relay]
        for factor in (1.03, 0.3)
    )
    assert tried.images >= 8
    assert (left_out.outcome, left_out.images, left_out.distance) == ("not tried", 0, None)


def test_select_method_non_finite_scores_are_further() -> None:
    def write(ranges):
        if ranges["input"].hi > 2.0 * RIGHT["input"].hi:
            return _infinite(write_qdq(MODEL, PLAN, ranges))
        return write_qdq(MODEL, PLAN, ranges)

    found = select_method(
        MODEL,
        [Percentile(), Mse()],
        lambda method: scaled(4.0 if method == Percentile() else 1.0),
        write,
        IMAGES[:8],
        corrected=True,
        threads=1,
    )
    assert found.method == Mse()
    assert (found.results[0].outcome, found.results[0].distance, found.results[0].sqnr_db) == ("further", None, None)


def _infinite(model):
    """Return the model with scores divided by zero."""
    output = model.graph.outputs[0]
    zero = add_constant(model.graph, "nothing", np.zeros((), np.float32))
    node = ir.node("Div", [output, zero], name="by_nothing")
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "infinite", output.type, output.shape
    model.graph.append(node)
    model.graph.outputs[0] = node.outputs[0]
    return model


@pytest.mark.parametrize("corrected", [True, False])
def test_select_method_figures_are_those_of_models(corrected: bool) -> None:
    factors: dict[Method, float] = {Percentile(): 1.0, Mse(): 1.6}
    found = select(factors, count=8, corrected=corrected)
    reference, distances = scores_of(MODEL, IMAGES[:8], threads=1), {}
    for method, factor in factors.items():
        wanted, scores = reference, scores_of(write_qdq(MODEL, PLAN, scaled(factor)), IMAGES[:8], threads=1)
        if corrected:
            wanted, scores = without_mean_change(wanted, scores)
        distances[method] = closeness(wanted, scores)
    for one in found.results:
        assert one.sqnr_db == pytest.approx(distances[one.method].sqnr_db, abs=1e-9)
        assert one.distance == pytest.approx(
            distances[one.method].distance / distances[found.method].distance, rel=1e-9
        )


def test_select_method_any_threads_give_same_choice() -> None:
    factors = dict(zip(CANDIDATES, (1.0, 1.2, 0.9, 0.7, 0.95, 0.85), strict=True))
    assert select(factors) == select(factors, threads=3)


def test_select_method_result_round_trips_through_json() -> None:
    found = select({Percentile(fraction=0.9999): 1.0, Kl(definition="relay"): 0.4, MinMax(): 1.001}, count=8)
    assert MethodSelection.from_json(found.to_json()) == found


def test_select_method_candidates_begin_with_method_used_without_images() -> None:
    assert CANDIDATES[0] == Percentile()
    assert len(set(CANDIDATES)) == len(CANDIDATES)
