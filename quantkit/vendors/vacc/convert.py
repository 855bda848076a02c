"""Converts build files between both dialects, by the table of equivalent keys, with notes on losses."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from quantkit.notes import Note, NoteKind
from quantkit.vendors.vacc.dialects import (
    EQUIVALENT,
    MODELS,
    BuildDialect,
    BuildSpec,
    CompileDialect,
    Dialect,
    ExtraOps,
    dialect_of,
    dotted,
    fault_text,
    first_error,
    read_file,
)
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.fields import CHECK, READABLE, YamlSection
from quantkit.vendors.vacc.yaml_text import dump

FRAMEWORKS = {
    ".onnx": "onnx",
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".torchscript": "pytorch",
    ".h5": "keras",
    ".pb": "tensorflow",
    ".weights": "darknet",
}


# A build file with another precision is a later one.
_EARLIER_PRECISIONS = (None, "int8", "fp16")


@dataclass(frozen=True)
class Rendering:
    """A `BuildSpec` in one dialect.

    Attributes:
        data: the file as plain values.
        notes: values that the dialect cannot express, and keys that are not known in it.
    """

    data: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """The file as YAML."""
        return dump(self.data)


def read_spec(document: Document) -> BuildSpec:
    """Read a file of either dialect.

    Raises:
        VendorFileError: the file is of neither dialect, or a value is invalid.
    """
    return _read(document, dialect_of(document))[0]


def _read(document: Document, dialect: Dialect) -> tuple[BuildSpec, list[str]]:
    data, notes = spec_data(read_file(document, dialect))
    try:
        return BuildSpec.model_validate(data), notes
    except ValidationError as error:
        raise first_error(error, document) from error


def render(spec: BuildSpec, dialect: Dialect) -> Rendering:
    """Write a spec in a dialect. Keys that are known only in the other dialect are kept, with a note."""
    data = _written(spec)
    data, notes = _to_build(data) if dialect == "build" else _to_compile(data)
    model = MODELS[dialect]
    ordered = _ordered(data, model)
    return Rendering(ordered, (*notes, *unknown_keys(ordered, model)))


def convert(document: Document, to: Dialect) -> Rendering:
    """Convert a file of either dialect to the given dialect. Comments are not preserved.

    Raises:
        VendorFileError: the file is of neither dialect, or a value is invalid.
    """
    spec, notes = _read(document, dialect_of(document))
    rendering = render(spec, to)
    return Rendering(rendering.data, (*_readings(document), *notes, *rendering.notes))


def _readings(document: Document) -> Iterator[str]:
    """Yield notes on values with deviating notation, and on repeated keys."""
    for repeated in document.repeated:
        yield f"{dotted(repeated.path)} occurs more than once; the value in line {repeated.lines[-1]} is used"
    try:
        MODELS[dialect_of(document)].model_validate(document.data, context=CHECK)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            if fault["type"] == READABLE:
                yield f"{dotted(fault['loc'])} {fault_text(fault)}; interpreted as that"


def spec_data(file: BuildDialect | CompileDialect) -> tuple[dict[str, Any], list[str]]:
    """Return the values of a file under the keys of the compile dialect, and notes on those that are left out."""
    data, notes = _written(file), list[str]()
    if isinstance(file, BuildDialect):
        engine = data.setdefault("engine", {})
        data.setdefault("model", {})
        quantized = engine.get("common", {}).pop("do_quantization", None)
        if quantized is not None:
            engine.setdefault("dtype", "int8" if quantized else "fp16")
        data, notes = _moved(data, EQUIVALENT)
        if (framework := framework_of(data["frontend"].get("checkpoint"))) is not None:
            data["frontend"]["type"] = framework
    elif not file.name and isinstance(data.get("model"), str):
        # One file of the zoo has its name as `model: NAME`, which is unambiguous.
        data["name"] = data.pop("model")
    backend = data.setdefault("backend", {})
    if backend.get("type") == "vacc":
        backend["type"] = "tvm_vacc"
    if "dataset" in data:
        data["dataset"] = {"type": "tvm", **data["dataset"]}
    return _ordered(data, CompileDialect), notes


def _to_compile(data: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    backend = data["backend"].get("type", "tvm_vacc")
    other = f"backend.type: {backend} is kept from engine.type; no known compile file has it"
    return {"frontend": {}} | data, [] if backend == "tvm_vacc" else [other]


def _to_build(data: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    frontend, backend, notes = data.setdefault("frontend", {}), data["backend"], []
    framework, dtype = frontend.pop("type", None), frontend.pop("dtype", None)
    if framework not in (None, framework_of(frontend.get("checkpoint"))):
        notes.append(f"frontend.type: {framework} is left out: the build dialect uses the file's suffix")
    if dtype is not None:
        notes.append(f"frontend.dtype: {dtype} is left out: the build dialect has no such key")
    if backend.get("type") == "tvm_vacc":
        backend["type"] = "vacc"
    if data.get("dataset", {}).get("type") == "tvm":
        del data["dataset"]["type"]
    pairs: Sequence[tuple[str, str]] = EQUIVALENT
    if (precision := backend.get("dtype")) not in _EARLIER_PRECISIONS:
        # Only the later form of the dialect has a precision; its other keys are those of the compile dialect.
        pairs = [pair for pair in pairs if not pair[0].startswith("engine.calibration.")]
    elif precision is not None:
        del backend["dtype"]
        backend["compile"] = {"do_quantization": precision == "int8", **backend.get("compile", {})}
    data, lost = _moved(data, [(compile_, build) for build, compile_ in pairs])
    return {"engine": {}, "model": {}} | data, [*notes, *lost]


def _moved(data: dict[str, Any], pairs: Sequence[tuple[str, str]]) -> tuple[dict[str, Any], list[str]]:
    """Return the values of a file at other places, and notes: of several values for a place the first is kept."""
    left, moved, taken = copy.deepcopy(data), dict[str, Any](), list[str]()
    for source, target in pairs:
        *above, last = source.split(".")
        section: Any = left
        for step in above:
            section = section.get(step) if isinstance(section, dict) else None
        if isinstance(section, dict) and section.get(last) is not None:
            taken += _put(moved, target.split("."), section.pop(last))
    for key, value in left.items():
        taken += _put(moved, [key], value)
    return moved, [f"{key}: another value is left out, because a key of the same meaning is given" for key in taken]


def _put(data: dict[str, Any], path: Sequence[str], value: Any) -> list[str]:
    """Add a value, or the keys of a section; return the paths that had another value before, and have it still."""
    *above, last = path
    for step in above:
        data = data.setdefault(step, {})
    before = data.setdefault(last, value)
    if before == value or value == {}:
        return []
    if not (isinstance(before, dict) and isinstance(value, dict)):
        return [dotted(tuple(path))]
    data[last] = {**before, **{key: one for key, one in value.items() if key not in before}}
    return [dotted((*path, key)) for key in value if before.get(key, value[key]) != value[key]]


def _written(section: YamlSection) -> dict[str, Any]:
    """Return the keys of a section that have a value; unknown keys, and those that the vendor defines, also without."""
    written: dict[str, Any] = {}
    fields = type(section).model_fields
    known = {name: getattr(section, name) for name in fields if name in section.model_fields_set}
    for key, value in {**known, **(section.model_extra or {})}.items():
        if isinstance(value, YamlSection):
            written[key] = _written(value)
        elif value is not None or key not in fields or fields[key].annotation is Any:
            written[key] = value
    # "type: null" means that no operator is appended.
    return {"type": section.type, **written} if isinstance(section, ExtraOps) else written


def _ordered(data: dict[str, Any], model: type[YamlSection], depth: int = 2) -> dict[str, Any]:
    """Return a file with known keys first, in the order of the dialect, and without empty sections of options."""
    ordered: dict[str, Any] = {}
    for key in dict.fromkeys([*(name for name in model.model_fields if name in data), *data]):
        value = data[key]
        section = section_type(model.model_fields[key].annotation) if key in model.model_fields else None
        if depth > 1 and section is not None and isinstance(value, dict):
            value = _ordered(value, section, depth - 1)
        if value != {} or key not in ("common", "compile", "graph", "sampler"):
            ordered[key] = value
    return ordered


def framework_of(checkpoint: Any) -> str | None:
    """Return the framework of a model by the suffix of its file, as in the build dialect, or None."""
    names = (
        [checkpoint]
        if isinstance(checkpoint, str)
        else list(checkpoint.values() if isinstance(checkpoint, dict) else checkpoint or ())
    )
    suffixes = [PurePosixPath(name).suffix.lower() for name in names]
    return next((FRAMEWORKS[suffix] for suffix in suffixes if suffix in FRAMEWORKS), None)


def unknown_keys(data: dict[str, Any], model: type[YamlSection], path: str = "") -> list[str]:
    """Return a note for each key that is not known in a dialect."""
    notes: list[str] = []
    for key, value in data.items():
        field = model.model_fields.get(key)
        if field is None:
            text = f"{path}{key}: kept, but not known in this dialect"
            notes.append(Note(text, NoteKind.UNKNOWN_KEY))
            continue
        section = section_type(field.annotation)
        if section is not None and isinstance(value, dict):
            notes += unknown_keys(value, section, f"{path}{key}.")
    return notes


def section_type(annotation: Any) -> type[YamlSection] | None:
    """Return the section type of a field, or None for a plain value."""
    candidates = getattr(annotation, "__args__", (annotation,))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, YamlSection)), None)
