"""Reads torch checkpoints without executing code from them, and loads them strictly into a network."""

import argparse
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from quantkit.errors import CheckpointError

# Keys of the weights in the checkpoints of training scripts, in search order.
CONTAINERS = ("state_dict", "model_state_dict", "model", "net")

# Plain values that training scripts store with the weights: their options, and numpy scalars by old and new name.
_scalar = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(code)) for code in ("float32", "float64", "int32", "int64", "bool")),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
]

_LISTED = 5


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the weights of a ``.pth`` or ``.safetensors`` file; only plain data is unpickled.

    A state dict inside a training checkpoint is found under the keys of `CONTAINERS`.

    Raises:
        CheckpointError: the file is missing, is not a checkpoint, has pickled objects, or has no state dict.
    """
    if not path.is_file():
        raise CheckpointError("there is no such checkpoint file", where=path)
    if path.suffix == ".safetensors":
        try:
            return dict(safetensors.torch.load_file(path))
        except Exception as error:  # the exception class of safetensors derives directly from Exception
            raise CheckpointError(f"is not a safetensors file ({error})", where=path) from error
    content = _load(path)
    while isinstance(content, Mapping) and not _is_state_dict(content):
        inner = next((key for key in CONTAINERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            raise CheckpointError(
                f"has no state dict; its keys are {_list([str(key) for key in content])}",
                where=path,
                fix=f"store only the weights, or use one of the keys {', '.join(CONTAINERS)}",
            )
        content = content[inner]
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"contains a {type(content).__name__}, not a state dict", where=path, fix="save model.state_dict()"
        )
    return dict(content)


def load_weights(network: nn.Module, state: Mapping[str, Tensor], *, where: object, network_name: str) -> None:
    """Load a state dict strictly: all names and shapes must match.

    A prefix of all names that no name of the network has (``module.`` of DataParallel, ``_orig_mod.`` of torch.compile,
    ``model.`` of Lightning) is removed, and names of torchvision's oldest DenseNet files are updated.
    ``num_batches_tracked`` of batch norms may be missing.

    Raises:
        CheckpointError: names are missing or unexpected, or shapes differ (the message has the number and the first
            five of each), or a weight is NaN or infinite.
    """
    wanted = network.state_dict()
    state = _renamed(state, wanted.keys())
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in wanted]
    misshaped = [name for name in wanted if name in state and wanted[name].shape != state[name].shape]
    faults = [
        f"{kind} {len(names)} ({_list(names)})"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("with another shape", [f"{one} {_shapes(state[one], wanted[one])}" for one in misshaped]),
        )
        if names
    ]
    if faults:
        raise CheckpointError(
            f"does not match {network_name}: {', '.join(faults)}",
            where=where,
            fix=_advice(missing, unexpected, misshaped, state),
        )
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"contains NaN or infinity in {_list(broken)}",
            where=where,
            fix="take one from before the training diverged",
        )
    network.load_state_dict(dict(state), strict=False)


def _load(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise CheckpointError("is not a torch checkpoint", where=path) from error
        raise CheckpointError(
            f"contains a pickled {found[1]}, not only weights; unpickling it could execute arbitrary code",
            where=path,
            fix="if you trust it, load it in torch and save model.state_dict()",
        ) from error
    except Exception as error:
        if "TorchScript" in str(error):
            raise CheckpointError(
                "is a TorchScript archive, not a state dict", where=path, fix="save model.state_dict()"
            ) from error
        raise CheckpointError("is not a torch checkpoint, or is truncated", where=path) from error


def _is_state_dict(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def _renamed(state: Mapping[str, Tensor], wanted: Collection[str]) -> Mapping[str, Tensor]:
    while True:
        heads = {name.partition(".")[0] for name in state}
        head = heads.pop() if len(heads) == 1 else ""
        if not head or any(name.split(".")[0] == head for name in wanted) or head in state:
            break
        state = {name.removeprefix(f"{head}."): tensor for name, tensor in state.items()}
    # denselayer1.norm.1.weight became denselayer1.norm1.weight.
    current = {name: re.sub(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)", r"\1", name) for name in state}
    return {current[name] if current[name] in wanted else name: tensor for name, tensor in state.items()}


def _advice(
    missing: Collection[str], unexpected: Collection[str], misshaped: list[str], state: Mapping[str, Tensor]
) -> str:
    classes = {len(state[name]) for name in misshaped if state[name].ndim}
    if not missing and not unexpected and len(misshaped) <= 2 and len(classes) == 1:
        return f"give --num-classes {classes.pop()}"
    return "give the network of the checkpoint, with its depth and width"


def _shapes(found: Tensor, wanted: Tensor) -> str:
    return f"{list(found.shape)} instead of {list(wanted.shape)}"


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
