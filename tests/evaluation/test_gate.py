"""The --fail-if grammar, and what it does with intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.errors import GateError, UsageError
from quantkit.evaluation.gate import FIGURES, Term, parse_gate
from quantkit.evaluation.predictions import Predictions
from quantkit.evaluation.result import EvaluatedModel, compare_models


def comparison(lost, *, images=1000, labels=True, kl=None):
    """A candidate that loses so many of the reference's images; all others are right in both."""
    names = [str(i) for i in range(images)]
    truth = np.zeros(images, np.int64) if labels else None
    wrong = np.eye(2)[(np.arange(images) < lost).astype(int)]
    given_by = [Predictions.from_scores(scores, names, truth) for scores in (np.eye(2)[[0] * images], wrong)]
    return compare_models(
        [
            EvaluatedModel(name="fp32", predictions=given_by[0], bytes=100),
            EvaluatedModel(name="int8", predictions=given_by[1], bytes=30, kl=kl),
        ]
    )


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("top1_drop > 0.5", True),
        ("top1_drop > 0.6", False),
        ("top1_drop >= 0.6", True),
        ("top1_drop>.5", True),
        ("agreement < 99.5 and top1_drop > 0.5", True),
        ("agreement < 99 and top1_drop > 0.5", False),
        ("top1 <= 9.94e1", True),
        ("bytes > 30", False),
        ("mcnemar_p < 0.05", True),
    ],
)
def test_a_condition_fails_the_comparison_where_it_holds(text, fails):
    gate = parse_gate(text)
    if fails:
        with pytest.raises(GateError, match="int8: "):
            gate.check(comparison(6))
    else:
        gate.check(comparison(6))


def test_the_message_names_model_figure_and_interval():
    with pytest.raises(
        GateError, match=r'--fail-if "top1_drop > 0.5": int8: top1_drop is 0.6 \[0.2[0-9]+, 1.30[0-9]*\]'
    ) as caught:
        parse_gate("top1_drop > 0.5").check(comparison(6))
    assert caught.value.exit_code == 20


def test_confident_asks_the_whole_interval():
    """Six of 1,000 lost: 0.6 points, but the interval reaches down to 0.2."""
    parse_gate("top1_drop > 0.5", confident=True).check(comparison(6))
    with pytest.raises(GateError, match="top1_drop is 3"):
        parse_gate("top1_drop > 0.5", confident=True).check(comparison(30))
    parse_gate("agreement < 99.5", confident=True).check(comparison(6))
    with pytest.raises(GateError, match="agreement is 97"):
        parse_gate("agreement < 99.5", confident=True).check(comparison(30))


def test_confident_needs_an_interval():
    with pytest.raises(UsageError, match="--fail-if: bytes has no interval; leave out --confident"):
        parse_gate("bytes > 10", confident=True).check(comparison(6))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("kl > 0.1", "kl of int8 was not measured; measure it or leave it out"),
        ("top1_drop > 0.5", "top1_drop of int8 was not measured; give the labels"),
        # Asked before the first term decides: a gate that cannot be checked must not pass.
        ("agreement < 0 and latency_ms > 3", "latency_ms of int8 was not measured"),
    ],
)
def test_what_was_not_measured_cannot_be_asked_for(text, match):
    with pytest.raises(UsageError, match=match):
        parse_gate(text).check(comparison(6, labels=False))


@pytest.mark.parametrize(
    "text",
    ["", "top1_drop", "top1_drop > ", "0.5 < top1_drop", "top1_drop > 1 or kl > 1", "top1_drop == 1", "top1_drop > x",
     "top1_drop > 1 and", "top1_drop > 1, kl > 1", "top1_drop > __import__('os')", "top1_drop > nan", "top1_drop > 1%"],
)  # fmt: skip
def test_what_does_not_follow_the_grammar_is_refused(text):
    with pytest.raises(UsageError, match=r"--fail-if: cannot read .* write NAME OP NUMBER"):
        parse_gate(text)


def test_an_unknown_figure_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="there is no figure 'top1_loss'; choose one of top1_drop, top5_drop"):
        parse_gate("top1_loss > 1")


terms = st.builds(
    Term, st.sampled_from(FIGURES), st.sampled_from([">", ">=", "<", "<="]), st.integers(-100, 100).map(float)
)


@given(st.lists(terms, min_size=1, max_size=4))
def test_a_condition_reads_back_as_it_is_written(given_terms):
    text = " and ".join(map(str, given_terms))
    gate = parse_gate(text)
    assert list(gate.terms) == given_terms
    assert str(gate) == text


def test_divergence_has_an_interval():
    kl = np.random.default_rng(0).exponential(0.1, 1000)
    with pytest.raises(GateError, match="kl is 0"):
        parse_gate("kl > 0.05", confident=True).check(comparison(6, kl=kl))
