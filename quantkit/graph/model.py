"""Reading, checking, atomic writing and digests of ONNX files."""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes.common import CheckerPass
from onnx_ir.serde import SerdeError

from quantkit.errors import ModelError
from quantkit.files import reason, replacing, sha256_file, sha256_json
from quantkit.graph.analysis.values import is_op
from quantkit.graph.repair import as_checked, free_sizes, repair
from quantkit.graph.sparse import make_dense

# A protobuf message is limited to 2 GiB; above this size the tensors are stored in a separate file.
INLINE_LIMIT_BYTES = 1_800_000_000
# External tensors up to this size are read at once, larger ones are mapped.
MAPPED_FROM_BYTES = 1024
_DATA_DIGITS = 12
# onnxruntime's operators on blocked channels.
BLOCKED_DOMAIN = "com.microsoft.nchwc"

QUANTIZED_OPS = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "ConvInteger",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "QLinearAdd",
        "QLinearMul",
        "QLinearConcat",
        "QLinearAveragePool",
        "QLinearGlobalAveragePool",
        "QLinearSigmoid",
        "QLinearLeakyRelu",
        "QLinearSoftmax",
        "QLinearWhere",
        "QGemm",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
        "MatMulNBits",
        "QAttention",
    }
)


def read_model(path: Path, *, allow_quantized: bool = False) -> ir.Model:
    """Read and check an ONNX file; external data is mapped into memory, not loaded.

    Args:
        path: the ``.onnx`` file; its external data is in the same folder.
        allow_quantized: accept a model with quantized operators.

    Raises:
        ModelError: the file cannot be read, is truncated, or has no valid graph; its external data is missing, too
            short or outside its folder; it is already quantized, or was optimized for one type of processor; or a
            weight contains NaN.
    """
    model = _load(path)
    _take_in_small_tensors(model, path)
    _repair(model, path)
    if not allow_quantized:
        _refuse_blocked(model, path)
        _refuse_quantized(model, path)
    _check_graph(model, path)
    _refuse_nan(model, path)
    return model


def read_with_faults(path: Path) -> tuple[ir.Model, tuple[ModelError, ...]]:
    """Read an ONNX file as far as possible, with all faults for which `read_model` would reject it.

    If there are faults, the model must only be inspected.

    Raises:
        ModelError: the file cannot be read, or has no graph.
    """
    model = _parse(path)
    faults = _faults(model, path, _check_external_data)
    # Without the external data the weights cannot be checked.
    checks = (_refuse_quantized,) if faults else (_take_in_small_tensors, _refuse_quantized, _check_graph, _refuse_nan)
    return model, (*faults, *(fault for check in checks for fault in _faults(model, path, check)))


def _faults(model: ir.Model, path: Path, check: Callable[[ir.Model, Path], None]) -> tuple[ModelError, ...]:
    try:
        check(model, path)
    except ModelError as fault:
        return (fault,)
    return ()


def save_model(model: ir.Model, path: Path) -> None:
    """Write a model atomically.

    Up to `INLINE_LIMIT_BYTES` of tensors are stored in the file itself, more in a separate data file in the same
    folder. Its name contains a digest of the data, so a model and its data match even after an interruption.

    Raises:
        OutputError: the file cannot be written.
    """
    size = sum(tensor.nbytes for _, tensor in stored_tensors(model))
    data = path.with_name(_data_name(model, path)) if size > INLINE_LIMIT_BYTES else None
    before = _data_files(path)
    try:
        with replacing(path) as temporary:
            if data is None:
                _save_inline(model, temporary)
            else:
                ir.save(model, temporary, external_data=data.name)
    except BaseException:
        for file in _data_files(path) - before:
            file.unlink(missing_ok=True)
        raise
    for file in before - {data}:
        file.unlink(missing_ok=True)


def model_digest(path: Path) -> str:
    """Return a hex SHA-256 of the model file and of its external data.

    Without external data it is the digest of the file's bytes; with it, of the digests of all files.

    Raises:
        ModelError: the file or its external data is missing or damaged.
    """
    data = model_files(path)[1:]
    digest = sha256_file(path)
    if not data:
        return digest
    places = {file.relative_to(path.parent).as_posix(): sha256_file(file) for file in data}
    return sha256_json({"model": digest, "data": places})


