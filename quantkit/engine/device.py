"""Devices that models run on: which execution provider of onnxruntime, which of its devices, and its options.

Providers are set up so that float32 stays float32, for the scores of an fp32 model are what all else is compared with:
CUDA does without TF32 (onnxruntime uses it by default), OpenVINO without bfloat16.
"""

import contextlib
import importlib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import onnx
import onnxruntime as ort

from quantkit.config.arguments import require
from quantkit.errors import DeviceError, UsageError
from quantkit.files import make_folder, user_cache_folder

AUTO = "auto"
# The providers of each kind of device, in the order in which onnxruntime is to ask them for a node. What TensorRT
# cannot run is run by CUDA, on the same device.
PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
    "openvino": ("OpenVINOExecutionProvider",),
}
# What `auto` tries before the CPU. TensorRT builds engines for minutes, so it is used only where it is named.
_PREFERRED = ("cuda", "openvino")
_PACKAGES = {"cuda": "onnxruntime-gpu", "tensorrt": "onnxruntime-gpu", "openvino": "onnxruntime-openvino"}
# Providers whose devices are told apart by number.
_NUMBERED = ("cuda", "tensorrt")
# Options that are given unless the user gives one of the names behind them; see the top of this file.
_PRECISE = {
    "CUDAExecutionProvider": ("use_tf32", "0", ()),
    "OpenVINOExecutionProvider": ("precision", "FP32", ("load_config",)),
}
_TENSORRT = "TensorrtExecutionProvider"
_ENGINES = "tensorrt"  # folder of TensorRT's engines in the user's cache


