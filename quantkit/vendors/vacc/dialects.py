"""The two dialects of the vendor's build files, as typed models of the files.

``vamc build`` reads the older one (2022 to 2023), ``vamc compile`` the current one. The keys are those in the vendor's
public model zoo; the tools are closed source, so unknown keys are kept and reported, not rejected.
"""

from typing import Any, Literal

from pydantic import ValidationError

from quantkit.errors import VendorFileError
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.fields import (
    Count,
    Flag,
    Fraction,
    Indices,
    QuantizationFlag,
    Shape,
    Text,
    Texts,
    Whole,
    YamlSection,
)
from quantkit.vendors.vacc.yaml_nodes import KeyPath, YamlError

Dialect = Literal["build", "compile"]


class Sampler(YamlSection):
    """Selection of calibration files; ``npz`` files contain preprocessed tensors."""

    suffix: Texts = None
    get_data_num: Count = None


class CompilerSection(YamlSection):
    """Options of the compiler in both dialects, defined by the vendor."""

    cluster_mode: Any = None
    data_transport_mode: Any = None
    data_type: Any = None
    enable_graph_partition: Any = None
    opt_level: Any = None
    output_ddr: Any = None
    split_convergence_points: Any = None
    switch_lhs_rhs: Any = None


class CalibrationOptions(YamlSection):
    """Calibration options in both dialects."""

    calibrate_mode: Text = None
    quantize_per_channel: Flag = None
    calibrate_range: Fraction = None
    weight_scale: Text = None
    skip_conv_layers: Indices = None
    exclude_layers: Any = None
    ops_usingfp: Any = None
    output_ddr: Any = None
    overflow_adaptive: Any = None
    quantize_dsp_ops: Any = None
    quantize_mode: Any = None


class BuildModel(YamlSection):
    """``model`` of the build dialect."""

    name: Text = None
    inputs: dict[str, Shape] | None = None
    checkpoint: Texts = None
    config: Text = None


class BuildCommon(CompilerSection):
    """``engine.common``: int8 or not, and options of the compiler."""

    do_quantization: QuantizationFlag = None
    boost_pipeline: Any = None
    force_tiny_oc_1x1_to_3x3: Any = None
    softmax_target: Any = None


class BuildCalibration(CalibrationOptions):
    """``engine.calibration``: calibration options.

    ``quant_mode`` and ``per_channel`` are the spelling of the earlier build files. The later ones write
    ``calibrate_mode`` and ``quantize_per_channel`` as the compile dialect does (see `BuildEngine`).
    """

    quant_mode: Text = None
    per_channel: Flag = None


class ExtraOps(YamlSection):
    """Operators appended to the graph: softmax, non-maximum suppression, or none."""

    type: Text = None
    params: Any = None


class BuildEngine(YamlSection):
    """``engine`` of the build dialect.

    The vendor's build files have two forms, which are never mixed: the earlier one has ``common.do_quantization``,
    ``calibration.quant_mode`` and ``per_channel``; the later one ``dtype``, ``calibration.calibrate_mode``,
    ``quantize_per_channel`` and sometimes ``extra_ops``.
    """

    type: Text = None
    dtype: Text = None
    common: BuildCommon | None = None
    add_extra_ops_to_graph: ExtraOps | None = None
    extra_ops: ExtraOps | None = None
    calibration: BuildCalibration | None = None


class BuildDataset(YamlSection):
    """``dataset`` of the build dialect."""

    path: Texts = None
    sampler: Sampler | None = None
    transform_ops: list[dict[str, Any]] | None = None


class BuildWorkspace(YamlSection):
    """``workspace`` of the build dialect."""

    work_dir: Text = None
    enable_ir: Flag = None
    save_log: Flag = None


class BuildDialect(YamlSection):
    """A file for ``vamc build``."""

    model: BuildModel | None = None
    engine: BuildEngine | None = None
    dataset: BuildDataset | None = None
    workspace: BuildWorkspace | None = None


class Frontend(YamlSection):
    """``frontend`` of the compile dialect: the source model."""

    checkpoint: Texts = None
    type: Text = None
    dtype: Any = None
    shape: dict[str, Shape] | None = None
    model_kwargs: Any = None
    quantize: Any = None


class CompileOptions(CompilerSection):
    """``backend.compile``: options of the compiler, defined by the vendor."""

    attention_split_num: Any = None
    dense_special_config: Any = None
    enable_dense_to_matmul: Any = None
    enable_float_to_half: Any = None
    enable_groundingdino_axis_change: Any = None
    enable_groundingdino_cut_layernorm: Any = None
    enable_inputs_align: Any = None
    enable_transform_vision_language_pan: Any = None
    ffn_split_num: Any = None
    fullatt_block_indexes: Any = None
    gather_data_vccl_dsp_enable: Any = None
    llm_build: Any = None
    mem_inplace: Any = None
    nearest_interpol_on_dsp: Any = None
    output_layout: Any = None
    partition_convergence_dsp_enable: Any = None
    real_output_shape: Any = None
    stream_mode: Any = None


class QuantizeSection(CalibrationOptions):
    """``backend.quantize``: calibration options."""

    skip_matmul_layers: Indices = None
    calibrate_chunk_by: Whole = None
    dense_special_config: Any = None
    nearest_interpol_on_dsp: Any = None
    quantize_operators: Any = None
    requant_suppress: Any = None


class BackendSection(YamlSection):
    """``backend`` of the compile dialect."""

    type: Text = None
    dtype: Text = None
    compile: CompileOptions | None = None
    quantize: QuantizeSection | None = None
    dynamic_params: Any = None
    merge_params: Any = None
    remove_params: Any = None


