"""`quantkit.plots` draws the figures of the results it is given."""

import subprocess
import sys

import numpy as np
import pytest

import quantkit
from quantkit.evaluation.compare_models import EvaluatedModel, compare_models
from quantkit.evaluation.drift import TensorDrift
from quantkit.evaluation.predictions import Predictions
from quantkit.numerics import Range
from quantkit.sensitivity.result import Figures, LayerSensitivity, Sensitivity
from quantkit.stats.convergence import ConvergencePoint
from quantkit.stats.cut_ranges import expected_sqnr_db
from quantkit.stats.observer import Observer

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'quantkit[notebooks]'")
import matplotlib
from matplotlib.patches import Rectangle, StepPatch

matplotlib.use("agg")

plots = quantkit.plots


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def drift_of(name, sqnr_db):
    channels = np.asarray([sqnr_db, sqnr_db + 2.0])
    return TensorDrift(
        name=name, op_type="Conv", elements=10, images=5, image_share=0.2, sqnr_db=sqnr_db, worst_channel=0,
        worst_channel_sqnr_db=sqnr_db, max_err=0.1, max_err_steps=2.0, cosine=0.99, clipped=0.0, range_used=1.0,
        levels_used=200, collapsed=False, channel_sqnr_db=channels, channel_bias=np.asarray([0.05, -0.1]), scale=0.05,
    )  # fmt: skip


@pytest.fixture
def models():
    labels, names = np.asarray([0, 1, 0, 1]), [f"{i}.png" for i in range(4)]
    right, wrong = np.eye(2)[[0, 1, 0, 1]] * 4.0, np.eye(2)[[0, 1, 1, 1]] * 4.0
    accumulated = tuple(drift_of(name, db) for name, db in (("a", 40.0), ("b", 30.0), ("c", 25.0)))
    isolated = tuple(drift_of(name, db) for name, db in (("a", 41.0), ("b", 31.0), ("c", 39.0)))
    return [
        EvaluatedModel(name="fp32", predictions=Predictions.from_scores(right, names, labels)),
        EvaluatedModel(
            name="int8", predictions=Predictions.from_scores(wrong, names, labels), tensors=accumulated, layers=isolated
        ),
        EvaluatedModel(name="kl", predictions=Predictions.from_scores(right, names[:], labels), layers=isolated),
    ]


@pytest.fixture
def comparison(models):
    return compare_models(models)


@pytest.fixture
def tensor():
    observer = Observer()
    observer.observe(np.random.default_rng(0).normal(size=100_000).astype(np.float32))
    return observer.statistics()


def test_drift_plots_accumulated_isolated_and_the_worst_layers(comparison):
    ax = plots.drift(comparison)
    lines = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in ax.get_lines()}
    assert lines["accumulated"] == [40.0, 30.0, 25.0]
    assert lines["isolated"] == [41.0, 31.0, 39.0]
    assert lines["1. b"] == [31.0]


def test_drift_of_an_unmeasured_or_unknown_model_is_refused(comparison):
    with pytest.raises(quantkit.QuantkitError, match="the drift of kl was not measured"):
        plots.drift(comparison, "kl")
    with pytest.raises(quantkit.QuantkitError, match="no candidate 'int4'; choose one of int8, kl"):
        plots.drift(comparison, "int4")


def test_isolated_drift_has_one_line_per_model(comparison):
    ax = plots.isolated_drift(comparison)
    assert [line.get_label() for line in ax.get_lines()] == ["int8", "kl"]


