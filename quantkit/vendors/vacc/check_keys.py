"""Checks the keys and values of a build file against its dialect."""

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import ValidationError

from quantkit.vendors.vacc.convert import section_type, spec_data
from quantkit.vendors.vacc.dialects import EQUIVALENT, MODELS, BuildSpec, Dialect, dotted, fault_text, translated
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.fields import CHECK, READABLE, YamlSection
from quantkit.vendors.vacc.findings import Finding, abbreviated, found, misspelt
from quantkit.vendors.vacc.yaml_nodes import KeyPath

_M = TypeVar("_M", bound=YamlSection)

# Keys of the other dialect by section, with the equivalent in this dialect, which `EQUIVALENT` has not.
_FOREIGN: dict[Dialect, dict[str, str]] = {
    "compile": {
        "backend.do_quantization": "dtype: int8",
        "backend.compile.do_quantization": "backend.dtype: int8",
        "graph.add_extra_ops_to_graph": "extra_ops",
    },
    # The spelling of later build files is wrong only together with that of earlier ones (see `BuildEngine`).
    "build": {
        "graph": "engine.add_extra_ops_to_graph",
        "engine.extra_ops": "add_extra_ops_to_graph",
        "engine.dtype": "common.do_quantization",
    },
}

# Values in the public zoo. Closed lists are complete as far as the tools are known.
_VALUES: dict[str, tuple[tuple[str, ...], bool]] = {
    "frontend.type": (("onnx", "pytorch", "keras", "tensorflow", "darknet", "huggingface"), False),
    "backend.type": (("tvm_vacc", "tvm_runmodel"), False),
    "backend.dtype": (("int8", "fp16"), False),
    "backend.quantize.calibrate_mode": (("percentile", "kl_divergence", "max", "mse"), True),
    "backend.quantize.weight_scale": (("max", "power2"), True),
    "engine.type": (("vacc", "debug"), False),
    "engine.dtype": (("int8", "fp16", "fp16int8"), False),
    "engine.calibration.calibrate_mode": (("percentile", "kl_divergence", "max", "mse"), True),
    "engine.calibration.weight_scale": (("max", "power2"), True),
    "engine.calibration.quant_mode": (("percentile", "kl_divergence", "max", "mse"), True),
}
_OTHER_WORDS = {"kl": "kl_divergence", "entropy": "kl_divergence", "minmax": "max", "min_max": "max"}
# Keys for which no value is meaningful: no operator is appended; calibration files of every suffix are used.
_NULL_IS_SAID = (
    "graph.extra_ops.type",
    "engine.add_extra_ops_to_graph.type",
    "engine.extra_ops.type",
    "dataset.sampler.suffix",
)
_EARLIER_FORM = ("engine.common.do_quantization", "engine.calibration.quant_mode", "engine.calibration.per_channel")
_LATER_FORM = (
    "engine.dtype",
    "engine.extra_ops",
    "engine.calibration.calibrate_mode",
    "engine.calibration.quantize_per_channel",
)


def check_keys(document: Document, dialect: Dialect) -> Iterator[Finding]:
    """Yield findings on keys, types and values, unordered."""
    yield from _check_repeated(document)
    yield from _check_types(document, MODELS[dialect])
    yield from _check_section(document, dialect, MODELS[dialect], document.data, ())


def readable_spec(document: Document, dialect: Dialect) -> BuildSpec:
    """Return the content of a document without invalid values."""
    data, _ = spec_data(_readable(MODELS[dialect], document.data))
    return _readable(BuildSpec, data)


def _readable(model: type[_M], data: Any) -> _M:
    data = copy.deepcopy(data)
    while True:
        try:
            return model.model_validate(data)
        except ValidationError as error:
            _remove(data, error.errors(include_url=False)[0]["loc"])


def _remove(data: Any, path: KeyPath) -> None:
    """Remove the value at a path, or the nearest enclosing one: pydantic's paths may include parts of the type."""
    *above, last = path
    for depth, step in enumerate(above):
        if not isinstance(data[step], dict | list):
            last = above[depth]
            break
        data = data[step]
    del data[last]


def check_fields(document: Document, model: type[YamlSection], data: Any, path: KeyPath) -> Iterator[Finding]:
    """Yield findings on types and keys of a separate section, such as an operation."""
    yield from _check_types(document, model, data, path)
    known = tuple(model.model_fields)
    for key in data:
        if key not in known:
            yield _unknown_key(document, (*path, key), known, data)


def _check_repeated(document: Document) -> Iterator[Finding]:
    for repeated in document.repeated:
        lines = " and ".join(map(str, repeated.lines))
        yield Finding(
            "warning" if repeated.equal else "error",
            repeated.lines[-1],
            dotted(repeated.path),
            f"`{dotted(repeated.path)}` occurs more than once, in lines {lines}",
            "keep one" if repeated.equal else "keep one: readers differ in which one they use",
        )


def _check_types(
    document: Document, model: type[YamlSection], data: Any = None, path: KeyPath = ()
) -> Iterator[Finding]:
    try:
        model.model_validate(document.data if data is None else data, context=CHECK)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            where = (*path, *fault["loc"])
            # Unambiguous values are a warning; a plain value instead of a section is reported by its key.
            if where == ("model",) and isinstance(fault["input"], str):
                continue
            yield found(
                document,
                "warning" if fault["type"] == READABLE else "error",
                where,
                f"`{dotted(where)}` {fault_text(fault)}",
                _key_with_value(dotted(where), fault["input"]),
            )