class Graph(YamlSection):
    """``graph`` of the compile dialect."""

    extra_ops: ExtraOps | None = None


class CompileDataset(YamlSection):
    """``dataset`` of the compile dialect; language models have ``name``, ``nsamples`` and ``seqlen``."""

    type: Text = None
    path: Texts = None
    sampler: Sampler | None = None
    process_ops: list[dict[str, Any]] | None = None
    name: Text = None
    nsamples: Whole = None
    seqlen: Whole = None

    @property
    def count(self) -> int | None:
        """The number of calibration files."""
        return None if self.sampler is None else self.sampler.get_data_num


class CompileWorkspace(YamlSection):
    """``workspace`` of the compile dialect."""

    path: Text = None
    enable_ir: Flag = None
    save_log: Flag = None
    env_recheck: Any = None
    pyenv: Any = None
    workers: Any = None


class CompileDialect(YamlSection):
    """A file for ``vamc compile``."""

    name: Text = None
    frontend: Frontend | None = None
    graph: Graph | None = None
    backend: BackendSection | None = None
    dataset: CompileDataset | None = None
    workspace: CompileWorkspace | None = None


class BuildSpec(CompileDialect):
    """The content of a file of either dialect, in the terms of the compile dialect."""

    frontend: Frontend = Frontend()
    graph: Graph = Graph()
    backend: BackendSection = BackendSection()

    @property
    def inputs(self) -> dict[str, list[Any]]:
        """The shapes of the inputs by name; empty if they are not given."""
        return self.frontend.shape or {}


MODELS: dict[Dialect, type[BuildDialect] | type[CompileDialect]] = {"build": BuildDialect, "compile": CompileDialect}

# Keys of the same meaning in the earlier form of the build dialect and in the compile dialect: first those with other
# names than in the equivalent section of the other dialect, then the sections of all others.
EQUIVALENT = (
    ("model.name", "name"),
    ("model.inputs", "frontend.shape"),
    ("engine.add_extra_ops_to_graph", "graph.extra_ops"),
    ("engine.extra_ops", "graph.extra_ops"),  # of the later form, read only
    ("engine.calibration.quant_mode", "backend.quantize.calibrate_mode"),
    ("engine.calibration.per_channel", "backend.quantize.quantize_per_channel"),
    ("dataset.transform_ops", "dataset.process_ops"),
    ("workspace.work_dir", "workspace.path"),
    ("engine.calibration", "backend.quantize"),
    ("engine.common", "backend.compile"),
    ("engine", "backend"),
    ("model", "frontend"),
)


def translated(key: str, to: Dialect) -> str:
    """Return the dotted path in a dialect of a key of the other dialect."""
    for build, compile_ in EQUIVALENT:
        own, other = (build, compile_) if to == "build" else (compile_, build)
        if f"{key}.".startswith(f"{other}."):
            return own + key.removeprefix(other)
    return key


def place(key: str, dialect: Dialect) -> KeyPath:
    """Return the path in a dialect of a key that is given as the compile dialect has it, such as ``frontend.shape``."""
    return tuple((key if dialect == "compile" else translated(key, dialect)).split("."))


def dialect_of(document: Document) -> Dialect:
    """Return the dialect of a file by its top-level keys.

    Raises:
        YamlError: the file is empty, is not a mapping, or has no section of either dialect.
    """
    data = document.data
    if data is None:
        raise YamlError("the file is empty", where=document.where, fix="write one with `quantkit vamc write`")
    if not isinstance(data, dict):
        raise YamlError("a build file is a mapping of sections", line=1, where=document.where)
    build, compile_ = _build_sections(data), _compile_sections(data)
    if build == compile_ == 0:
        raise YamlError(
            "not a build file: neither `frontend` and `backend` (vamc compile) nor `model` and `engine` (vamc build)",
            line=document.line_of(tuple(data)[:1]),
            where=document.where,
        )
    return "build" if build > compile_ else "compile"


def _build_sections(data: dict[str, Any]) -> int:
    """Return the number of sections of the build dialect. A `model` alone is one if it has a model to build."""
    model = data.get("model")
    # A compile file may have a plain `model`, and other programs have `model` sections, too.
    own = isinstance(model, dict) and ("engine" in data or "checkpoint" in model or "inputs" in model)
    return own + isinstance(data.get("engine"), dict)


def _compile_sections(data: dict[str, Any]) -> int:
    """Return the number of keys of the compile dialect. Other programs have `name` and `graph`, too."""
    own = sum(key in data for key in ("frontend", "backend"))
    shared = sum(key in data for key in ("name", "graph"))
    return own + shared if own or "dataset" in data or "workspace" in data or shared == 2 else 0


def read_file(document: Document, dialect: Dialect) -> BuildDialect | CompileDialect:
    """Read a file leniently (see `fields`).

    Raises:
        VendorFileError: a value is invalid; the message has its line.
    """
    try:
        return MODELS[dialect].model_validate(document.data)
    except ValidationError as error:
        raise first_error(error, document) from error


def first_error(error: ValidationError, document: Document) -> VendorFileError:
    """Return the first error of pydantic as an error in one line."""
    fault = error.errors(include_url=False)[0]
    return YamlError(
        f"`{dotted(fault['loc'])}` {fault_text(fault)}", line=document.line_of(fault["loc"]), where=document.where
    )


def dotted(path: tuple[str | int, ...]) -> str:
    """Return a path as ``dataset.process_ops[1].size``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


_KINDS = {"model_type": "a section", "dict_type": "a section", "list_type": "a list"}


def fault_text(fault: Any) -> str:
    """Return the fault of a value, as the end of a sentence about its key."""
    kind = _KINDS.get(fault["type"])
    return str(fault["msg"]) if kind is None else f"must be {kind}"