def model_files(path: Path) -> list[Path]:
    """Return the model file and then the files of its external data, sorted.

    Raises:
        ModelError: the file or its external data is missing or damaged.
    """
    model = _load(path)
    places = {str(tensor.location) for _, tensor in stored_tensors(model) if isinstance(tensor, ir.ExternalTensor)}
    return [path, *(path.parent / place for place in sorted(places))]


def is_quantized(model: ir.Model) -> bool:
    """Return whether a model contains quantized operators, written by quantkit or another tool."""
    return any(node.op_type in QUANTIZED_OPS for node in model.graph.all_nodes())


def _load(path: Path) -> ir.Model:
    """Parse a model file and locate its external data, without reading the weights."""
    model = _parse(path)
    _check_external_data(model, path)
    return model


def _parse(path: Path) -> ir.Model:
    if path.is_dir():
        raise ModelError("is a folder", where=path, fix="give the .onnx file in it")
    if not path.is_file():
        raise ModelError("there is no such model file", where=path)
    try:
        model = parse_file(path)
    except ModelError as error:
        raise ModelError(error.what, where=path, fix=error.fix) from error
    except DecodeError as error:
        raise ModelError("is not an ONNX file, or is truncated", where=path) from error
    except OSError as error:
        raise ModelError(f"cannot be read ({reason(error)})", where=path) from error
    except (SerdeError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise ModelError(f"is not a valid ONNX model ({_first_line(_root_cause(error))})", where=path) from error
    if not model.opset_imports or len(model.graph) == 0:
        raise ModelError("has no graph", where=path, fix="give an ONNX model")
    free_sizes(model)
    return model


def parse_file(path: Path) -> ir.Model:
    """Parse a file as `onnx_ir.load` does, with its sparse weights as dense ones; nothing is checked.

    Raises:
        ModelError: a sparse weight is not valid, or too large as a dense one.
        Exception: the file cannot be read, or is not an ONNX file; protobuf and its readers raise several classes.
    """
    proto = onnx.load(path, format="protobuf", load_external_data=False)
    make_dense(proto)
    model = ir.from_proto(proto)
    ir.external_data.set_base_dir(model.graph, path.parent)
    return model


def _repair(model: ir.Model, path: Path) -> None:
    try:
        repair(model)
    except ModelError as error:
        raise ModelError(f"is not a valid ONNX model ({error.what})", where=path) from error


def _take_in_small_tensors(model: ir.Model, path: Path) -> None:
    """Load small external tensors: shapes and axes, which checks and shape inference need."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes <= MAPPED_FROM_BYTES:
                value.const_value = ir.Tensor(_read(tensor, path).copy(), dtype=tensor.dtype, name=tensor.name)
                tensor.release()


def _read(tensor: ir.TensorProtocol, path: Path) -> npt.NDArray[np.generic]:
    try:
        return np.asarray(tensor.numpy())
    except (ValueError, OSError) as error:
        # onnx_ir rejects links to other folders, and files with a second hard link elsewhere.
        raise ModelError(f"the data of {tensor.name!r} cannot be read ({_first_line(error)})", where=path) from error


def stored_tensors(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Yield every tensor stored in the model, with the name of its value or node."""
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield name, value.const_value
    for node in model.graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                yield _first_output(node) or node.op_type, attribute.as_tensor()


def _first_output(node: ir.Node) -> str:
    """Return the name of a node's first output, which may be missing because the graph is not checked yet."""
    return (node.outputs[0].name or "") if node.outputs else ""


def _check_external_data(model: ir.Model, path: Path) -> None:
    for name, tensor in stored_tensors(model):
        if tensor.dtype == ir.DataType.UNDEFINED:
            raise ModelError(f"the weight {name!r} has no element type", where=path, fix="export the model again")
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        location = str(tensor.location)
        pure = (PurePosixPath(location), PureWindowsPath(location))
        if any(place.is_absolute() or ".." in place.parts for place in pure):
            raise ModelError(f"the data of {name!r} is outside the model's folder ({location})", where=path)
        file = path.parent / location
        if not file.is_file():
            raise ModelError(
                f"its external data file {location!r} is missing", where=path, fix=f"put it in {path.parent}"
            )
        end = (tensor.offset or 0) + (tensor.nbytes if tensor.length is None else tensor.length)
        if file.stat().st_size < end or (tensor.length is not None and tensor.length < tensor.nbytes):
            raise ModelError(f"is too short for the tensor {name!r}", where=file, fix="copy or export the model again")


def _refuse_quantized(model: ir.Model, path: Path) -> None:
    """Reject integer operators; weights stored as integers are treated as constants."""
    stored: set[ir.Value] = set()
    for node in model.graph.all_nodes():
        if all(value is None or value in stored or value.is_initializer() for value in node.inputs):
            stored.update(node.outputs)
            if is_op(node, "DequantizeLinear", "QuantizeLinear"):
                continue
        if node.op_type in QUANTIZED_OPS:
            label = node.name or _first_output(node)
            raise ModelError(
                f"is already quantized: node {label!r} is {node.op_type}", where=path, fix="give the fp32 model"
            )


def _refuse_blocked(model: ir.Model, path: Path) -> None:
    """Reject a model that onnxruntime saved with blocked weights, because the block size depends on the processor."""
    blocked = next((node for node in model.graph.all_nodes() if node.domain == BLOCKED_DOMAIN), None)
    if blocked is not None:
        raise ModelError(
            f"was optimized by onnxruntime for one type of processor: node {blocked.name or _first_output(blocked)!r} "
            f"is {blocked.op_type} of {BLOCKED_DOMAIN}",
            where=path,
            fix="give the original model, or save it with ORT_ENABLE_EXTENDED instead of ORT_ENABLE_ALL",
        )


def _check_graph(model: ir.Model, path: Path) -> None:
    newest, used = onnx.defs.onnx_opset_version(), model.opset_imports.get("", 1)
    if used > newest:  # the checker would treat it as the newest that it knows
        raise ModelError(
            f"has opset {used}, and the installed onnx supports {newest}",
            where=path,
            fix="export it with an older opset, or install a newer onnx",
        )
    try:
        with as_checked(model):
            CheckerPass()(model)
    except Exception as error:
        # The checker reports an invalid model by several C++ exception types without a common base, and the conversion
        # before it raises others.
        raise ModelError(f"is not a valid ONNX model ({_first_line(_root_cause(error))})", where=path) from error


def _refuse_nan(model: ir.Model, path: Path) -> None:
    for name, tensor in stored_tensors(model):
        if tensor.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16):
            # min() propagates NaN, and needs no array of flags as large as the weights.
            if tensor.size and np.isnan(_read(tensor, path).astype(np.float32, copy=False).min()):
                raise ModelError(
                    f"the weight {name!r} contains NaN", where=path, fix="repair or export the checkpoint again"
                )
            if isinstance(tensor, ir.ExternalTensor):
                tensor.release()


def _save_inline(model: ir.Model, path: Path) -> None:
    """Write one file that includes tensors mapped from an external file."""
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    mapped = [(value, value.const_value) for value in values if isinstance(value.const_value, ir.ExternalTensor)]
    try:
        for value, tensor in mapped:
            value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
        ir.save(model, path)
    finally:
        for value, tensor in mapped:
            value.const_value = tensor


def _root_cause(error: BaseException) -> BaseException:
    """Return the innermost cause of an error; onnx_ir wraps it once per level."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _data_name(model: ir.Model, path: Path) -> str:
    digest = hashlib.sha256()
    for name, tensor in stored_tensors(model):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        if tensor.dtype != ir.DataType.STRING:  # strings are stored in the model
            digest.update(tensor.tobytes())
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()
    return f"{path.name}.{digest.hexdigest()[:_DATA_DIGITS]}.data"


def _data_files(path: Path) -> set[Path]:
    """Return the data files that were written for a model of this name."""
    form = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{{_DATA_DIGITS}}}\.data")
    return {file for file in path.parent.glob("*.data") if form.fullmatch(file.name)}


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