def _key_with_value(key: str, value: Any) -> str | None:
    """Return a message if a value is valid for another key: ``engine.type: debug``."""
    top = key.partition(".")[0]
    others = [other for other, (known, _) in _VALUES.items() if value in known and other.partition(".")[0] == top]
    return f"`{value}` is a value of `{others[0]}`" if others and isinstance(value, str) else None


def _check_section(
    document: Document, dialect: Dialect, model: type[YamlSection], data: Any, path: KeyPath
) -> Iterator[Finding]:
    if not isinstance(data, dict):
        return
    for key, value in data.items():
        here = (*path, key)
        field = model.model_fields.get(key)
        if field is None or _mixes_forms(document, here):
            yield _foreign_or_unknown(document, dialect, model, data, here)
        elif value is None:
            if dotted(here) not in _NULL_IS_SAID:
                fix = "give a value, or remove the line"
                yield found(document, "warning", here, f"`{dotted(here)}` has no value", fix)
        elif (section := section_type(field.annotation)) is not None:
            yield from _check_section(document, dialect, section, value, here)
        else:
            yield from _check_value(document, here, value)


def is_later_form(document: Document) -> bool:
    """Return whether a file of the build dialect has only the keys of later build files (see `BuildEngine`)."""
    has_earlier, has_later = (
        any(document.get(key) is not None for key in keys) for keys in (_EARLIER_FORM, _LATER_FORM)
    )
    return has_later and not has_earlier


def _mixes_forms(document: Document, path: KeyPath) -> bool:
    return dotted(path) in _LATER_FORM and not is_later_form(document)


def _foreign_or_unknown(
    document: Document, dialect: Dialect, model: type[YamlSection], data: dict[str, Any], path: KeyPath
) -> Finding:
    section, key, name = dotted(path[:-1]), str(path[-1]), dotted(path)
    other: Dialect = "build" if dialect == "compile" else "compile"
    own = _equivalent(section, key, dialect)
    if own is not None and path in (("model",), ("name",)) and isinstance(data[key], str):
        # Only the name is lost; the build is the same.
        named = "name" if dialect == "compile" else "model.name"
        fault = f"`{key}` is not the name in the {dialect} dialect"
        return found(document, "warning", path, fault, f"write `{named}: {data[key]}`")
    if own is not None:
        fault = f"`{key}` is a key of the {other} dialect and has no effect here"
        return found(document, "error", path, fault, f"in the {dialect} dialect write `{own}`")
    if key in _keys_of_counterpart(section, other):
        return found(document, "warning", path, f"`{name}` is known only in the {other} dialect")
    return _unknown_key(document, path, tuple(model.model_fields), data, MODELS[dialect])


def _equivalent(section: str, key: str, dialect: Dialect) -> str | None:
    """Return how a dialect writes a key of the other dialect that a section has, None for any other key."""
    name = f"{section}.{key}".removeprefix(".")
    if name in _FOREIGN[dialect]:
        return _FOREIGN[dialect][name]
    for build, compile_ in EQUIVALENT:
        own, other = (build, compile_) if dialect == "build" else (compile_, build)
        above, _, last = other.rpartition(".")
        if last == key != own and translated(above, dialect) == section and key != "extra_ops":
            return own.removeprefix(f"{section}.")
    return None


def _keys_of_counterpart(section: str, other: Dialect) -> tuple[str, ...]:
    model: type[YamlSection] | None = MODELS[other]
    for step in filter(None, translated(section, other).split(".")):
        field = model.model_fields.get(step) if model else None
        model = field and section_type(field.annotation)
    return tuple(model.model_fields) if model else ()


def _unknown_key(
    document: Document,
    path: KeyPath,
    known: tuple[str, ...],
    data: dict[str, Any],
    dialect_model: type[YamlSection] | None = None,
) -> Finding:
    key, name = str(path[-1]), dotted(path)
    absent = tuple(word for word in known if word not in data)
    meant = misspelt(key, absent)
    if meant is not None:
        return found(document, "error", path, f"unknown key `{key}`, probably `{meant}`", f"write `{meant}`")
    places = _places_of(key, dialect_model) if dialect_model else []
    if places:
        return found(document, "warning", path, f"`{name}` is unknown here", f"move it to `{places[0]}`")
    near = abbreviated(key, absent)
    return found(document, "warning", path, f"`{name}` is unknown", None if near is None else f"did you mean `{near}`?")


def _places_of(key: str, model: type[YamlSection], path: str = "") -> list[str]:
    """Return the sections of a dialect with a key; keys of many sections are ignored."""
    if key in ("type", "path", "name", "params", "dtype"):
        return []
    places = [path] if path and key in model.model_fields else []
    for name, field in model.model_fields.items():
        section = section_type(field.annotation)
        if section is not None:
            places += _places_of(key, section, f"{path}.{name}".removeprefix("."))
    return places


def _check_value(document: Document, path: KeyPath, value: Any) -> Iterator[Finding]:
    key = dotted(path)
    if key not in _VALUES or not isinstance(value, str) or value in _VALUES[key][0]:
        return
    known, closed = _VALUES[key]
    word = value.strip().lower()
    meant = word if word in known else misspelt(value, known) or (_OTHER_WORDS.get(word) if closed else None)
    meant = meant if meant in known else None
    # Whether the tools are case-sensitive is not known.
    wrong = word not in known and (meant is not None or closed)
    yield found(
        document,
        "error" if wrong else "warning",
        path,
        f"`{key}: {value}` is not a known value ({', '.join(known)})",
        None if meant is None else f"write `{meant}`",
    )
