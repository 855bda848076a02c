import hashlib
from pathlib import Path

import pytest

from quantkit.errors import OutputError
from quantkit.files import make_folder, replacing, sha256_file, sha256_json, write_json, write_text


def test_replacing_failed_write_keeps_old_file_only(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_json_non_finite_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_write_text_makes_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "c.txt", "x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


def test_write_text_impossible_place_is_named_with_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.*cannot create the folder \(.*(exists|directory)"):
        make_folder(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=r"folder: cannot write the file \(is a directory\)"):
        write_text(tmp_path / "folder", "x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_replacing_full_disk_is_an_output_error(tmp_path: Path) -> None:
    path = tmp_path / "out"

    def fill(temporary: Path) -> None:
        temporary.symlink_to("/dev/full")
        with temporary.open("wb") as file:
            file.write(b"x" * 100_000)

    with pytest.raises(OutputError, match="no space left on device"), replacing(path) as temporary:
        fill(temporary)
    assert list(tmp_path.iterdir()) == []


def test_sha256_of_file_and_json_is_that_of_hashlib(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a" * 3_000_000)
    assert sha256_file(path) == hashlib.sha256(b"a" * 3_000_000).hexdigest()
    assert sha256_json({"b": 1, "a": [1.5, "é"]}) == sha256_json({"a": [1.5, "é"], "b": 1})