def test_accuracy_plots_value_and_interval_of_each_candidate(comparison):
    ax = plots.accuracy(comparison)
    delta = comparison.candidates[0].versus.top1
    assert np.asarray(ax.get_lines()[0].get_xdata()).tolist() == [delta.ci95.lo, delta.ci95.hi]
    assert np.asarray(ax.get_lines()[1].get_xdata()).tolist() == [delta.value] == [-25.0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["int8", "kl"]


def test_channel_bias_is_in_steps():
    ax = plots.channel_bias(drift_of("a", 30.0))
    assert [bar.get_height() for bar in ax.patches if isinstance(bar, Rectangle)] == pytest.approx([1.0, -2.0])
    assert ax.get_ylabel() == "mean error, steps"
    assert len(plots.channel_sqnr(drift_of("a", 30.0), drift_of("a", 20.0)).get_lines()) == 2


def test_histogram_holds_all_values_and_the_ranges(tensor):
    ax = plots.histogram(tensor, {"narrow": Range(-1.0, 1.0)}, title="x")
    # A bin without values is drawn at 0.5, the base of the logarithmic axis.
    [steps] = ax.patches
    assert isinstance(steps, StepPatch)
    counts, _, _ = steps.get_data()
    assert counts[counts > 0.5].sum() == pytest.approx(100_000)
    assert [np.asarray(line.get_xdata())[0] for line in ax.get_lines()] == [-1.0, 1.0]


def test_range_widths_are_relative_to_minmax():
    ranges = {"minmax": {"a": Range(-2.0, 2.0), "b": Range(0.0, 0.0)}, "kl": {"a": Range(-1.0, 1.0), "b": Range(0, 0)}}
    ax = plots.range_widths(ranges)
    assert [np.asarray(line.get_ydata()).tolist() for line in ax.get_lines()] == [[1.0], [0.5]]
    with pytest.raises(quantkit.QuantkitError, match="no ranges of 'mse'; choose one of minmax, kl"):
        plots.range_widths(ranges, relative_to="mse")


@pytest.mark.parametrize("target", [quantkit.ORT, quantkit.VACC], ids=["ort", "vacc"])
def test_expected_sqnr_is_that_of_the_quantized_values(tensor, target):
    """Against numpy on the values themselves: the histogram's bins are 2^-10 of a value wide."""
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    chosen = Range(-3.0, 3.0)
    qparams = target.activations.qparams(chosen)
    scale, zero = float(qparams.scale), int(qparams.zero_point)
    rounded = scale * (np.clip(np.rint(values / scale) + zero, qparams.qmin, qparams.qmax) - zero)
    exact = 10 * np.log10((values**2).sum() / ((rounded - values) ** 2).sum())
    assert expected_sqnr_db(tensor, chosen, target) == pytest.approx(exact, abs=0.05)


def test_expected_sqnr_of_the_best_method_is_zero(tensor):
    ranges = {"wide": {"a": Range(-40.0, 40.0)}, "good": {"a": Range(-4.0, 4.0)}}
    wide, good = plots.expected_sqnr({"a": tensor}, ranges).get_lines()
    assert np.asarray(good.get_ydata()).tolist() == [0.0]
    assert np.asarray(wide.get_ydata())[0] < -12.0


def test_convergence_plots_percent_of_the_width():
    points = [ConvergencePoint(16, {"kl": 0.2}, {"kl": "a"}), ConvergencePoint(32, {"kl": 0.05}, {"kl": "a"})]
    assert np.asarray(plots.convergence(points).get_lines()[0].get_ydata()).tolist() == [20.0, 5.0]
    with pytest.raises(quantkit.QuantkitError, match="contain no convergence"):
        plots.convergence(())


def test_agreement_is_in_percent_of_the_images(models):
    image = plots.agreement(models).get_images()[0].get_array()
    assert image[0].tolist() == [100.0, 75.0, 100.0]


def test_confidence_separates_same_and_other_classes(models):
    ax = plots.confidence(models[0], models[1])
    assert [line.get_label() for line in ax.get_lines()[1:]] == ["same class (3)", "another class (1)"]


def test_sensitivity_plots_noise_added_and_removed():
    def figures(share):
        return Figures(sqnr_db=30.0, kl=0.1, share=share, accuracy=None)

    layers = tuple(
        LayerSensitivity(node=name, op_type="Conv", conv_index=None, macs=1, macs_share=0.5, isolated=figures(a),
                         leave_one_out=figures(b))
        for name, a, b in (("one", 0.5, 0.25), ("two", 0.1, -0.05))
    )  # fmt: skip
    found = Sensitivity(model="net", target="ort", method="kl", by="only", images=3, source="images", macs=2, top1=None,
                        whole=figures(1.0), layers=layers, notes=())  # fmt: skip
    ax = plots.sensitivity(found)
    widths = [bar.get_width() for bar in ax.patches if isinstance(bar, Rectangle)]
    assert widths == pytest.approx([50.0, 10.0, 25.0, -5.0])
    assert len(plots.sensitivity(found, count=1).patches) == 2
    assert Sensitivity.from_json(found.to_json()) == found
    assert "two" in found._repr_html_()


def test_plots_draw_into_given_axes(comparison):
    import matplotlib.pyplot as plt

    _, axes = plt.subplots()
    assert plots.drift(comparison, ax=axes) is axes


def test_comparison_in_a_notebook_is_a_table_with_escaped_names(comparison, models):
    assert "<td>int8</td>" in comparison._repr_html_()
    models[1] = EvaluatedModel(name="<b>", predictions=models[1].predictions)
    assert "<td>&lt;b&gt;</td>" in compare_models(models)._repr_html_()


def test_plots_without_matplotlib_name_the_extra():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import quantkit\n"
        "from quantkit.stats.convergence import ConvergencePoint\n"
        "try: quantkit.plots.convergence([ConvergencePoint(1, {}, {})])\n"
        "except quantkit.QuantkitError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "plots need matplotlib; pip install 'quantkit[notebooks]'"
