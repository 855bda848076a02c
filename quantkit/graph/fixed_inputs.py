"""Fixed values of inputs other than the image, given as numbers, arrays or files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.errors import UsageError
from quantkit.graph.analysis.values import name_of
from quantkit.graph.image_input import describe, free_inputs, type_name

OPTION = "--input"
# Maximum number of values of a fixed input that a run records.
MOST_VALUES = 1 << 16
_WORDS = {"true": True, "false": False}


def parse_inputs(texts: Sequence[str]) -> dict[str, Any]:
    """Return the values of ``NAME=VALUE`` texts: numbers, true, false, or paths of ``.npy`` files.

    Raises:
        UsageError: a text has another form.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{text!r} is not NAME=VALUE", where=OPTION, fix="write it as --input keep_prob=1.0")
        found[name] = _parsed(value, text)
    return found


def fixed_values(model: ir.Model, inputs: Mapping[str, Any]) -> dict[str, npt.NDArray[np.generic]]:
    """Return the values of inputs in the type and shape of each input; an unused input needs no value.

    Raises:
        UsageError: there is no such input, a file cannot be read, or a value does not fit.
    """
    fed = {name_of(value): value for value in free_inputs(model)}
    if unknown := [name for name in inputs if name not in fed]:
        names = ", ".join(fed) or "none"
        raise UsageError(f"the model has no input {unknown[0]!r}", where=OPTION, fix=f"its inputs are {names}")
    found = {name: _fitted(fed[name], _content(name, value)) for name, value in inputs.items()}
    for name, value in fed.items():
        idle = not value.uses() and not value.is_graph_output()
        if idle and name not in found and value.dtype is not None and len(fed) > 1:
            found[name] = _fitted(value, np.zeros((), value.dtype.numpy()))
    return found


def to_json(values: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, Any]:
    """Return fixed values as JSON values for `fixed_values`.

    Raises:
        UsageError: an input has too many values to be recorded.
    """
    for name, value in values.items():
        if value.size > MOST_VALUES:
            raise UsageError(
                f"the value of {name!r} has {value.size} numbers, and a run records up to {MOST_VALUES}",
                where=OPTION,
                fix="make it a constant of the model",
            )
    return {name: np.asarray(value).astype(_recorded(value)).tolist() for name, value in values.items()}


def _recorded(value: npt.NDArray[np.generic]) -> npt.DTypeLike:
    return value.dtype if value.dtype.kind in "biu" else np.float64


def _parsed(value: str, text: str) -> Any:
    if value.lower() in _WORDS:
        return _WORDS[value.lower()]
    if value.endswith(".npy"):
        return Path(value)
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    raise UsageError(
        f"{value!r} of {text!r} is neither a number nor true, false or a .npy file",
        where=OPTION,
        fix="write it as --input keep_prob=1.0, or --input mask=mask.npy",
    )


def _content(name: str, value: Any) -> npt.NDArray[np.generic]:
    if not isinstance(value, Path | str):
        return np.asarray(value)
    try:
        content = np.load(value, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            f"the value of {name!r} cannot be read from {value}", where=OPTION, fix="save it with numpy.save"
        ) from error
    if not isinstance(content, np.ndarray):
        raise UsageError(f"{value} contains several arrays", where=OPTION, fix="save one with numpy.save")
    return content


def _fitted(value: ir.Value, content: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return a value in the type and shape of an input; free sizes are those of the value, else 1."""
    if value.dtype is None or content.dtype.kind not in "biuf":
        raise UsageError(f"the input {name_of(value)!r} is not numeric", where=OPTION)
    typed = content.astype(value.dtype.numpy())
    if content.dtype.kind == "f" and value.dtype.is_integer() and not np.array_equal(typed, content):
        raise UsageError(
            f"the value of {name_of(value)!r} is not whole, and the input is {type_name(value.dtype)}", where=OPTION
        )
    if value.shape is None:
        return typed
    sizes = list(value.shape)
    given = (1,) * (len(sizes) - typed.ndim) + typed.shape
    free = len(given) == len(sizes)
    wanted = [size if isinstance(size, int) else (given[place] if free else 1) for place, size in enumerate(sizes)]
    try:
        return np.ascontiguousarray(np.broadcast_to(typed, wanted)).reshape(wanted)
    except ValueError:
        raise UsageError(
            f"the value of {name_of(value)!r} has shape {list(typed.shape)}, and the input is {describe(value)}",
            where=OPTION,
            fix="give one number, or an array of that shape",
        ) from None
