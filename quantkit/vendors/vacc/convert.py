"""Converts build files of both dialects to and from a `BuildSpec`, with notes on losses."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from quantkit.notes import Note, NoteKind
from quantkit.vendors.vacc.dialects import (
    MODELS,
    BuildCalibration,
    BuildCommon,
    BuildDataset,
    BuildDialect,
    BuildEngine,
    BuildModel,
    BuildWorkspace,
    CompileDataset,
    CompileDialect,
    CompileWorkspace,
    Dialect,
    ExtraOps,
    Frontend,
    QuantizeSection,
    dialect_of,
    dotted,
    fault_text,
    read_file,
)
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.fields import CHECK, READABLE, YamlSection
from quantkit.vendors.vacc.spec import BuildSpec, CalibrationData, CalibrationSpec, Head, Source, Texts, Workspace
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


def read_spec(document: Document, dialect: Dialect | None = None) -> BuildSpec:
    """Read a file of either dialect.

    Args:
        document: the file.
        dialect: its dialect; by default inferred from its sections.

    Raises:
        VendorFileError: the file is of neither dialect, or a value is invalid.
    """
    file = read_file(document, dialect or dialect_of(document))
    return _from_build(file) if isinstance(file, BuildDialect) else _from_compile(file)


def render(spec: BuildSpec, dialect: Dialect) -> Rendering:
    """Write a spec in a dialect. Keys that are known only in the other dialect are kept, with a note."""
    return _to_build(spec) if dialect == "build" else _to_compile(spec)


def convert(document: Document, to: Dialect) -> Rendering:
    """Convert a file of either dialect to the given dialect. Comments are not preserved.

    Raises:
        VendorFileError: the file is of neither dialect, or a value is invalid.
    """
    rendering = render(read_spec(document), to)
    return Rendering(rendering.data, (*_readings(document), *rendering.notes))


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


def _from_build(file: BuildDialect) -> BuildSpec:
    model, engine = file.model or BuildModel(), file.engine or BuildEngine()
    common = engine.common or BuildCommon()
    calibration = engine.calibration
    return BuildSpec(
        name=model.name,
        source=_source(
            model,
            framework=framework_of(model.checkpoint),
            inputs=model.inputs,
            taken=("name", "checkpoint", "inputs"),
        ),
        backend=engine.type,
        precision=engine.dtype or _precision(common.do_quantization),
        calibration=calibration and _calibration(calibration),
        compile_options=_rest(common, "do_quantization"),
        head=_head(engine.add_extra_ops_to_graph or engine.extra_ops),
        data=_data(file.dataset, "transform_ops"),
        workspace=_workspace(file.workspace, "work_dir"),
        backend_options=_rest(engine, "type", "dtype", "common", "add_extra_ops_to_graph", "extra_ops", "calibration"),
        options=_rest(file, "model", "engine", "dataset", "workspace"),
    )


def _precision(quantized: bool | None) -> str | None:
    return None if quantized is None else "int8" if quantized else "fp16"


def _from_compile(file: CompileDialect) -> BuildSpec:
    frontend = file.frontend or Frontend()
    backend = _rest(file.backend, "type", "dtype", "compile", "quantize") if file.backend else {}
    quantize = file.backend.quantize if file.backend else None
    rest = _rest(file, "name", "frontend", "graph", "backend", "dataset", "workspace")
    # One file of the zoo has its name as `model: NAME`, which is unambiguous.
    name = file.name or (rest.pop("model") if isinstance(rest.get("model"), str) else None)
    return BuildSpec(
        name=name,
        source=_source(
            frontend,
            framework=frontend.type,
            inputs=frontend.shape,
            taken=("type", "checkpoint", "dtype", "shape"),
            dtype=frontend.dtype,
        ),
        backend=file.backend and ("vacc" if file.backend.type == "tvm_vacc" else file.backend.type),
        precision=file.backend and file.backend.dtype,
        calibration=quantize and _calibration(quantize),
        compile_options=_rest(file.backend and file.backend.compile),
        head=_head(file.graph.extra_ops if file.graph else None),
        data=_data(file.dataset, "process_ops"),
        workspace=_workspace(file.workspace, "path"),
        backend_options=backend,
        options=rest | _given({"graph": _rest(file.graph, "extra_ops") or None}),
    )


def _source(
    section: BuildModel | Frontend,
    *,
    framework: str | None,
    inputs: dict[str, list[Any]] | None,
    taken: tuple[str, ...],
    dtype: Any = None,
) -> Source:
    return Source(
        checkpoint=section.checkpoint,
        framework=framework,
        dtype=dtype,
        inputs=inputs,
        options=_rest(section, *taken),
    )


def _calibration(section: BuildCalibration | QuantizeSection) -> CalibrationSpec:
    method, per_channel = "calibrate_mode", "quantize_per_channel"
    if isinstance(section, BuildCalibration):
        # The earlier form of the build dialect has other keys for both.
        method = method if section.quant_mode is None else "quant_mode"
        per_channel = per_channel if section.per_channel is None else "per_channel"
    return CalibrationSpec(
        method=getattr(section, method),
        fraction=section.calibrate_range,
        per_channel=getattr(section, per_channel),
        weight_scale=section.weight_scale,
        skip_conv_layers=section.skip_conv_layers,
        options=_rest(section, method, per_channel, "calibrate_range", "weight_scale", "skip_conv_layers"),
    )


def _head(section: ExtraOps | None) -> Head | None:
    if section is None:
        return None
    return Head(type=section.type, params=section.params, options=_rest(section, "type", "params"))


def _data(section: BuildDataset | CompileDataset | None, ops: str) -> CalibrationData | None:
    if section is None:
        return None
    sampler = section.sampler
    rest = _rest(section, "path", "sampler", ops)
    if isinstance(section, CompileDataset) and section.type == "tvm":
        del rest["type"]
    return CalibrationData(
        path=section.path,
        suffix=sampler and sampler.suffix,
        count=sampler and sampler.get_data_num,
        ops=getattr(section, ops),
        sampler_options=_rest(sampler, "suffix", "get_data_num"),
        options=rest,
    )


def _workspace(section: BuildWorkspace | CompileWorkspace | None, path: str) -> Workspace | None:
    if section is None:
        return None
    return Workspace(
        path=getattr(section, path),
        enable_ir=section.enable_ir,
        save_log=section.save_log,
        options=_rest(section, path, "enable_ir", "save_log"),
    )


def _rest(section: YamlSection | None, *taken: str) -> dict[str, Any]:
    """Return the other keys of a section, in the order of the file."""
    if section is None:
        return {}
    given = section.model_dump(exclude_unset=True)
    return {key: value for key, value in given.items() if key not in taken}


def _to_build(spec: BuildSpec) -> Rendering:
    source, notes = spec.source or Source(), []
    framework = framework_of(source.checkpoint)
    if source.framework not in (None, framework):
        notes.append(f"frontend.type: {source.framework} is left out: the build dialect uses the file's suffix")
    if source.dtype is not None:
        notes.append(f"frontend.dtype: {source.dtype} is left out: the build dialect has no such key")
    model = {"name": spec.name, "inputs": source.inputs, "checkpoint": source.checkpoint}
    if spec.precision in (None, "int8", "fp16"):
        quantize = None if spec.precision is None else spec.precision == "int8"
        precision: dict[str, Any] = {}
        common = _section({"do_quantization": quantize}, spec.compile_options)
        calibration = _calibration_keys(spec.calibration, "quant_mode", "per_channel")
    else:
        # Only the later form of the dialect has a precision; its other keys are those of the compile dialect.
        precision, common = {"dtype": spec.precision}, dict(spec.compile_options)
        calibration = _calibration_keys(spec.calibration, "calibrate_mode", "quantize_per_channel")
    engine = {
        "type": spec.backend,
        **precision,
        "common": common or None,
        "add_extra_ops_to_graph": _head_keys(spec.head),
        "calibration": calibration,
    }
    data = _section(
        {
            "model": _section(model, source.options),
            "engine": _section(engine, spec.backend_options),
            "dataset": _data_keys(spec.data, "transform_ops"),
            "workspace": _workspace_keys(spec.workspace, "work_dir"),
        },
        spec.options,
    )
    return Rendering(data, (*notes, *unknown_keys(data, BuildDialect)))


def _to_compile(spec: BuildSpec) -> Rendering:
    source, notes = spec.source or Source(), []
    backend = "tvm_vacc" if spec.backend == "vacc" else spec.backend
    if backend not in (None, "tvm_vacc"):
        notes.append(f"backend.type: {backend} is kept from engine.type; no known compile file has it")
    frontend = {
        "checkpoint": source.checkpoint,
        "type": source.framework,
        "dtype": source.dtype,
        "shape": source.inputs,
    }
    options = dict(spec.options)
    other_graph = options.pop("graph", None)
    graph = {"extra_ops": _head_keys(spec.head)}
    built = {
        "type": backend,
        "dtype": spec.precision,
        "compile": spec.compile_options or None,
        "quantize": _calibration_keys(spec.calibration, "calibrate_mode", "quantize_per_channel"),
    }
    dataset = _data_keys(spec.data, "process_ops")
    data = _section(
        {
            "name": spec.name,
            "frontend": _section(frontend, source.options),
            "graph": _section(graph, other_graph if isinstance(other_graph, dict) else {}) or None,
            "backend": _section(built, spec.backend_options),
            "dataset": None if dataset is None else {"type": "tvm", **dataset},
            "workspace": _workspace_keys(spec.workspace, "path"),
        },
        options,
    )
    return Rendering(data, (*notes, *unknown_keys(data, CompileDialect)))


def framework_of(checkpoint: Texts) -> str | None:
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


def _given(section: dict[str, Any]) -> dict[str, Any]:
    """Return a section without keys that have no value."""
    return {key: value for key, value in section.items() if value is not None}


def _section(known: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return a section of a file: known keys, then other keys; known keys take precedence."""
    given = _given(known)
    return given | {key: value for key, value in options.items() if key not in given}


def _calibration_keys(calibration: CalibrationSpec | None, method: str, per_channel: str) -> dict[str, Any] | None:
    if calibration is None:
        return None
    known = {
        method: calibration.method,
        per_channel: calibration.per_channel,
        "calibrate_range": calibration.fraction,
        "weight_scale": calibration.weight_scale,
        "skip_conv_layers": calibration.skip_conv_layers,
    }
    return _section(known, calibration.options)


def _head_keys(head: Head | None) -> dict[str, Any] | None:
    if head is None:
        return None
    # "type: null" means that no operator is appended.
    return {"type": head.type, **_section({"params": head.params}, head.options)}


def _data_keys(data: CalibrationData | None, ops: str) -> dict[str, Any] | None:
    if data is None:
        return None
    sampler = _section({"suffix": data.suffix, "get_data_num": data.count}, data.sampler_options)
    return _section({"path": data.path, "sampler": sampler or None, ops: data.ops}, data.options)


def _workspace_keys(workspace: Workspace | None, path: str) -> dict[str, Any] | None:
    if workspace is None:
        return None
    known = {path: workspace.path, "enable_ir": workspace.enable_ir, "save_log": workspace.save_log}
    return _section(known, workspace.options)
