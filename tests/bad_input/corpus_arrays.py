"""Array files: statistics, predictions, and the tensors of the vendor's tools."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from bad_input.bad_item import BadInput
from safetensors.numpy import save

from quantkit.errors import QuantkitError, StatisticsError, VendorFileError
from quantkit.stats.file import FORMAT, Provenance, Statistics, save_statistics
from quantkit.stats.observer import Observer


class _Trap:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("trapped", "w"))


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _zip(members: Mapping[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _npy(shape: str, kind: str = "'<f4'", data: bytes = b"\0" * 16) -> bytes:
    head = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def _encrypted(name: str) -> bytes:
    """Return an archive whose member says it is encrypted."""
    content = bytearray(_zip({name: _npy("(4,)")}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def _of_kind(name: str, kind: int) -> bytes:
    """Return an archive whose member says it is compressed in another way than it is."""
    content = bytearray(_zip({name: _npy("(4,)")}))
    struct.pack_into("<H", content, 8, kind)
    struct.pack_into("<H", content, content.index(b"PK\x01\x02") + 10, kind)
    return bytes(content)


def _traps(member: str) -> dict[str, tuple[bytes, str]]:
    """Return archives with one ``.npy`` member that no reader should trust."""
    pickled = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    pickled += b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}".ljust(117) + b"\n" + pickle.dumps([_Trap()])
    return {
        "empty.npz": (b"", "damaged|is not a"),
        "text.npz": (b"this is text\n" * 50, "damaged|is not a"),
        "cut.npz": (_npz(**{member.removesuffix(".npy"): np.zeros(99)})[:300], "damaged|is not a"),
        "pickle.npz": (_zip({member: pickled}), "damaged|is not a"),
        "bare_pickle.npz": (pickle.dumps(_Trap()), "damaged|is not a"),
        "pickle_in_zip.npz": (_zip({member: pickle.dumps(_Trap())}), "damaged|is not a"),
        "objects.npz": (_npz(**{member.removesuffix(".npy"): np.array([{}], object)}), "damaged|is not a"),
        "other_key.npz": (_npz(something=np.zeros(4)), "it has no `output_0`|is not a"),
        "no_members.npz": (_zip({}), "it has no `output_0`|is not a"),
        "huge_shape.npz": (_zip({member: _npy("(1099511627776,)")}), "damaged|is not a|larger"),
        "huge_product.npz": (_zip({member: _npy("(4294967296, 4294967296, 4294967296)")}), "damaged|is not a|larger"),
        "negative_shape.npz": (_zip({member: _npy("(-4,)")}), "damaged|is not a"),
        "called_shape.npz": (_zip({member: _npy("__import__('os').getpid()")}), "damaged|is not a"),
        "deep_shape.npz": (_zip({member: _npy("(" * 5000)}), "damaged|is not a"),
        "no_such_dtype.npz": (_zip({member: _npy("(4,)", "'<q9'")}), "damaged|is not a"),
        "record_dtype.npz": (_zip({member: _npy("(1,)", "[('a', '<f4')]")}), "not scores|is not a"),
        "text_dtype.npz": (_zip({member: _npy("(4,)", "'<U1'")}), "not scores|is not a"),
        "encrypted.npz": (_encrypted(member), "damaged|is not a"),
        "said_lzma.npz": (_of_kind(member, zipfile.ZIP_LZMA), "damaged|is not a"),
        "said_bzip2.npz": (_of_kind(member, zipfile.ZIP_BZIP2), "damaged|is not a|cannot"),
        "said_deflate.npz": (_of_kind(member, zipfile.ZIP_DEFLATED), "damaged|is not a"),
        "said_unknown.npz": (_of_kind(member, 77), "damaged|is not a"),
        "bomb.npz": (_zip({member: b"\0" * (40 << 20)}, zipfile.ZIP_DEFLATED), "damaged|is not a"),
    }


def _items(kind: str, error: type[QuantkitError], refused: dict[str, tuple[bytes, str]]) -> tuple[BadInput, ...]:
    return tuple(BadInput(kind, name, content, result, error) for name, (content, result) in refused.items())


RESULTS = _items(
    "card result",
    VendorFileError,
    {
        **_traps("output_0.npy"),
        "nan.npz": (_npz(output_0=np.array([1, np.nan, 0, 0], np.float32)), "the scores contain NaN or infinity"),
        "infinite.npz": (_npz(output_0=np.array([1, np.inf, 0, 0], np.float32)), "the scores contain NaN or infinity"),
        "too_large_for_float32.npz": (_npz(output_0=np.array([1e300, 0, 0, 0])), "the scores contain NaN or infinity"),
        "of_other_classes.npz": (_npz(output_0=np.zeros(7, np.float32)), "there are 7 scores and 4 class names"),
        "matrix.npz": (_npz(output_0=np.zeros((2, 2), np.float32)), "not scores"),
        "complex.npz": (_npz(output_0=np.zeros(4, complex)), "not scores"),
        "none.npz": (_npz(output_0=np.zeros(0, np.float32)), "there are 0 scores and 4 class names"),
    },
)


def _statistics(**changed: Any) -> Callable[[Path], None]:
    """Return what writes a statistics file with parts of its header changed."""

    def write(path: Path) -> None:
        observer = Observer()
        observer.observe(np.linspace(-1, 1, 50, dtype=np.float32))
        provenance = Provenance(model_sha256="0", pipeline_sha256="0", quantkit="0", onnxruntime="0")
        extremes = np.array([[[-1.0, 1.0]]], np.float32)
        save_statistics(Statistics({"x": observer.statistics()}, extremes, provenance, ("0",)), path)
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        said = json.loads(header["__metadata__"][FORMAT])
        for place, value in changed.items():
            *way, last = place.split("__")
            part = said
            for step in way:
                part = part[int(step) if step.isdecimal() else step]
            if value is None:
                del part[last]
            else:
                part[last] = value
        header["__metadata__"][FORMAT] = json.dumps(said)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return write


def _changed(name: str, result: str, **changed: Any) -> BadInput:
    return BadInput("statistics", f"{name}.safetensors", _statistics(**changed), result, StatisticsError)


def _with_header(text: str) -> bytes:
    return save({"gaps": np.zeros(1, np.uint16)}, {FORMAT: text})


_DAMAGED = "the statistics file is damaged"

STATISTICS = (
    *_items(
        "statistics",
        StatisticsError,
        {
            "empty.safetensors": (b"", _DAMAGED),
            "text.safetensors": (b"this is text\n" * 50, "is of another format, not a statistics file"),
            "pickle.safetensors": (pickle.dumps(_Trap()), "is of another format, not a statistics file"),
            "huge_header.safetensors": (struct.pack("<Q", 1 << 60) + b"{}", _DAMAGED),
            "not_ours.safetensors": (save({"a": np.zeros(3)}), "not a statistics file of quantkit"),
            "no_json.safetensors": (_with_header("{"), _DAMAGED),
            "list.safetensors": (_with_header("[]"), _DAMAGED),
            "word.safetensors": (_with_header('"x"'), _DAMAGED),
            "deep.safetensors": (_with_header("[" * 100_000), _DAMAGED),
            "overlapping.safetensors": (
                struct.pack("<Q", 72) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}'.ljust(72) + b"\0" * 4,
                _DAMAGED,
            ),
        },
    ),
    BadInput("statistics", "folder.safetensors", lambda path: path.mkdir(), "is a folder, not a stat", StatisticsError),
    BadInput(
        "statistics", "loop.safetensors", lambda path: path.symlink_to(path.name), "no statistics file", StatisticsError
    ),
    _changed("version_9", "another version of quantkit", version=9),
    _changed("version_3", "another version of quantkit", version=3, provenance={"x": 1}, extra=None),
    _changed("no_version", _DAMAGED, version=None),
    _changed("no_provenance", _DAMAGED, provenance=None),
    _changed("wrong_provenance", _DAMAGED, provenance={"x": 1}),
    _changed("number_as_provenance", _DAMAGED, provenance=3),
    _changed("number_as_images", _DAMAGED, images=3),
    _changed("number_as_tensors", _DAMAGED, tensors=3),
    _changed("no_tensors", _DAMAGED, tensors=[]),
    _changed("more_bins", _DAMAGED, tensors__0__bins=10**12),
    _changed("negative_bins", _DAMAGED, tensors__0__bins=-1),
    _changed("word_as_bins", _DAMAGED, tensors__0__bins="x"),
    _changed("no_name", _DAMAGED, tensors__0__name=None),
    _changed("other_count", "the statistics of x are damaged", tensors__0__count=51),
    _changed("negative_count", "damaged", tensors__0__count=-1),
    _changed("word_as_count", "damaged", tensors__0__count="x"),
    _changed("other_zeros", "damaged", tensors__0__zeros=50),
    _changed("other_extremes", "damaged", tensors__0__lo=-9.0),
    _changed("nan_extremes", "damaged", tensors__0__hi=float("nan")),
    _changed("other_image_extremes", "the extremes of the images are not those of all", tensors__0__lo=-1.0005),
    _changed("more_images", "there are not two extremes for every image", images=["0", "1"]),
    _changed("more_nan", "damaged", tensors__0__nan=-3),
    _changed("no_convergence", _DAMAGED, convergence=None),
    _changed("wrong_convergence", _DAMAGED, convergence=[{"images": 3}]),
)

PREDICTIONS = _items("predictions", StatisticsError, _traps("origin.npy"))

ARRAYS = RESULTS + STATISTICS + PREDICTIONS
