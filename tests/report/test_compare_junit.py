"""JUnit XML of gates, read back by junitparser, which we did not write."""

import junitparser
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.errors import ModelError
from quantkit.evaluation.compare_models import EvaluatedModel, compare_models
from quantkit.evaluation.gate import parse_gate
from quantkit.evaluation.junit import error_report, junit_xml
from quantkit.evaluation.predictions import Predictions


def comparison(name="int8"):
    """A candidate that answers as the reference does."""
    predictions = Predictions.from_scores(np.eye(2)[[0, 0]], ["a", "b"], np.zeros(2, np.int64))
    return compare_models(
        [
            EvaluatedModel(name="the reference", predictions=predictions, bytes=100),
            EvaluatedModel(name=name, predictions=predictions, bytes=30),
        ]
    )


def read(text):
    """The only suite of a document."""
    (suite,) = junitparser.JUnitXml.fromstring(text.encode())
    return suite


def test_junit_holds_a_case_for_each_verdict():
    result = comparison()
    gates = [parse_gate(text) for text in ("bytes > 10", "agreement < 50", "top1_drop > 0.5 or bytes >= 30")]
    verdicts = [verdict for gate in gates for verdict in gate.verdicts(result)]
    suite = read(junit_xml(result, verdicts))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (3, 2, 0, 0)
    assert {one.name: one.value for one in suite.properties()} == {"reference": "the reference", "images": "2"}
    cases = list(suite)
    assert [case.is_passed for case in cases] == [False, True, False]
    assert cases[0].name == 'int8: --fail-if "bytes > 10"'
    (failure,) = cases[0].result
    assert isinstance(failure, junitparser.Failure)
    assert (failure.message, failure.type) == ("int8: bytes is 30", "GateError")


@given(st.text(st.characters(codec=None), min_size=1))
def test_junit_is_well_formed_for_any_model_name(name):
    result = comparison(f"candidate {name}")
    suite = read(junit_xml(result, parse_gate("bytes > 10").verdicts(result)))
    assert suite.tests == 1


def test_junit_of_a_failed_comparison_is_an_error_and_replaces_the_old_file(tmp_path):
    path = tmp_path / "junit.xml"
    path.write_text("<testsuites/>")
    with pytest.raises(ModelError, match="truncated"), error_report(path):
        raise ModelError("is truncated", where="a <model>.onnx")
    suite = read(path.read_text())
    assert (suite.tests, suite.failures, suite.errors) == (1, 0, 1)
    ((error,),) = (case.result for case in suite)
    assert isinstance(error, junitparser.Error)
    assert (error.message, error.type) == ("a <model>.onnx: is truncated", "ModelError")


def test_junit_is_not_written_for_errors_without_a_file():
    with pytest.raises(ModelError, match="truncated"), error_report(None):
        raise ModelError("is truncated")
