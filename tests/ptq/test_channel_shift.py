"""Centering: the same function in other biases, and tensors of signed values that span less."""

import numpy as np
import pytest
from gradients import gradient_error
from hypothesis import given, settings
from hypothesis import strategies as st
from tune_models import linear_model, minmax_ranges, small_images, small_model, values_of

from quantkit.engine.scores import scores_of
from quantkit.evaluation.score_sqnr import score_sqnr_db
from quantkit.graph.qdq.plan import plan
from quantkit.graph.qdq.write import write_qdq
from quantkit.ptq.channel_shift import ChannelShiftNoise, best_channel_shifts, shift_channels
from quantkit.ptq.channel_statistics import channel_statistics
from quantkit.ptq.shift_groups import find_shift_groups, shifted
from quantkit.targets import ORT, VACC


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_shifted_by_any_shifts_keeps_function(seed) -> None:
    model, images = linear_model(seed % 5), small_images(4)
    found = find_shift_groups(model)
    shifts = np.random.default_rng(seed).normal(0.0, 3.0, found.free.size)
    before, after = (scores_of(one, images, threads=1) for one in (model, shifted(model, found, shifts)))
    assert np.abs(after - before).max() <= 1e-5 * max(1.0, float(np.ptp(before)))


def test_shifted_tensors_move_by_shifts() -> None:
    model, images = linear_model(), small_images(2)
    found = find_shift_groups(model)
    shifts = np.random.default_rng(3).normal(0.0, 1.0, found.free.size)
    other = shifted(model, found, shifts)
    names = ["a", "b", "c", "s", "m", "t", "x", "g", "e", "logits"]
    before, after = (values_of(one, names, images[0]) for one in (model, other))
    for name in names:
        offsets = found.offsets(name, shifts).reshape(-1, *[1] * (before[name].ndim - 2))
        np.testing.assert_allclose(after[name], before[name] - offsets, atol=2e-5, err_msg=name)


def test_find_shift_groups_frees_only_tensors_that_are_put_back() -> None:
    model = linear_model()
    found = find_shift_groups(model)
    names = [name for name, first in found.first.items() if found.free[first]]
    assert sorted(names) == sorted(node.name for node in model.graph if node.outputs[0].name in "abcx"), (
        "e, u and p are read by an activation, a gate or a product, g by a layer that pads, logits by nobody"
    )


def test_find_shift_groups_network_of_activations_has_none() -> None:
    model = small_model()
    assert not find_shift_groups(model).free.any()
    assert shift_channels(model, plan(model, ORT), channel_statistics(model, small_images(4), threads=1)) is None


def test_channel_shift_noise_gradient_equals_differences() -> None:
    model, images = linear_model(off=2.0), small_images(6)
    found, statistics = find_shift_groups(model), channel_statistics(model, images, threads=1)
    at = np.random.default_rng(5).uniform(-0.5, 0.5, found.free.size)
    for target in (ORT, VACC):
        objective = ChannelShiftNoise(model, plan(model, target), found, statistics)
        assert gradient_error(objective, at) < 1e-5


def test_best_channel_shifts_align_channels_of_lone_tensor() -> None:
    model, images = linear_model(off=4.0), small_images(24)
    found, statistics = find_shift_groups(model), channel_statistics(model, images, threads=1)
    shifts = best_channel_shifts(model, plan(model, ORT), found, statistics)
    before, offsets = statistics["x"], found.offsets("x", shifts)
    lo, hi = before.lo - offsets, before.hi - offsets
    widest = float((before.hi - before.lo).max())
    assert hi.max() - lo.min() < 1.05 * widest
    assert before.hi.max() - before.lo.min() > 1.2 * widest, "there was something to win"


@pytest.mark.parametrize("target", [ORT, VACC], ids=["ort", "vacc"])
def test_shift_channels_off_zero_lose_less(target) -> None:
    images, others = small_images(24), small_images(48, seed=8)
    model = linear_model(off=60.0)
    found = shift_channels(model, plan(model, target), channel_statistics(model, images, threads=2))
    assert found is not None
    reference = scores_of(model, others, threads=2)

    def sqnr(one) -> float:
        made = plan(one, target)
        return score_sqnr_db(
            reference, scores_of(write_qdq(one, made, minmax_ranges(one, made.observed, images)), others, threads=2)
        )

    assert sqnr(found) > sqnr(model) + 6.0
    assert sqnr(found) > sqnr(linear_model()) - 0.5, "all that was lost is won back"
