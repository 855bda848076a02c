"""onnxruntime sessions, made one way everywhere."""

import functools
import os
from pathlib import Path

import onnxruntime as ort

from quantkit.errors import ModelError

PROVIDERS = ["CPUExecutionProvider"]


def open_session(
    model: Path | bytes, *, threads: int = 1, optimized: Path | None = None, fuse: bool = True, pooled: bool = False
) -> ort.InferenceSession:
    """Open a model on the CPU.

    Args:
        model: path or serialized model.
        threads: threads within one run; passes use 1 and run several images at once instead.
        optimized: where onnxruntime is to write the graph it made of the model.
        fuse: let onnxruntime optimize; False runs the graph unchanged, QDQ pairs in floating point.
        pooled: take the memory of tensors from one pool of all such sessions, so that those which run in turn use the
            same; it stays with the process.

    Raises:
        ModelError: onnxruntime cannot load the model; its own words are passed on.
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
    try:
        return ort.InferenceSession(model if isinstance(model, bytes) else os.fspath(model), options, PROVIDERS)
    except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception alone
        raise ModelError(f"onnxruntime cannot load it ({first_line(error)})", where=where) from error


@functools.cache
def _make_pool() -> None:
    """Register the memory pool with onnxruntime, once in a process."""
    kind = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(kind, None)


def default_threads() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def first_line(error: Exception) -> str:
    """Return the first line of an error's own words, shortened."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
