"""Archives as they come: damaged, hostile, incomplete. Each fault is named, refused, or left out where asked."""

import contextlib
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_forms import add, pictures, write_tar, write_webdataset, write_zip

from quantkit.data.sources.archive import _whole_index
from quantkit.data.sources.blob import LocalBlob
from quantkit.data.sources.open import open_source
from quantkit.data.sources.tar import tar_index
from quantkit.errors import CalibrationSetError, ImageError, LabelError, QuantkitError, UsageError

PICTURES = pictures(2)
ONE = next(iter(PICTURES.values()))


def _tar_with(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        add(archive, "good.png", ONE)
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def _info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def _zip_with(path: Path, change: Callable[[zipfile.ZipFile], None]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.png", ONE)
        change(archive)
    return path


def _zip_link(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("bad.png")
    info.external_attr = 0o120777 << 16
    archive.writestr(info, "/etc/passwd")


def _patched_zip(path: Path, offset: int, form: str, value: int) -> Path:
    """Write a zip of two images and change one field in the directory's second entry."""
    write_zip(path, {"good.png": ONE, "bad.png": ONE}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    struct.pack_into(form, data, entry + offset, value)
    path.write_bytes(data)
    return path


MEMBERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absolute": (lambda p: _tar_with(p / "a.tar", (_info("/etc/bad.png"), ONE)), r"/etc/bad\.png: an absolute name"),
    "climbing": (lambda p: _tar_with(p / "a.tar", (_info("x/../../bad.png"), ONE)), r"a name that leads out"),
    "link": (lambda p: _tar_with(p / "a.tar", (_info("bad.png", tarfile.LNKTYPE, "good.png"), b"")), "it is a link"),
    "symbolic link": (
        lambda p: _tar_with(p / "a.tar", (_info("bad.png", tarfile.SYMTYPE, "/etc/passwd"), b"")),
        "it is a symbolic link",
    ),
    "device": (lambda p: _tar_with(p / "a.tar", (_info("bad.png", tarfile.CHRTYPE), b"")), "it is a device"),
    "pipe": (lambda p: _tar_with(p / "a.tar", (_info("bad.png", tarfile.FIFOTYPE), b"")), "it is a pipe"),
    "line break": (lambda p: _tar_with(p / "a.tar", (_info("b\nad.png"), ONE)), "a name with a line break"),
    "one name": (
        lambda p: _tar_with(p / "a.tar", (_info("bad.png"), ONE), (_info("./bad.png"), ONE)),
        "2 members of this name",
    ),
    "zip link": (lambda p: _zip_with(p / "a.zip", _zip_link), "a link or a device"),
    "zip absolute": (lambda p: _zip_with(p / "a.zip", lambda z: z.writestr("/bad.png", ONE)), "an absolute name"),
    "zip drive": (lambda p: _zip_with(p / "a.zip", lambda z: z.writestr("C:\\bad.png", ONE)), "an absolute name"),
    "zip climbing": (lambda p: _zip_with(p / "a.zip", lambda z: z.writestr("../bad.png", ONE)), "leads out"),
    "zip bomb": (
        lambda p: write_zip(p / "a.zip", {"good.png": ONE, "bad.bmp": bytes(100 << 20)}),
        r"a compression bomb: \d+ bytes expand to 104857600",
    ),
    "zip encrypted": (lambda p: _patched_zip(p / "a.zip", 8, "<H", 1), "it is encrypted"),
    "zip method": (lambda p: _patched_zip(p / "a.zip", 10, "<H", 12), "compressed by method 12"),
    "zip lying size": (lambda p: _patched_zip(p / "a.zip", 24, "<I", 9), "has contradictory sizes for it"),
    "zip huge": (
        lambda p: _patched_zip(p / "a.zip", 24, "<I", (2 << 30) - 1),
        "has contradictory sizes|too large for an image",
    ),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_archive_bad_member_is_named_and_refused_or_left_out(case: str, tmp_path: Path) -> None:
    write, message = MEMBERS[case]
    path = write(tmp_path)
    with pytest.raises(CalibrationSetError, match=rf"a\.(tar|zip): .*({message}).*--skip-damaged"):
        open_source(path)
    rest = open_source(path, skip_damaged=True)
    assert rest.names == ("good.png",)
    assert rest.items[0].read() == ONE
    [warning] = rest.warnings
    assert warning.startswith("left out ")


def test_zip_bomb_is_refused_while_unpacking(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"bad.bmp": bytes(1 << 20)})
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 24, 1000)
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"bad\.bmp: the member is damaged \(Bad CRC-32"):
        open_source(path).items[0].read()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_with_a_changed_byte_fails_its_checksum(method: int, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": ONE}, method)
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.png: the member is damaged"):
        open_source(path).items[0].read()


def test_zip_whose_directory_points_elsewhere_is_named(tmp_path: Path) -> None:
    path = _patched_zip(tmp_path / "a.zip", 42, "<I", 7)
    with pytest.raises(ImageError, match=r"bad\.png: the member is damaged \(Bad magic number"):
        open_source(path).by_name["bad.png"].read()


def test_zip_truncated_is_refused_whole(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", PICTURES)
    path.write_bytes(path.read_bytes()[:-40])
    for skip in (False, True):
        with pytest.raises(CalibrationSetError, match=r"a\.zip: not a complete zip|no images found"):
            open_source(path, skip_damaged=skip)


@pytest.mark.parametrize("cut", [513, 1024, 1700, 2048])
def test_tar_truncated_is_named_and_its_beginning_used_if_asked(cut: int, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", PICTURES)
    path.write_bytes(path.read_bytes()[: 2 * 1024 + cut])  # two members of 1024 bytes each, and a part
    with pytest.raises(CalibrationSetError, match=r"a\.tar: .*(truncated|are left).*after [234] images"):
        open_source(path)
    rest = open_source(path, skip_damaged=True)
    assert [item.read() for item in rest.items] == [PICTURES[name] for name in rest.names]
    assert rest.names[:2] == ("cat/0.png", "cat/1.png")
    assert "after" in rest.warnings[0]


def test_tar_with_rubbish_in_the_middle_is_named_by_byte(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", PICTURES)
    data = bytearray(path.read_bytes())
    data[2048 : 2048 + 512] = b"x" * 512
    path.write_bytes(data)
    with pytest.raises(CalibrationSetError, match=r"no header at byte 2048, after cat/1\.png"):
        open_source(path)


def test_tar_member_that_claims_more_than_there_is_is_named(tmp_path: Path) -> None:
    info = tarfile.TarInfo("big.png")
    info.size = 10_000
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf() + b"x" * 512 + bytes(1024))
    with pytest.raises(CalibrationSetError, match=r"big\.png has 10000 bytes by its header, and 1536 are left"):
        open_source(path)


@pytest.mark.parametrize("size", [b"\x80" + b"\xff" * 11, b"\xff" * 12, b"notoctal\0\0\0\0"])
def test_tar_with_an_impossible_size_is_refused(size: bytes, tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("a.png").tobuf())
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(
        CalibrationSetError, match=r"invalid (size|header|offset)|not a tar archive|are left of the archive"
    ):
        open_source(tmp_path / "a.tar")


def test_tar_damaged_gzip_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar.gz", PICTURES, mode="w:gz")
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(CalibrationSetError, match=r"a\.tar\.gz: .*compression is damaged"):
        open_source(path)
    assert 0 < len(open_source(path, skip_damaged=True)) < len(PICTURES)


def test_tar_compressed_beyond_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantkit.data.sources.tar.MAX_IN_MEMORY", 1000)
    path = write_tar(tmp_path / "a.tar.gz", PICTURES, mode="w:gz")
    with pytest.raises(CalibrationSetError, match="a compressed tar is read into memory"):
        open_source(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tar", b"", "the archive is empty"),
        ("a.zip", b"", "the archive is empty"),
        ("a.tar", b"<html>404</html>" * 40, "not a tar archive"),
        ("a.zip", b"PK\x03\x04" + b"x" * 600, "not a complete zip archive"),
        ("a.bin", b"\0" * 600, "neither a folder of images nor a tar, zip or parquet file"),
    ],
)
def test_archive_other_content_is_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CalibrationSetError, match=message):
        open_source(tmp_path / name)


def test_archive_without_images_says_so(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"readme.txt": b"x", ".hidden.png": ONE, "__MACOSX/a.png": ONE})
    with pytest.raises(CalibrationSetError, match=r"a\.tar: no images found in it"):
        open_source(path)


def test_shards_missing_one_is_named_and_rest_used_if_asked(tmp_path: Path) -> None:
    write_webdataset(tmp_path, PICTURES)[1].unlink()
    pattern = str(tmp_path / "data-{000000..000002}.tar")
    with pytest.raises(CalibrationSetError, match=r"data-000001\.tar: the shard is missing"):
        open_source(pattern)
    rest = open_source(pattern, skip_damaged=True)
    assert len(rest) == 4
    assert "data-000001.tar: the shard is missing" in rest.warnings[0]


def test_shards_gap_in_glob_is_named(tmp_path: Path) -> None:
    write_webdataset(tmp_path, PICTURES)[1].unlink()
    with pytest.raises(CalibrationSetError, match=r"number 1 is missing between its 2 shards"):
        open_source(str(tmp_path / "data-*.tar"))


def test_shards_truncated_one_is_named(tmp_path: Path) -> None:
    shard = write_webdataset(tmp_path, PICTURES)[2]
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(CalibrationSetError, match=r"data-000002\.tar"):
        open_source(str(tmp_path / "data-*.tar"))
    assert len(open_source(str(tmp_path / "data-*.tar"), skip_damaged=True)) >= 4


def test_shards_pattern_without_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationSetError, match=r"no file matches"):
        open_source(str(tmp_path / "none-*.tar"))


