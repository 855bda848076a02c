"""Devices for inference: execution provider of onnxruntime, device index, batch size and options.

By default, providers compute float32 in full precision, because fp32 is the reference of all comparisons: CUDA without
TF32 (onnxruntime's default), OpenVINO without bfloat16.
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
# The providers of each kind of device, in order of preference for a node. Nodes that TensorRT does not support run on
# CUDA, on the same device.
PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
    "openvino": ("OpenVINOExecutionProvider",),
}
# Devices that `auto` tries before the CPU. TensorRT builds engines for minutes, so it must be selected explicitly.
_PREFERRED = ("cuda", "openvino")
_PACKAGES = {"cuda": "onnxruntime-gpu", "tensorrt": "onnxruntime-gpu", "openvino": "onnxruntime-openvino"}
# Providers with numbered devices.
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
    """A device for inference.

    Scores differ between devices by the rounding of their kernels, and between batch sizes only if the provider selects
    other kernels.

    Attributes:
        kind: ``cpu``, ``cuda``, ``tensorrt``, ``openvino``, or ``auto``: CUDA, OpenVINO or the CPU, the first that
            starts.
        index: index of the device from 0, for CUDA and TensorRT.
        batch: batch size, at least 1; a batch size fixed by the model takes precedence.
        options: options of the provider as documented by onnxruntime: a mapping of names to values, stored as sorted
            pairs.
        fallback: whether layers may run on the CPU, which is an error otherwise. It is set for devices selected by
            `auto`.

    Raises:
        UsageError: an unknown kind, or an invalid batch or index.

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
                f"the device {self.kind} has no options",
                where="--provider-option",
                fix="name the provider with --device",
            )

    @classmethod
    def parse(cls, text: str, *, batch: int = 1, options: Iterable[str] = ()) -> Self:
        """Return the device of ``KIND`` or ``KIND:INDEX``, with options of the form ``KEY=VALUE``.

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
        """The kind, with the index if it is not 0: ``cpu``, ``cuda:1``."""
        return f"{self.kind}:{self.index}" if self.index else self.kind

    @property
    def is_cpu(self) -> bool:
        """Whether this is onnxruntime's CPU provider."""
        return self.kind == "cpu"

    @property
    def provider(self) -> str:
        """The execution provider of onnxruntime with the highest priority."""
        return PROVIDERS[self.kind][0]

    @property
    def settings(self) -> dict[str, str]:
        """The options that scores depend on: those given, and the default precision of the provider."""
        return _precise(self.provider, dict(_pairs(self.options))) if self.kind != AUTO else {}

    def providers(self, *, quantized: bool = False) -> list[str | tuple[str, dict[str, str]]]:
        """Return the providers of a session; the last one is the CPU, for nodes that the others do not support.

        Args:
            quantized: whether the model has QuantizeLinear and DequantizeLinear nodes; TensorRT needs an option for
                them.
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
        """Return the settings that the scores depend on, which exclude batch size and fallback."""
        return {"device": self.name, "options": self.settings}

    def describe(self) -> str:
        """Return the identity in one line: ``cpu``, ``openvino (precision=FP32)``, ``cuda:1 (use_tf32=0)``."""
        options = " ".join(f"{name}={value}" for name, value in sorted(self.settings.items()))
        return f"{self.name} ({options})" if options else self.name

    def resolved(self) -> "Device":
        """Return this device, or the one that `auto` selects on this machine.

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
        """Load CUDA, cuDNN and TensorRT installed by pip, and create the folder of TensorRT's engines.

        onnxruntime searches only the system's libraries.

        Raises:
            OutputError: the folder cannot be created.
        """
        if self.provider == _TENSORRT and "trt_engine_cache_path" not in self.settings:
            make_folder(user_cache_folder() / _ENGINES)
        if self.provider == _TENSORRT:
            with contextlib.suppress(ImportError):
                importlib.import_module("tensorrt")  # it loads its libraries, which onnxruntime then finds
        preload = getattr(ort, "preload_dlls", None)
        if self.kind in _NUMBERED and preload is not None:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints missing libraries
                preload()

    def _starts(self) -> bool:
        """Return whether the provider works: onnxruntime also lists it if its driver is missing."""
        text = '<ir_version: 8, opset_import: ["": 13]> starts (float[1] x) => (float[1] y) { y = Relu(x) }'
        model = onnx.parser.parse_model(text)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        self.load_libraries()
        try:
            session = ort.InferenceSession(model.SerializeToString(), options, self.providers(), enable_fallback=0)
        except Exception:  # the exception classes of onnxruntime derive directly from Exception
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
