"""Networks that are legal and unusual: what a recipe cannot rescale or move it leaves, and none of them stops it."""

import numpy as np
import pytest
from tune_models import builder_of, model_of, photographs, weights

from quantkit.config.method import Mse
from quantkit.graph.qdq.plan import PlanOptions, plan
from quantkit.ptq.input_folding import LEVELS
from quantkit.ptq.shift_groups import find_shift_groups, shifted
from quantkit.search.recipe import Recipe, WeightCorrection
from quantkit.targets import ORT, VACC

TEXT = """
<ir_version: 8, opset_import: ["": 17]>
unusual (float[{batch}, 3, {size}, {size}] input) => (float[{batch}, 5] logits) {{
    a = Conv <pads = [1, 1, 1, 1]> (input, w1, b1)
    {middle}
    g = GlobalAveragePool(z)
    f = Flatten(g)
    {head}
}}
"""
HEAD = "logits = Gemm <transB = 1> (f, wl, bl)"
SHAPES: dict[str, tuple[int, ...]] = {"w1": (8, 3, 3, 3), "b1": (8,), "wl": (5, 8), "bl": (5,)}
EVERYTHING = Recipe(method=Mse(), channel_shift=True, equalization=1.0, correction=WeightCorrection.ROUNDING)
# Name: what lies between the first layer and the pool, the head, further weights, the batch and the size.
MODELS: dict[str, tuple[str, str, dict[str, tuple[int, ...]], str, str]] = {
    "slice of the last axis by its negative number": (
        "z = Identity(a)",
        """s0 = Constant <value_ints = [0]> ()  s1 = Constant <value_ints = [4]> ()
        ax = Constant <value_ints = [-1]> ()  s = Slice(f, s0, s1, ax)  logits = Gemm <transB = 1> (s, wl, bl)""",
        {"wl": (5, 4)},
        "N",
        "12",
    ),
    "clip of channels in an unknown place": (
        """t = Transpose <perm = [0, 2, 3, 1]> (a)  lo = Constant <value_float = 0.0> ()
        hi = Constant <value_float = 6.0> ()  c = Clip(t, lo, hi)  z = Transpose <perm = [0, 3, 1, 2]> (c)""",
        HEAD,
        {},
        "N",
        "H",
    ),
    "clip of integers": (
        """i = Cast <to = 7> (a)  lo = Constant <value_int = 0> ()  hi = Constant <value_int = 6> ()
        c = Clip(i, lo, hi)  z = Cast <to = 1> (c)""",
        HEAD,
        {},
        "N",
        "12",
    ),
    "products of matrices with channels last": (
        """sh = Constant <value_ints = [0, 8, 144]> ()  r = Reshape(a, sh)  t = Transpose <perm = [0, 2, 1]> (r)
        m = MatMul(t, wm)  mr = Relu(m)  n = MatMul(mr, wn)  u = Transpose <perm = [0, 2, 1]> (n)
        back = Constant <value_ints = [0, 8, 12, 12]> ()  z = Reshape(u, back)""",
        HEAD,
        {"wm": (8, 16), "wn": (16, 8)},
        "N",
        "12",
    ),
    "a bias for each image of the batch": ("z = Conv(a, w2)", HEAD, {"w2": (8, 8, 1, 1), "bl": (2, 5)}, "2", "12"),
    "a bias of rows alone": ("z = Conv(a, w2)", HEAD, {"w2": (8, 8, 1, 1), "bl": (2, 1)}, "2", "12"),
    "one bias for all": ("z = Conv(a, w2)", HEAD, {"w2": (8, 8, 1, 1), "bl": (1,)}, "N", "12"),
    "a condition whose branches read tensors from outside": (
        """z1 = Conv(a, w2)  sum = ReduceSum <keepdims = 0> (input)  zero = Constant <value_float = 0.0> ()
        c = Less(sum, zero)
        z = If(c) <then_branch = yes () => (float[N, 8, 12, 12] t) { t = Neg(z1) },
                   else_branch = no () => (float[N, 8, 12, 12] e) { e = Relu(z1) }>""",
        HEAD,
        {"w2": (8, 8, 1, 1)},
        "N",
        "12",
    ),
    "a sum of unlike ranks": (
        """p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
        q = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (p, w3)
        o = Conv <kernel_shape = [3, 3]> (q, w4)  row = Flatten(o)
        d = Conv(a, w6)  e = Conv(d, w5)  z = Add(e, row)""",
        HEAD,
        {"w3": (8, 8, 3, 3), "w4": (8, 8, 3, 3), "w5": (8, 8, 1, 5), "w6": (8, 8, 1, 1)},
        "1",
        "12",
    ),
    "padding with a constant": (
        """ar = Relu(a)  pads = Constant <value_ints = [0, 0, 1, 1, 0, 0, 1, 1]> ()
        v = Constant <value_float = -3.0> ()  p = Pad(ar, pads, v)  z = Conv(p, w2)""",
        HEAD,
        {"w2": (8, 8, 3, 3)},
        "N",
        "12",
    ),
}


def unusual(name: str):
    """Return a model, and images for it."""
    middle, head, further, batch, size = MODELS[name]
    model = model_of(
        TEXT.format(middle=middle, head=head, batch=batch, size=size),
        weights(np.random.default_rng(0), SHAPES | further),
    )
    images = [photographs(24, seed=seed) for seed in (1, 5)]
    if batch == "2":
        images = [[np.concatenate(pair) for pair in zip(some[::2], some[1::2], strict=True)] for some in images]
    return model, images


@pytest.mark.parametrize("target", [ORT, VACC], ids=["ort", "vacc"])
@pytest.mark.parametrize("name", MODELS)
def test_recipes_of_unusual_model_come_near_to_fp32(name: str, target) -> None:
    model, (work, others) = unusual(name)
    builder, selection = builder_of(model, target, work=work, others=others)
    plain, everything = (
        selection.closeness(builder.make(recipe).int8).sqnr_db
        for recipe in (Recipe(method=Mse(), correction=WeightCorrection.NONE), EVERYTHING)
    )
    assert min(plain, everything) > 25.0


def test_shift_groups_sum_of_unlike_ranks_hands_on_no_offsets() -> None:
    """Its operands meet at the last axis, not channel by channel."""
    model, (work, others) = unusual("a sum of unlike ranks")
    _, selection = builder_of(model, work=work, others=others)
    found = find_shift_groups(model)
    assert found.free.any()
    assert selection.largest_change(shifted(model, found, np.random.default_rng(0).normal(size=found.free.size))) < 1e-5


@pytest.mark.parametrize("place", ["node", "tensor"])
def test_takes_levels_model_with_reserved_name_is_refused(place: str) -> None:
    model, (work, others) = unusual("one bias for all")
    node = model.graph[0]
    if place == "node":
        node.name = LEVELS
    else:
        node.outputs[0].name = LEVELS
    builder, selection = builder_of(model, work=work, others=others)
    assert builder.levels is None
    assert selection.closeness(builder.make(EVERYTHING).int8).sqnr_db > 25.0


def test_plan_skipped_absorbed_activation_keeps_observed_tensors() -> None:
    model, _ = unusual("padding with a constant")
    whole, skipped = (plan(model, ORT, PlanOptions(skip=rules)) for rules in ((), ("ar",)))
    assert skipped.observed == whole.observed
    with_its_layer = plan(model, ORT, PlanOptions(skip=("a", "ar")))
    assert "a" not in {layer.node for layer in with_its_layer.layers}
