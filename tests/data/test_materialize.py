import os
import shutil
from pathlib import Path

import pytest
from progress_log import ProgressLog

from quantkit.data.build_set import build_calibration_set
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.materialize import materialize, materialized_names
from quantkit.errors import CalibrationSetError, OutputError
from quantkit.files import sha256_file


@pytest.fixture
def chosen(three_classes: Path) -> CalibrationSet:
    return build_calibration_set(three_classes, count=11)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("link", [True, False])
def test_materialize_names_are_flat_and_keep_the_order(chosen: CalibrationSet, tmp_path: Path, link: bool) -> None:
    log = ProgressLog()
    materialize(chosen, tmp_path / "flat", link=link, progress=log)
    found = digests(tmp_path / "flat")
    assert list(found.values()) == [image.sha256 for image in chosen.images]
    assert list(found) == materialized_names(chosen)
    assert log.counts[-1] == (11, 11)
    same_file = Path(str(chosen.items[0].where)).samefile(tmp_path / "flat" / next(iter(found)))
    assert same_file is link


def test_materialize_repeated_names_stay_apart(chosen: CalibrationSet, tmp_path: Path) -> None:
    assert len({Path(image.name).name for image in chosen.images}) < len(chosen)
    assert len(set(materialized_names(chosen))) == len(chosen)


def test_materialize_interrupted_resumes(chosen: CalibrationSet, tmp_path: Path) -> None:
    flat = tmp_path / "flat"

    def interrupt(name: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        materialize(chosen, flat, link=False, progress=ProgressLog(interrupt))
    before = {path.name: path.stat().st_mtime_ns for path in flat.iterdir()}
    (flat / ".left.0a1b2c3d.quantkit-tmp").write_bytes(b"half")
    materialize(chosen, flat, link=False)
    assert len(digests(flat)) == 11
    assert all((flat / name).stat().st_mtime_ns == time for name, time in before.items())


def test_materialize_damaged_copy_is_replaced(chosen: CalibrationSet, tmp_path: Path) -> None:
    materialize(chosen, tmp_path / "flat", link=False)
    victim = tmp_path / "flat" / materialized_names(chosen)[2]
    victim.write_bytes(victim.read_bytes()[:10])
    materialize(chosen, tmp_path / "flat", link=False)
    assert digests(tmp_path / "flat")[victim.name] == chosen.images[2].sha256


def test_materialize_links_fall_back_to_copies(
    chosen: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    materialize(chosen, tmp_path / "flat")
    assert list(digests(tmp_path / "flat").values()) == [image.sha256 for image in chosen.images]


def test_materialize_folder_with_other_files_is_refused(chosen: CalibrationSet, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/stranger.jpg").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"flat: the folder contains stranger\.jpg, which is not in this set"):
        materialize(chosen, tmp_path / "flat")
    assert (tmp_path / "flat/stranger.jpg").read_bytes() == b"mine"


def test_materialize_changed_or_missing_image_is_named(chosen: CalibrationSet, tmp_path: Path) -> None:
    shutil.copyfile(Path(str(chosen.items[1].where)), Path(str(chosen.items[0].where)))
    with pytest.raises(CalibrationSetError, match=r"\d\.png: the file has changed"):
        materialize(chosen, tmp_path / "flat")
    Path(str(chosen.items[0].where)).unlink()
    with pytest.raises(CalibrationSetError, match=r"\d\.png: cannot read the image \(no such file"):
        materialize(chosen, tmp_path / "flat")


def test_materialize_folder_that_cannot_be_made_is_named(chosen: CalibrationSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot create the folder"):
        materialize(chosen, tmp_path / "file/flat")
