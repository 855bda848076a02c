"""The errors that quantkit raises, with the exit codes of the command line.

    QuantkitError                 1   base class; never raised itself
    ├── UsageError                2   an invalid option or combination of options
    ├── ConfigError               3   quantkit.yaml, a preset or a pipeline is not valid
    ├── ImageError                4   an image that cannot be decoded or does not fit the model
    ├── LabelError                5   labels missing, malformed or not matching images or model
    ├── CalibrationSetError       6   a set or image folder that is empty, damaged or does not match
    ├── ModelError                7   an ONNX file that cannot be read, run or quantized
    ├── StatisticsError           8   a statistics file that is damaged
    │   └── ProvenanceError       9   a file that was created from other inputs
    ├── VendorFileError          10   a vamc YAML, vdsp_params, npz or result file of the vendor's tools
    ├── CheckpointError          11   a torch checkpoint that does not fit the network
    ├── OutputError              12   a folder or file that cannot be written
    ├── NumericError             13   NaN or infinity where a number is needed
    ├── DeviceError              14   a device that is not available, or does not run the model
    ├── ClusterError             15   a cluster that is not there, or whose workers cannot do the work
    └── GateError                20   a --fail-if condition or an accuracy budget was not met
        └── CoverageError        21   less of the model is int8 than --require-coverage demands

Exit code 130 is an interruption by the user, 70 an unexpected error.
"""

import re
from collections.abc import Sequence
from typing import ClassVar

_OPTION = re.compile(r"^--([a-z][a-z-]*)")
# Arguments of Python with other names than the options of the command line.
_ARGUMENTS = {
    "activations": "activation_type",
    "max-float": "macs",
    "max-skips": "layers",
    "preset": "pipeline",
    "provider-option": "options",
    "set": "calibration_set",
    "skip-conv": "skip_convs",
}


class QuantkitError(Exception):
    """Base class of all expected errors.

    Where an argument is at fault, the message has its name in Python. `command_line` is the same message with the
    option of the command line, which ``where`` has.

    Args:
        what: the fault, one sentence without a final full stop.
        where: the file, tensor, line or option concerned.
        fix: how the user can fix it.

    Example:
        >>> import quantkit
        >>> try:
        ...     quantkit.inspect("missing.onnx")
        ... except quantkit.QuantkitError as error:
        ...     print(error.exit_code)
        7
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: object | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix
        super().__init__(_message(what, _argument(self.where), fix))

    @property
    def command_line(self) -> str:
        """The message with the option of the command line."""
        return _message(self.what, self.where, self.fix)


def _message(what: str, where: str | None, fix: str | None) -> str:
    text = what if where is None else f"{where}: {what}"
    return text if fix is None else f"{text}; {fix}"


def _argument(where: str | None) -> str | None:
    """Return the name of the argument of Python, where an option of the command line is at fault."""
    return where and _OPTION.sub(lambda found: _ARGUMENTS.get(found[1], found[1].replace("-", "_")), where)


class UsageError(QuantkitError):
    """An invalid option or combination of options."""

    exit_code = 2


class ConfigError(QuantkitError):
    """A configuration file, preset or preprocessing pipeline that is not valid."""

    exit_code = 3


class ImageError(QuantkitError):
    """An image that cannot be decoded, or that does not fit the model."""

    exit_code = 4


class LabelError(QuantkitError):
    """Labels that are missing, malformed, or do not match the images or the model."""

    exit_code = 5


class CalibrationSetError(QuantkitError):
    """A calibration set or image folder that is empty, damaged or does not match its manifest."""

    exit_code = 6


class ModelError(QuantkitError):
    """A model that cannot be read, run or quantized."""

    exit_code = 7


class StatisticsError(QuantkitError):
    """A statistics file that is damaged or incomplete."""

    exit_code = 8


class ProvenanceError(StatisticsError):
    """A file that was created from other inputs than the ones it is used with."""

    exit_code = 9


class VendorFileError(QuantkitError):
    """A file of the vendor's tools that cannot be read, or that contradicts another."""

    exit_code = 10


class CheckpointError(QuantkitError):
    """A torch checkpoint that cannot be loaded, or does not fit the network."""

    exit_code = 11


class OutputError(QuantkitError):
    """A file or folder that cannot be written."""

    exit_code = 12


class NumericError(QuantkitError):
    """NaN or infinity where a number is needed."""

    exit_code = 13


class DeviceError(QuantkitError):
    """A device that is not available, or that does not run the model's layers."""

    exit_code = 14


class ClusterError(QuantkitError):
    """A cluster that cannot be connected to, or whose workers cannot do the work."""

    exit_code = 15


class GateError(QuantkitError):
    """A condition the user set on the result was not met."""

    exit_code = 20


class CoverageError(GateError):
    """Less of the model becomes int8 than the user requires."""

    exit_code = 21


def one_line(error: BaseException) -> str:
    """Return the text of an error on one line, or its class if it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def first_of(parts: Sequence[str], count: int = 5, separator: str = ", ") -> str:
    """Return the first of many parts of a message, followed by dots if there are more."""
    return separator.join([*parts[:count], *(["..."] if len(parts) > count else [])])
