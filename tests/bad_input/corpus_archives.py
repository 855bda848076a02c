"""Archives and parquet files of images as they come: hostile, damaged, incomplete."""

import io
import struct
import tarfile
import zipfile
import zlib
from typing import Any

import pyarrow
import pyarrow.parquet
from bad_input.bad_item import BadInput
from bad_input.corpus_images import _PNG

from quantkit.errors import CalibrationSetError, ImageError, LabelError, QuantkitError

_KIND = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def tar(*members: tuple[str, bytes, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    """Return a tar of members: name, content, kind."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content, kind in (("good.png", _PNG, tarfile.REGTYPE), *members):
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(content), kind, "good.png"
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def file(name: str, content: bytes = _PNG) -> tuple[str, bytes, bytes]:
    """Return a member that is a file."""
    return name, content, tarfile.REGTYPE


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip of members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in (("good.png", _PNG), *members):
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, content)
    return buffer.getvalue()


def parquet(images: Any = None, labels: Any = (0, 1), name: str = "image") -> bytes:
    """Return a parquet file of two images."""
    rows = [{"bytes": _PNG, "path": "a.png"}, {"bytes": _PNG + b"x", "path": "b.png"}] if images is None else images
    buffer = io.BytesIO()
    columns = {name: pyarrow.array(rows, _KIND), "label": pyarrow.array(list(labels), pyarrow.int64())}
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def _patched(content: bytes, offset: int, form: str, value: int) -> bytes:
    """Return a zip with one field of its directory's last entry changed."""
    data = bytearray(content)
    struct.pack_into(form, data, data.rindex(b"PK\x01\x02") + offset, value)
    return bytes(data)


def _lying_tar(size: int) -> bytes:
    info = tarfile.TarInfo("big.png")
    info.size = size
    return info.tobuf() + bytes(512) + bytes(1024)


def _rubbish(content: bytes) -> bytes:
    start = 512 + -(-len(_PNG) // 512) * 512
    return content[:start] + b"rubbish " * 64 + content[start + 512 :]


def _bomb() -> bytes:
    return zipped(("bomb.bmp", bytes(100 << 20)), method=zipfile.ZIP_DEFLATED)


def _deep_bomb() -> bytes:
    """Return a zip whose member unpacks to more than its directory says."""
    return _patched(zipped(("bomb.bmp", bytes(1 << 22)), method=zipfile.ZIP_DEFLATED), 24, "<I", 1000)


def _bad(
    kind: str, name: str, content: bytes, result: str, error: type[QuantkitError] = CalibrationSetError
) -> BadInput:
    return BadInput(kind, f"{name}.{kind}", content, result, error)


_ROW, _NO_BYTES = {"bytes": _PNG, "path": "a.png"}, {"bytes": None, "path": "b.png"}

ARCHIVES = (
    _bad("tar", "climbing", tar(file("../../bad.png")), "a name that leads out of the archive"),
    _bad("tar", "absolute", tar(file("/etc/bad.png")), "an absolute name"),
    _bad("tar", "backslash", tar(file("..\\bad.png")), "a name that leads out of the archive"),
    _bad("tar", "line_break", tar(file("b\nad.png")), "a name with a line break"),
    _bad("tar", "link", tar(("bad.png", b"", tarfile.LNKTYPE)), "it is a link"),
    _bad("tar", "symbolic_link", tar(("bad.png", b"", tarfile.SYMTYPE)), "it is a symbolic link"),
    _bad("tar", "device", tar(("bad.png", b"", tarfile.CHRTYPE)), "it is a device"),
    _bad("tar", "pipe", tar(("bad.png", b"", tarfile.FIFOTYPE)), "it is a pipe"),
    _bad("tar", "sparse", tar(("bad.png", b"", tarfile.GNUTYPE_SPARSE)), "a sparse file|is left|are left|no header"),
    _bad("tar", "one_name", tar(file("bad.png"), file("./bad.png")), "2 members of this name"),
    _bad("tar", "claims_more", _lying_tar(10_000), "has 10000 bytes by its header, and 1536 are left"),
    _bad("tar", "claims_most", _lying_tar(1 << 60), "by its header, and 1536 are left"),
    _bad("tar", "cut_in_a_member", tar(file("b.png"))[:2000], "are left of the archive|truncated"),
    _bad("tar", "no_end_mark", tar()[: 512 + -(-len(_PNG) // 512) * 512], "no end mark, so it is truncated"),
    _bad("tar", "rubbish", _rubbish(tar(file("b.png"))), "no header at byte"),
    _bad("tar", "empty", b"", "the archive is empty"),
    _bad("tar", "page", b"<html>404</html>" * 40, "not a tar archive"),
    _bad("tar", "no_images", tar()[:0] + bytes(1024), "no images found|not a tar archive"),
    _bad("tar", "gzip_cut", zlib.compress(tar(), 6, 31)[:200], "compression is damaged|truncated"),
    _bad("tar", "class_word", tar(file("good.cls", b"cat")), "'cat' is not a class index", LabelError),
    _bad("tar", "class_missing", tar(file("good.cls", b"1"), file("b.png")), "no .cls member", LabelError),
    BadInput("tar", "two.tar", tar(file("b.png", _PNG + b"x")), "2 images"),
    BadInput("tar", "compressed.tar", zlib.compress(tar(), 6, 31), "1 images"),
    BadInput("tar", "hidden.tar", tar(file(".b.png"), file("__MACOSX/b.png"), file("readme.txt")), "1 images"),
    _bad("zip", "climbing", zipped(("../bad.png", _PNG)), "a name that leads out of the archive"),
    _bad("zip", "absolute", zipped(("/etc/bad.png", _PNG)), "an absolute name"),
    _bad("zip", "drive", zipped(("C:/bad.png", _PNG)), "an absolute name"),
    _bad("zip", "one_name", zipped(("./bad.png", _PNG), ("bad.png", _PNG)), "2 members of this name"),
    _bad("zip", "bomb", _bomb(), "a compression bomb: [0-9]+ bytes expand to 104857600"),
    _bad("zip", "deep_bomb", _deep_bomb(), "the member is damaged", ImageError),
    _bad("zip", "encrypted", _patched(zipped(("bad.png", _PNG)), 8, "<H", 1), "it is encrypted"),
    _bad("zip", "method", _patched(zipped(("bad.png", _PNG)), 10, "<H", 12), "compressed by method 12"),
    _bad("zip", "lying_size", _patched(zipped(("bad.png", _PNG)), 24, "<I", 9), "has contradictory sizes for it"),
    _bad(
        "zip",
        "elsewhere",
        _patched(zipped(("bad.png", _PNG)), 42, "<I", 7),
        "the member is damaged",
        ImageError,
    ),
    _bad("zip", "checksum", _patched(zipped(("bad.png", _PNG)), 16, "<I", 7), "the member is damaged", ImageError),
    _bad("zip", "symbolic_link", _patched(zipped(("bad.png", b"x")), 38, "<I", 0o120777 << 16), "a link or a device"),
    _bad("zip", "cut", zipped(("b.png", _PNG))[:-30], "not a complete zip archive"),
    _bad("zip", "empty", b"", "the archive is empty"),
    BadInput("zip", "two.zip", zipped(("b.png", _PNG + b"x")), "2 images"),
    _bad("parquet", "no_column", parquet(name="img"), r"there is no column image \(columns: img, label\)"),
    _bad("parquet", "null_row", parquet([_ROW, None]), r"row 1: the row has no image \(null\)"),
    _bad("parquet", "null_bytes", parquet([_ROW, _NO_BYTES]), r"row 1: the row has no image \(null\)"),
    _bad("parquet", "null_label", parquet(labels=(0, None)), r"row 1: the row has no label \(null\)", LabelError),
    _bad("parquet", "half_labelled", parquet(labels=(0, -1)), r"row 1: the row has no label \(-1\)", LabelError),
    _bad("parquet", "cut", parquet()[:-9], "not a complete parquet file"),
    _bad("parquet", "cut_in_front", parquet()[9:], "not a complete parquet file|is damaged", CalibrationSetError),
    _bad("parquet", "empty", b"", "not a complete parquet file"),
    BadInput("parquet", "two.parquet", parquet(), "2 images"),
    BadInput("parquet", "no_labels.parquet", parquet(labels=(-1, -1)), "2 images"),
)
