"""Value types of build files, with lenient parsing of unambiguous values of other types.

Reading is lenient: ``get_data_num: "50"`` is fifty. In a check, with the validation context `CHECK`, the same value is
an error of the type `READABLE`, which the checker reports as a warning with the right notation; invalid values are of
the type `WRONG`.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo
from pydantic_core import PydanticCustomError

from quantkit.vendors.vacc.yaml_text import flow_text

CHECK = "check"
READABLE = "vacc_readable"
WRONG = "vacc_wrong"

_FLAG_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class YamlSection(BaseModel):
    """A section of a build file: known keys are fields, and other keys are kept unchanged."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


def _wrong(kind: str, value: Any) -> PydanticCustomError:
    return PydanticCustomError(WRONG, "{message}", {"message": f"must be {kind}, not {_shown(value)}"})


def _readable(reading: Any, value: Any, check: bool) -> Any:
    if check:
        message = f"should be {flow_text(reading)}, not {_shown(value)}"
        raise PydanticCustomError(READABLE, "{message}", {"message": message})
    return reading


def _shown(value: Any) -> str:
    """Return a value as in the file, truncated, with quotes around text."""
    text = f'"{value}"' if isinstance(value, str) else flow_text(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _text(value: Any, check: bool) -> Any:
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, bool | int | float):
        return _readable(str(value), value, check)
    raise _wrong("a text", value)


def _texts(value: Any, check: bool) -> Any:
    """Parse one text, or several by position or name, such as a model with two files, or folders of two inputs."""
    several = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if several is not None and all(isinstance(item, str) for item in several):
        return value
    return _text(value, check)


def _flag(value: Any, check: bool) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    reading = _FLAG_WORDS.get(str(value).strip().lower()) if isinstance(value, str | int) else None
    if reading is None:
        raise _wrong("true or false", value)
    return _readable(reading, value, check)


def _quantization_flag(value: Any, check: bool) -> Any:
    if isinstance(value, str) and value.strip().lower() in ("int8", "fp16"):
        return _readable(value.strip().lower() == "int8", value, check)
    return _flag(value, check)


def _number(value: Any, check: bool) -> Any:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)):
        return value
    try:
        reading = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        reading = math.nan
    if not math.isfinite(reading):
        raise _wrong("a number", value)
    return _readable(int(reading) if reading.is_integer() else reading, value, check)


def _whole(value: Any, check: bool) -> Any:
    number = _number(value, check)
    if number is None or isinstance(number, int):
        return number
    if not number.is_integer():
        raise _wrong("a whole number", value)
    return _readable(int(number), value, check)


def _count(value: Any, check: bool) -> Any:
    number = _whole(value, check)
    if number is not None and number < 1 and number != -1:
        raise _wrong("a number of images, 1 or more", value)
    return number


def _fraction(value: Any, check: bool) -> Any:
    number = _number(value, check)
    if number is None or 0.5 < number <= 1:
        return number
    if 50 < number <= 100:
        fraction = float(format(number / 100, ".12g"))
        message = f"is a fraction: {number} percent is written {flow_text(fraction)}"
        raise PydanticCustomError(WRONG, "{message}", {"message": message})
    raise _wrong("a fraction above 0.5 and at most 1", value)


def _items(value: Any, check: bool, item: Callable[[Any, bool], Any], kind: str) -> Any:
    """Parse a list; a single value, or a text with commas, is accepted as a list."""
    if value is None:
        return None
    if isinstance(value, list):
        return [_item(entry, check, item, kind, value) for entry in value]
    if isinstance(value, str):
        parts = [part for part in value.strip("[]() ").replace(",", " ").split() if part]
    else:
        parts = [value]
    return _readable([_item(part, False, item, kind, value) for part in parts], value, check)


def _item(entry: Any, check: bool, item: Callable[[Any, bool], Any], kind: str, whole: Any) -> Any:
    try:
        read = item(entry, check)
    except PydanticCustomError as error:
        if error.type == READABLE:
            raise
        read = None
    if read is None:
        raise _wrong(kind, whole)
    return read


def _wholes(value: Any, check: bool) -> Any:
    return _items(value, check, _whole, "a list of whole numbers")


def _indices(value: Any, check: bool) -> Any:
    wholes = _wholes(value, check)
    for index in wholes or ():
        if index < 0:
            raise _wrong("a list of indices counted from 0", value)
    return wholes


def _numbers(value: Any, check: bool) -> Any:
    return _items(value, check, _number, "a list of numbers")


def _positive_numbers(value: Any, check: bool) -> Any:
    numbers = _numbers(value, check)
    for number in numbers or ():
        if number <= 0:
            raise _wrong("a list of numbers above 0", value)
    return numbers


def _pair(value: Any, check: bool, *, open_side: bool) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return _readable([value, value], value, check)
    sides = _wholes(value, check)
    if sides is None:
        return None
    if len(sides) != 2 or any(side < 1 and not (open_side and side == -1) for side in sides):
        raise _wrong("[height, width] in pixels", value)
    return sides


def _size(value: Any, check: bool) -> Any:
    return _pair(value, check, open_side=True)


def _closed_size(value: Any, check: bool) -> Any:
    return _pair(value, check, open_side=False)


def _shape(value: Any, check: bool) -> Any:
    """Parse a list of dimensions, or of such lists (bounds of a dynamic shape); a word is a free dimension."""
    if isinstance(value, list) and all(isinstance(item, list) for item in value):
        for item in value:
            _shape(item, check)
        return value
    if isinstance(value, list) and all(item is None or type(item) in (int, str) for item in value):
        return value
    if isinstance(value, int | str) and not isinstance(value, bool):
        dimensions = value.lower().replace("x", ",") if isinstance(value, str) else value
        return _items(dimensions, check, _whole, "a list of dimensions")
    raise _wrong("a list of dimensions", value)


def _reader(read: Callable[[Any, bool], Any]) -> BeforeValidator:
    def validate(value: Any, info: ValidationInfo) -> Any:
        return read(value, info.context == CHECK)

    return BeforeValidator(validate)


Text = Annotated[str | None, _reader(_text)]
Texts = Annotated[str | list[str] | dict[str, str] | None, _reader(_texts)]
Flag = Annotated[bool | None, _reader(_flag)]
QuantizationFlag = Annotated[bool | None, _reader(_quantization_flag)]
Whole = Annotated[int | None, _reader(_whole)]
Count = Annotated[int | None, _reader(_count)]
Fraction = Annotated[int | float | None, _reader(_fraction)]
Indices = Annotated[list[int] | None, _reader(_indices)]
Numbers = Annotated[list[int | float] | None, _reader(_numbers)]
PositiveNumbers = Annotated[list[int | float] | None, _reader(_positive_numbers)]
Size = Annotated[list[int] | None, _reader(_size)]
ClosedSize = Annotated[list[int] | None, _reader(_closed_size)]
Shape = Annotated[list[Any], _reader(_shape)]
