"""Where a model really runs: the execution provider of each of its nodes, as onnxruntime assigned them."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import onnxruntime as ort

from quantkit.engine.device import PROVIDERS, Device
from quantkit.records import plain_fields

# Operators whose arithmetic is nearly all of a classifier's; what else runs on the CPU is not worth an error.
_LAYERS = frozenset(
    ("Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm")
)
_CPU = PROVIDERS["cpu"][0]


@dataclass(frozen=True)
class DevicePlacement:
    """Where one model runs.

    Attributes:
        device: that was asked for, or that ``auto`` found: ``cpu``, ``openvino``, ``cuda:1``.
        provider: the execution provider of onnxruntime that was asked first.
        options: of the provider, those that scores depend on.
        onnxruntime: its version.
        layers: convolutions, fully connected layers and matrix products; None where onnxruntime does not tell.
        layers_on_cpu: those of them that run on the CPU's provider; None as above.
        nodes: nodes by provider, counted in the graph that the providers were offered; empty as above.
        left_to_cpu: nodes that another provider left to the CPU's, counted by operator.

    Example:
        >>> import quantkit
        >>> quantkit.DevicePlacement("cpu", "CPUExecutionProvider").describe()
        'cpu'
    """

    device: str
    provider: str
    options: tuple[tuple[str, str], ...] = ()
    onnxruntime: str = ort.__version__
    layers: int | None = None
    layers_on_cpu: int | None = None
    nodes: tuple[tuple[str, int], ...] = ()
    left_to_cpu: tuple[tuple[str, int], ...] = ()

    def describe(self) -> str:
        """Return it in one line: device and provider, options, and what is left to the CPU."""
        if self.provider == _CPU:
            return self.device
        options = " ".join(f"{name}={value}" for name, value in self.options)
        text = f"{self.device} ({self.provider}{', ' if options else ''}{options})"
        if self.layers is None or self.layers_on_cpu is None:
            return f"{text}; onnxruntime {self.onnxruntime} does not tell which layers"
        text += f", {self.layers - self.layers_on_cpu} of {self.layers} layers"
        if self.left_to_cpu:
            nodes = sum(count for _, count in self.left_to_cpu)
            of = sum(count for _, count in self.nodes)
            listed = ", ".join(f"{operator} {count}" for operator, count in self.left_to_cpu)
            text += f"; {nodes} of {of} nodes on the CPU ({listed})"
        return text

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what onnxruntime does not tell is null."""
        return {
            **plain_fields(self),
            "options": dict(self.options),
            "nodes": dict(self.nodes) or None,
            "left_to_cpu": dict(self.left_to_cpu) if self.nodes else None,
        }


def placement_of(session: ort.InferenceSession | None, device: Device) -> DevicePlacement:
    """Return where the model of a session runs; without a session, or on the CPU, no nodes are counted.

    onnxruntime tells the nodes from 1.24 on, of sessions opened with ``session.record_ep_graph_assignment_info``.
    """
    found = DevicePlacement(device.name, device.provider, tuple(sorted(device.settings.items())))
    tell = None if session is None else getattr(session, "get_provider_graph_assignment_info", None)
    if device.is_cpu or tell is None:
        return found
    assigned = [(part.ep_name, node.op_type) for part in tell() for node in part.get_nodes()]
    if not assigned:
        return found
    layers = [provider for provider, operator in assigned if operator in _LAYERS]
    left = Counter(operator for provider, operator in assigned if provider == _CPU)
    return replace(
        found,
        layers=len(layers),
        layers_on_cpu=layers.count(_CPU),
        nodes=tuple(sorted(Counter(provider for provider, _ in assigned).items())),
        left_to_cpu=tuple(left.most_common()),
    )
