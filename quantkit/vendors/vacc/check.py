"""Checks build files before the vendor's compiler does, with a line and a fix for each finding."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import ModelError, UsageError
from quantkit.vendors.vacc.check_channels import check_channel_order
from quantkit.vendors.vacc.check_files import CHECKPOINT, INPUTS, OPS, check_data, check_model, classes_of, locate
from quantkit.vendors.vacc.check_keys import check_keys, is_later_form, readable_spec
from quantkit.vendors.vacc.check_ops import check_ops
from quantkit.vendors.vacc.check_vdsp import check_vdsp
from quantkit.vendors.vacc.dialects import BuildSpec, Dialect, dialect_of, dotted, place
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.findings import Finding, Severity, found
from quantkit.vendors.vacc.onnx_facts import OnnxFacts, read_facts
from quantkit.vendors.vacc.vdsp import VdspParams
from quantkit.vendors.vacc.yaml_nodes import KeyPath, YamlError

# A section of the build or the compile dialect, in block or in flow style.
_SECTION = re.compile(rb"""(?m)(?:^|[{,]\s*|\xbf|\xfe)["']?(?:frontend|backend|engine)["']?[ \t]*:""")
_RANK = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class FileReport:
    """The findings of a file.

    Attributes:
        path: the file.
        dialect: its dialect, None if unknown.
        findings: in the order of their lines.
    """

    path: str
    dialect: Dialect | None
    findings: tuple[Finding, ...]

    def count(self, severity: str) -> int:
        """Return the number of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "path": self.path,
            "dialect": self.dialect,
            "findings": [
                {"severity": f.severity, "line": f.line, "key": f.key, "message": f.message, "fix": f.fix}
                for f in self.findings
            ],
        }


@dataclass(frozen=True)
class BuildFiles:
    """The files of a list of paths.

    Attributes:
        files: build files, and all explicitly given files.
        others: YAML files of other programs in folders.
    """

    files: tuple[Path, ...]
    others: tuple[Path, ...]


def check_file(path: Path, *, facts: OnnxFacts | None = None, vdsp: VdspParams | None = None) -> FileReport:
    """Check a file of either dialect. Faults of the file are findings, not exceptions.

    Args:
        path: the YAML file.
        facts: the model to check against, instead of the checkpoint in the file.
        vdsp: the card's preprocessing to check against.
    """
    try:
        document = Document.load(path)
        dialect = dialect_of(document)
    except YamlError as error:
        return FileReport(str(path), None, (Finding("error", error.line, "", error.what, error.fix),))
    return FileReport(str(path), dialect, check_document(document, dialect, facts=facts, vdsp=vdsp))


def build_files(paths: Sequence[Path]) -> BuildFiles:
    """Return the given files, and for a folder the build files below it, sorted.

    YAML files of other programs in a folder are recognized because they have no section that only build files have. An
    empty file is treated as a build file.

    Raises:
        UsageError: a folder has no build file.
    """
    files: list[Path] = []
    others: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        below = sorted(file for suffix in ("*.yaml", "*.yml") for file in path.rglob(suffix) if file.is_file())
        own = [file for file in below if _looks_like_a_build_file(file)]
        if not own:
            raise UsageError("there is no build file below this folder", where=path, fix="name the build files")
        files += own
        others += [file for file in below if file not in own]
    return BuildFiles(tuple(files), tuple(others))


def _looks_like_a_build_file(path: Path) -> bool:
    try:
        content = path.read_bytes().replace(b"\0", b"")  # for UTF-16
    except OSError:
        return True  # the check reports the error
    return not content.strip() or _SECTION.search(content) is not None


def check_document(
    document: Document, dialect: Dialect, *, facts: OnnxFacts | None = None, vdsp: VdspParams | None = None
) -> tuple[Finding, ...]:
    """Check a parsed file.

    Args:
        document: the file.
        dialect: its dialect.
        facts: the model to check against; by default the checkpoint in the file, if it is an existing ONNX file.
        vdsp: the card's preprocessing to check against.
    """
    findings = [*_check_encoding(document), *check_keys(document, dialect)]
    path = place(OPS, dialect)
    ops = document.get(path)
    if isinstance(ops, list):
        findings += check_ops(document, path, ops, _image_shape(document.get(place(INPUTS, dialect))))
        findings += check_channel_order(document, path, ops)
    # Invalid values are in the findings; the rest is checked without them.
    spec = readable_spec(document, dialect)
    findings += _check_presence(document, dialect, spec, findings)
    if facts is None:
        facts = _facts_of_checkpoint(document, dialect, spec, findings)
    if facts is not None:
        findings += check_model(document, dialect, spec, facts)
    findings += check_data(document, spec, classes_of(spec, facts), model_here=facts is not None)
    if vdsp is not None:
        findings += check_vdsp(document, dialect, spec, vdsp)
    return _in_order(findings)


def _in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: (finding.line or 0, _RANK[finding.severity], finding.message)))


def _check_encoding(document: Document) -> Iterator[Finding]:
    if not document.encoding.startswith("utf-8"):
        yield Finding("warning", None, "", f"the file is not UTF-8; read as {document.encoding}", "save it as UTF-8")


def _image_shape(inputs: Any) -> tuple[int, int, int] | None:
    """Return ``(channels, height, width)`` of the only input, if it is an image in the order N C H W."""
    shapes = list(inputs.values()) if isinstance(inputs, dict) else []
    if len(shapes) == 1 and isinstance(shapes[0], list):
        sides = shapes[0]
        if len(sides) == 4 and all(type(side) is int and side > 0 for side in sides) and sides[1] in (1, 3):
            return sides[1], sides[2], sides[3]
    return None


def _check_presence(
    document: Document, dialect: Dialect, spec: BuildSpec, findings: list[Finding]
) -> Iterator[Finding]:
    """Yield findings of missing keys, unless another finding explains them."""
    explained = {word for finding in findings for word in re.findall(r"\w+", f"{finding.key} {finding.fix}")}
    checkpoint, inputs, name, method = (
        place(key, dialect) for key in (CHECKPOINT, INPUTS, "name", "backend.quantize.calibrate_mode")
    )
    if dialect == "build" and is_later_form(document):
        method = ("engine", "calibration", "calibrate_mode")
    precision, data, quantize = spec.backend.dtype, spec.dataset, spec.backend.quantize
    if spec.frontend.checkpoint is None and "checkpoint" not in explained:
        yield _missing("error", document, checkpoint[:1], dotted(checkpoint), "name the model to build")
    if spec.frontend.shape is None and inputs[-1] not in explained:
        yield _missing("warning", document, inputs[:1], dotted(inputs), "give the shape of each input")
    if spec.name is None and "name" not in explained:
        yield _missing("warning", document, (), dotted(name), "name the compiled model")
    if precision == "int8" and not _quantized_elsewhere(spec):
        if data is None and "dataset" not in explained:
            yield _missing("warning", document, (), "dataset", "int8 needs calibration images")
        if data is not None and data.count is None and "get_data_num" not in explained:
            fix = "give the number of images; otherwise the compiler decides"
            yield _missing("warning", document, ("dataset",), "dataset.sampler.get_data_num", fix)
        if (quantize is None or quantize.calibrate_mode is None) and method[-1] not in explained:
            fix = "give the method; otherwise the compiler decides"
            yield _missing("warning", document, method, dotted(method), fix)
    if spec.name is not None and precision in ("int8", "fp16"):
        other = "fp16" if precision == "int8" else "int8"
        if other in spec.name.lower() and precision not in spec.name.lower():
            yield found(
                document,
                "warning",
                name,
                f"the name contains {other}, and the build is {precision}",
                "rename it: the compiled model is stored under its name",
            )


def _quantized_elsewhere(spec: BuildSpec) -> bool:
    """Return whether a build is of a language model with int8 weights, which needs no calibration."""
    return spec.frontend.type == "huggingface" or "quantize" in spec.frontend.model_fields_set


def _missing(severity: Severity, document: Document, near: KeyPath, key: str, fix: str) -> Finding:
    return Finding(severity, document.line_of(near), key, f"`{key}` is not given", fix)


def _facts_of_checkpoint(
    document: Document, dialect: Dialect, spec: BuildSpec, findings: list[Finding]
) -> OnnxFacts | None:
    """Read the checkpoint of the file, if it is an existing ONNX file; otherwise add a note."""
    named = spec.frontend.checkpoint
    if not isinstance(named, str):
        return None
    path, key = locate(named, document), place(CHECKPOINT, dialect)
    if path is None or path.suffix.lower() != ".onnx":
        why = "does not exist here" if path is None else "is not an ONNX file"
        fault = f"not checked against the model: {named} {why}"
        findings.append(found(document, "note", key, fault, "give --model; for a moved run, quantkit relink RUN"))
        return None
    try:
        return read_facts(path)
    except ModelError as error:
        findings.append(found(document, "error", key, f"{path}: {error.what}", error.fix))
        return None
