"""Zero padding taken over by the convolution behind it."""

import numpy as np
import pytest
from graph_runs import run, text_model

from quantkit.graph.passes.spatial import fold_pad

CONV = "y = Conv <kernel_shape = [3, 3], pads = [1, 0, 0, 1]> (p, w)"


def model_of(body, out="N, 6, A, B", **constants):
    if ", w)" in body:
        constants["w"] = np.random.default_rng(5).normal(size=(6, 4, 3, 3)).astype(np.float32)
    return text_model(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 4, 7, 7] x) => (float[{out}] y) {{ {body} }}""",
        **constants,
    )


ASYMMETRIC = np.array([0, 0, 0, 1, 0, 0, 2, 3], np.int64)


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        (f"p = Pad (x, pads) {CONV}", {"pads": ASYMMETRIC}),
        (f"p = Pad (x, pads, zero) {CONV}", {"pads": ASYMMETRIC, "zero": np.float32(0)}),
        (
            f"p = Pad (x, pads, zero, axes) {CONV}",
            {"pads": np.array([0, 1, 2, 3], np.int64), "zero": np.float32(0), "axes": np.array([-2, -1], np.int64)},
        ),
    ],
    ids=["without value", "value zero", "with axes"],
)
def test_fold_pad_pass_folds_into_conv(body, constants, rng):
    model = model_of(body, **constants)
    x = rng.normal(size=(2, 4, 7, 7)).astype(np.float32)
    before = run(model, x)
    fold_pad(model)
    (conv,) = model.graph
    assert conv.attributes["pads"].as_ints() == (1, 1, 2, 4)
    np.testing.assert_allclose(run(model, x), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("include", [0, 1])
def test_fold_pad_pass_average_pool_counts_zeros_as_before(include, rng):
    pool = f"y = AveragePool <kernel_shape = [3, 3], count_include_pad = {include}> (p)"
    model = model_of(f"p = Pad (x, pads) {pool}", "N, 4, A, B", pads=np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    x = rng.normal(size=(2, 4, 7, 7)).astype(np.float32)
    before = run(model, x)
    fold_pad(model)
    assert len(model.graph) == 1
    np.testing.assert_allclose(run(model, x), before, rtol=1e-6, atol=1e-6)


LEFT_ALONE = {
    "another value": (f"p = Pad (x, pads, one) {CONV}", {"pads": ASYMMETRIC, "one": np.float32(1)}),
    "reflected": (f'p = Pad <mode = "reflect"> (x, pads) {CONV}', {"pads": ASYMMETRIC}),
    "cropped": (f"p = Pad (x, pads) {CONV}", {"pads": np.array([0, 0, -1, 1, 0, 0, 1, 1], np.int64)}),
    "automatic padding": (
        'p = Pad (x, pads) y = Conv <kernel_shape = [3, 3], auto_pad = "SAME_UPPER"> (p, w)',
        {"pads": ASYMMETRIC},
    ),
    "a pool that pads itself": (
        "p = Pad (x, pads) y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (p)",
        {"pads": ASYMMETRIC},
    ),
    "read by an addition too": (
        "p = Pad (x, pads) c = Conv <kernel_shape = [1, 1]> (p, v) y = Add (c, p)",
        {"pads": ASYMMETRIC, "v": np.random.default_rng(6).normal(size=(4, 4, 1, 1)).astype(np.float32)},
    ),
}


@pytest.mark.parametrize(("body", "constants"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_fold_pad_pass_leaves_other_nodes_alone(body, constants):
    out = "N, 4, A, B" if ", w)" not in body else "N, 6, A, B"
    assert not fold_pad(model_of(body, out, **constants))


def test_fold_pad_pass_padded_channels_are_left_alone(rng):
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 2, 7, 7] x) => (float[N, 6, 7, 7] y) {
          p = Pad (x, pads)
          y = Conv <kernel_shape = [1, 1]> (p, v)
        }""",
        pads=np.array([0, 1, 0, 0, 0, 1, 0, 0], np.int64),
        v=rng.normal(size=(6, 4, 1, 1)).astype(np.float32),
    )
    assert not fold_pad(model)
