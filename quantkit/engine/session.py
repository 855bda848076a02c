"""onnxruntime sessions, opened in one place."""

import functools
import os
import re
from pathlib import Path

import onnxruntime as ort

from quantkit.engine.device import CPU, Device
from quantkit.engine.placement import placement_of
from quantkit.engine.tensorrt import check_quantized
from quantkit.errors import DeviceError, ModelError

# Where onnxruntime's messages may begin: file, line and signature of the function that failed.
_IN_THE_SOURCE = re.compile(r"^\S+\.cc:\d+ [^\n]*\) ")


def open_session(
    model: Path | bytes,
    *,
    device: Device = CPU,
    threads: int = 1,
    optimized: Path | None = None,
    fuse: bool = True,
    pooled: bool = False,
) -> ort.InferenceSession:
    """Open a model.

    Args:
        model: path or serialized model.
        device: where it runs, from `quantkit.engine.device.Device.resolved`.
        threads: threads within one run; passes use 1 and run several images at once instead.
        optimized: where onnxruntime is to write the graph it made of the model.
        fuse: let onnxruntime optimize; False runs the graph unchanged, QDQ pairs in floating point.
        pooled: take the memory of tensors from one pool of all such sessions, so that those which run in turn use the
            same; it stays with the process.

    Raises:
        ModelError: onnxruntime cannot load the model; its own words are passed on.
        DeviceError: the device is not there, does not take its options, or leaves layers to the CPU.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not fuse:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if pooled:
        _make_pool()
        options.add_session_config_entry("session.use_env_allocators", "1")
        # Weights are not to stay behind in the pool when the session is gone.
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
    except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception alone
        raise ModelError(f"onnxruntime cannot load it ({first_line(error)})", where=where) from error


def _open_on(
    device: Device, source: str | bytes, options: ort.SessionOptions, where: object, quantized: bool
) -> ort.InferenceSession:
    """Open a model on another device than the CPU, and see that it runs there."""
    name = device.provider
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    device.load_libraries()
    try:
        # Otherwise onnxruntime prints the error, and goes on with the CPU.
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
    """Register the memory pool with onnxruntime, once in a process."""
    kind = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(kind, None)


def default_threads() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def first_line(error: Exception) -> str:
    """Return the first line of an error's own words, shortened, without the place in onnxruntime's own code."""
    text = _IN_THE_SOURCE.sub("", str(error).strip())
    return text.splitlines()[0][:300] if text else type(error).__name__
