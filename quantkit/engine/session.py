"""Opens onnxruntime sessions."""

import functools
import os
import re
import tempfile
from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort

from quantkit.engine.device import CPU, Device
from quantkit.engine.placement import placement_of
from quantkit.engine.tensorrt import check_quantized
from quantkit.errors import DeviceError, ModelError
from quantkit.graph.model import save_model, stored_tensors

# Possible start of onnxruntime's messages: file, line and signature of the function that failed.
_IN_THE_SOURCE = re.compile(r"^\S+\.cc:\d+ [^\n]*\) ")


def open_session(
    model: Path | bytes,
    *,
    device: Device = CPU,
    threads: int = 1,
    optimized: Path | None = None,
    fuse: bool = True,
) -> ort.InferenceSession:
    """Open a session.

    Args:
        model: path or serialized model.
        device: a device from `quantkit.engine.device.Device.resolved`.
        threads: threads within one run; passes use 1 and run several images in parallel.
        optimized: file for the graph optimized by onnxruntime.
        fuse: let onnxruntime optimize; False runs the graph unchanged, with QDQ pairs in float.

    Raises:
        ModelError: onnxruntime cannot load the model; the message includes its reason.
        DeviceError: the device is not available, does not accept its options, or leaves layers to the CPU.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not fuse:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if device.is_cpu:
        _make_pool()
        options.add_session_config_entry("session.use_env_allocators", "1")
        # Weights must not remain in the pool after the session is closed.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if optimized is not None:
        options.optimized_model_filepath = os.fspath(optimized)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{optimized.name}.data"
        )
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    where = "the model" if isinstance(model, bytes) else model
    source = model if isinstance(model, bytes) else os.fspath(model)
    if not device.is_cpu:
        quantized = device.kind == "tensorrt" and check_quantized(model, where)
        return _open_on(device, source, options, where, quantized)
    try:
        return ort.InferenceSession(source, options, device.providers())
    except Exception as error:  # the exception classes of onnxruntime derive directly from Exception
        raise ModelError(f"onnxruntime cannot load it ({first_line(error)})", where=where) from error


def open_model(model: ir.Model, device: Device = CPU) -> ort.InferenceSession:
    """Return a session of a model in memory, whose weights may be in an external file.

    Raises:
        ModelError: onnxruntime cannot load the model; the message includes its reason.
        DeviceError: the device does not run it.
    """
    if not any(isinstance(tensor, ir.ExternalTensor) for _, tensor in stored_tensors(model)):
        return open_session(ir.serde.serialize_model(model).SerializeToString(), device=device)
    # A serialized model has no folder that its external file could be in.
    with tempfile.TemporaryDirectory(prefix="quantkit-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        return open_session(path, device=device)


def _open_on(
    device: Device, source: str | bytes, options: ort.SessionOptions, where: object, quantized: bool
) -> ort.InferenceSession:
    """Open a session on a device other than the CPU, and check that the model runs on it."""
    name = device.provider
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    device.load_libraries()
    try:
        # Otherwise onnxruntime prints the error, and falls back to the CPU.
        session = ort.InferenceSession(source, options, device.providers(quantized=quantized), enable_fallback=0)
    except Exception as error:
        raise DeviceError(f"{name} cannot run it ({first_line(error)})", where=where) from error
    if device.fallback:
        return session
    if name not in session.get_providers():
        raise DeviceError(
            f"{name} could not be started; onnxruntime would use {session.get_providers()[0]}",
            where=f"--device {device.name}",
            fix=_missing_libraries(device),
        )
    placed = placement_of(session, device)
    if placed.layers_on_cpu:
        raise DeviceError(
            f"{name} leaves {placed.layers_on_cpu} of {placed.layers} layers to the CPU",
            where=where,
            fix="give --device auto to allow that, or --device cpu",
        )
    return session


def _missing_libraries(device: Device) -> str:
    """Return what to install where a provider is there and does not start."""
    packages = {
        "cuda": "an NVIDIA driver, and pip install 'onnxruntime-gpu[cuda,cudnn]'",
        "tensorrt": "an NVIDIA driver, and pip install 'onnxruntime-gpu[cuda,cudnn]' tensorrt",
    }
    needed = packages.get(device.kind, "the provider's libraries")
    return f"see that the version of onnxruntime fits what is installed ({needed}), or give --device auto"


@functools.cache
def _make_pool() -> None:
    """Register the memory pool with onnxruntime, once per process."""
    kind = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    # No more memory than requested: the default doubles it.
    ort.create_and_register_allocator(kind, ort.OrtArenaCfg(0, 1, -1, -1))


def first_line(error: Exception) -> str:
    """Return the shortened first line of an error message, without the location in onnxruntime's source."""
    text = _IN_THE_SOURCE.sub("", str(error).strip())
    return text.splitlines()[0][:300] if text else type(error).__name__
