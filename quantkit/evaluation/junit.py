"""Verdicts of gates as JUnit XML, for the display of test results in CI systems.

One ``testcase`` per condition and candidate: passed, or with a ``failure``. A failed comparison is one ``testcase``
with an ``error``, so that the file of an earlier run is not mistaken for the result.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

from quantkit.errors import QuantkitError
from quantkit.evaluation.gate import GateVerdict
from quantkit.evaluation.result import Comparison
from quantkit.files import write_text

SUITE = "quantkit compare"
# Characters that XML 1.0 does not allow even escaped: control characters and lone surrogates.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(comparison: Comparison, verdicts: Sequence[GateVerdict]) -> str:
    """Return the verdicts as a JUnit XML document, with the reference and the number of images as properties."""
    suite = _suite(len(verdicts), failures=sum(not verdict.passed for verdict in verdicts))
    properties = ET.SubElement(suite, "properties")
    for name, value in (("reference", comparison.reference.name), ("images", str(comparison.images))):
        ET.SubElement(properties, "property", name=name, value=_text(value))
    for verdict in verdicts:
        case = _case(suite, f"{verdict.model}: {verdict.gate.where}")
        if not verdict.passed:
            failure = ET.SubElement(case, "failure", message=_text(str(verdict)), type="GateError")
            failure.text = _text(f"{verdict.gate.where}: {verdict}")
        ET.SubElement(case, "system-out").text = _text(str(verdict))
    return _document(suite)


@contextmanager
def error_report(path: Path | None) -> Iterator[None]:
    """Context manager that writes an expected error to a JUnit file, if one is given, and re-raises it."""
    try:
        yield
    except QuantkitError as error:
        if path is not None:
            suite = _suite(1, errors=1)
            found = ET.SubElement(
                _case(suite, SUITE), "error", message=_text(error.command_line), type=type(error).__name__
            )
            found.text = _text(error.command_line)
            write_text(path, _document(suite))
        raise


def _suite(tests: int, *, failures: int = 0, errors: int = 0) -> ET.Element:
    counts = {"tests": tests, "failures": failures, "errors": errors, "skipped": 0}
    return ET.Element("testsuite", {"name": SUITE, **{name: str(count) for name, count in counts.items()}, "time": "0"})


def _case(suite: ET.Element, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", name=_text(name), classname=SUITE.replace(" ", "."), time="0")


def _document(suite: ET.Element) -> str:
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _text(value: str) -> str:
    """Return text for XML; characters that it does not allow are written as escapes."""
    return _NOT_XML.sub(lambda found: f"\\x{ord(found[0]):02x}", value)