def _pairs(options: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return names and values of options as text."""
    pairs = options.items() if isinstance(options, Mapping) else options
    return [(str(name), str(value)) for name, value in pairs]


@dataclass(frozen=True)
class Device:
    """Where models run.

    Scores differ between devices by what their kernels round otherwise. They do not depend on the batch but for that:
    a provider may choose other kernels for other batches.

    Attributes:
        kind: ``cpu``, ``cuda``, ``tensorrt``, ``openvino``, or ``auto``: CUDA, OpenVINO or the CPU, the first that
            starts.
        index: which of several devices, from 0; for CUDA and TensorRT.
        batch: images that run together, at least 1; a batch size that the model fixes takes precedence.
        options: of the provider, as onnxruntime documents them: a mapping of names to values, kept as sorted pairs.
        fallback: layers may run on the CPU. It is set for what `auto` has found; otherwise that is an error.

    Raises:
        UsageError: no such kind, or a batch or index that is none.

    Example:
        >>> import quantkit
        >>> quantkit.Device(kind="cuda", batch=32).is_cpu
        False
        >>> quantkit.Device("openvino", options={"precision": "ACCURACY"}).describe()
        'openvino (precision=ACCURACY)'
    """

    kind: str = "cpu"
    index: int = 0
    batch: int = 1
    options: Mapping[str, str] | tuple[tuple[str, str], ...] = ()
    fallback: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(sorted(_pairs(self.options))))
        if self.kind not in (*PROVIDERS, AUTO):
            raise UsageError(
                f"unknown device {self.kind!r}", where="--device", fix=f"choose {', '.join(PROVIDERS)} or {AUTO}"
            )
        if self.index < 0 or (self.index and self.kind not in _NUMBERED):
            raise UsageError(f"{self.kind} has no device {self.index}", where="--device", fix="leave out the number")
        if self.batch < 1:
            raise UsageError(f"invalid batch {self.batch}", where="--batch", fix="give a number from 1 up")
        if self.options and self.kind in ("cpu", AUTO):
            raise UsageError(
                f"the device {self.kind} takes no options",
                where="--provider-option",
                fix="name the provider with --device",
            )

    @classmethod
    def parse(cls, text: str, *, batch: int = 1, options: Iterable[str] = ()) -> Self:
        """Return the device of ``KIND`` or ``KIND:INDEX``, with options written ``KEY=VALUE``.

        Raises:
            UsageError: the text or an option is malformed.
        """
        found = re.fullmatch(r"([a-z]+)(?::(\d{1,3}))?", text)
        if found is None:
            raise UsageError(f"invalid device {text!r}", where="--device", fix="write cpu, openvino, cuda or cuda:1")
        pairs = {}
        for option in options:
            name, equals, value = option.partition("=")
            if not (name and equals) or name in pairs:
                what = "is given twice" if name in pairs else "is not of the form KEY=VALUE"
                raise UsageError(f"{option!r} {what}", where="--provider-option")
            pairs[name] = value
        return cls(found[1], int(found[2] or 0), batch, pairs)

    @property
    def name(self) -> str:
        """Kind, with the index where it is not 0: ``cpu``, ``cuda:1``."""
        return f"{self.kind}:{self.index}" if self.index else self.kind

    @property
    def is_cpu(self) -> bool:
        """Whether this is onnxruntime's own provider for the CPU."""
        return self.kind == "cpu"

    @property
    def provider(self) -> str:
        """The execution provider of onnxruntime that is asked first."""
        return PROVIDERS[self.kind][0]

    @property
    def settings(self) -> dict[str, str]:
        """The options that scores depend on: those given, and those that keep float32 what it is."""
        return _precise(self.provider, dict(_pairs(self.options))) if self.kind != AUTO else {}

    def providers(self, *, quantized: bool = False) -> list[str | tuple[str, dict[str, str]]]:
        """Return the providers to open a session with, the CPU's last: it runs what the others do not take.

        Args:
            quantized: the model has QuantizeLinear and DequantizeLinear nodes, for which TensorRT needs to be told that
                int8 is allowed.
        """
        if self.is_cpu:
            return [*PROVIDERS["cpu"]]
        number = {"device_id": str(self.index)} if self.kind in _NUMBERED else {}
        own = number | self.settings
        if self.provider == _TENSORRT:
            own = _engine_cache() | ({"trt_int8_enable": "1"} if quantized else {}) | own
        others = [(other, number | _precise(other, {})) for other in PROVIDERS[self.kind][1:]]
        return [(self.provider, own), *others, *PROVIDERS["cpu"]]

    def identity(self) -> dict[str, Any]:
        """Return what the scores depend on; neither the batch nor whether layers may fall back."""
        return {"device": self.name, "options": self.settings}

    def describe(self) -> str:
        """Return the identity in one line: ``cpu``, ``openvino (precision=FP32)``, ``cuda:1 (use_tf32=0)``."""
        options = " ".join(f"{name}={value}" for name, value in sorted(self.settings.items()))
        return f"{self.name} ({options})" if options else self.name

    def resolved(self) -> "Device":
        """Return the device itself, or the one that `auto` stands for here.

        Raises:
            DeviceError: this onnxruntime has no such provider.
        """
        there = ort.get_available_providers()
        if self.kind == AUTO:
            candidates = [replace(self, kind=kind, fallback=True) for kind in _PREFERRED if PROVIDERS[kind][0] in there]
            return next((one for one in candidates if one._starts()), replace(self, kind="cpu"))
        if self.provider not in there:
            package = _PACKAGES[self.kind]
            raise DeviceError(
                f"this onnxruntime has no {self.provider}; it has {', '.join(there)}",
                where=f"--device {self.name}",
                fix=f"pip uninstall onnxruntime, then pip install {package}",
            )
        return self

    def load_libraries(self) -> None:
        """Load CUDA, cuDNN and TensorRT where pip has put them, and make the folder that TensorRT keeps its engines in.

        onnxruntime itself looks for libraries only where the system has them.

        Raises:
            OutputError: the folder cannot be made.
        """
        if self.provider == _TENSORRT and "trt_engine_cache_path" not in self.settings:
            make_folder(user_cache_folder() / _ENGINES)
        if self.provider == _TENSORRT:
            with contextlib.suppress(ImportError):
                importlib.import_module("tensorrt")  # it loads its libraries, which onnxruntime then finds
        preload = getattr(ort, "preload_dlls", None)
        if self.kind in _NUMBERED and preload is not None:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
                preload()

    def _starts(self) -> bool:
        """Return whether the provider runs anything: onnxruntime lists it also where its driver is missing."""
        values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
        graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "starts", values[:1], values[1:])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        self.load_libraries()
        try:
            session = ort.InferenceSession(model.SerializeToString(), options, self.providers(), enable_fallback=0)
        except Exception:  # onnxruntime raises classes of its own, all derived from Exception alone
            return False
        return self.provider in session.get_providers()


CPU = Device()


def as_device(value: Device | str) -> Device:
    """Return a device as it is, or that of a text such as ``cuda:1``.

    Raises:
        UsageError: it is neither, or there is no such device.
    """
    return Device.parse(value) if isinstance(value, str) else require(Device, value, "device")


def _precise(provider: str, options: dict[str, str]) -> dict[str, str]:
    """Return options of a provider, with the one that keeps float32 what it is, unless they say otherwise."""
    if provider not in _PRECISE:
        return options
    name, value, others = _PRECISE[provider]
    without_float32 = "NPU" in options.get("device_type", "")
    return options if without_float32 or any(one in options for one in others) else {name: value} | options


def _engine_cache() -> dict[str, str]:
    """Return options that keep TensorRT's engines and timings between runs.

    onnxruntime names the files by model, shapes, TensorRT version and GPU.
    """
    folder = str(user_cache_folder() / _ENGINES)
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    }