@pytest.mark.parametrize("pattern", ["data-{5..3}.tar", "data-{0..99999999}.tar", "{0..999}{0..999}.tar"])
def test_shards_impossible_range_is_refused(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"invalid range of shards|shards; give at most"):
        open_source(str(tmp_path / pattern))


@pytest.mark.parametrize("content", [b"", b"cat", b"-1", b"1.5", b"1" * 40])
def test_archive_class_member_without_index_is_named(content: bytes, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.png": ONE, "a.cls": content})
    with pytest.raises(LabelError, match=r"a\.tar: a\.cls: .*(class index)"):
        open_source(path)


def test_archive_image_without_class_member_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.png": ONE, "a.cls": b"1", "b.png": ONE})
    with pytest.raises(LabelError, match=r"1 of 2 images have no \.cls member: .*b\.png"):
        open_source(path)


def test_archive_image_without_class_member_is_left_out_if_asked(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.png": ONE, "a.cls": b"1", "b.png": ONE})
    rest = open_source(path, skip_damaged=True)
    assert rest.names == ("a.png",)
    assert "1 of 2 images have no .cls member" in rest.warnings[0]


def test_archive_that_shrinks_while_in_use_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", PICTURES)
    item = open_source(path).items[-1]
    path.write_bytes(path.read_bytes()[:2048])
    with pytest.raises(ImageError, match=r"a\.tar: emu/1\.png: truncated: 0 of \d+ bytes at byte \d+"):
        item.read()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0/\n\r"), min_size=1, max_size=60).map(
            lambda name: f"{name[:20]}/{name}.png"
        ),
        min_size=1,
        max_size=6,
        unique=True,
    ),
    size=st.integers(0, 1500),
)
def test_tar_index_equals_that_of_tarfile(form: int, names: list[str], size: int, tmp_path: Path) -> None:
    if form == tarfile.USTAR_FORMAT:  # it has no room for longer names
        names = [f"{index}/{name[-20:]}" for index, name in enumerate(names)]
    path = write_tar(tmp_path / "a.tar", {name: bytes(size) for name in names}, form)
    from quantkit.data.sources.faults import Faults

    found = tar_index(LocalBlob(path), Faults(), lambda _: True)
    with tarfile.open(path) as archive:
        expected = [(info.name, info.size, info.offset_data) for info in archive]
    assert [(member.name, member.size, member.offset) for member in found] == expected


@pytest.mark.parametrize("suffix", ["tar", "zip", "tar.gz"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_archive_with_any_bytes_changed_is_read_or_refused(suffix: str, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / f"a.{suffix}"
    members = {"a/0.png": ONE[:64], "a/1.png": ONE[:64], "a/1.cls": b"1", "a/0.cls": b"0"}
    if suffix == "zip":
        write_zip(path, members)
    else:
        write_tar(path, members, mode="w:gz" if suffix == "tar.gz" else "w")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    _whole_index.cache_clear()
    for skip in (False, True):
        with contextlib.suppress(QuantkitError):
            for item in open_source(path, skip_damaged=skip).items:
                assert len(item.read()) == item.size
