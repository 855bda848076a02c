import shutil
from pathlib import Path

import pytest

from quantkit.data.build_set import build_calibration_set
from quantkit.data.folder import find_images
from quantkit.data.overlap import digest_of, overlap
from quantkit.errors import ImageError
from quantkit.files import sha256_file


def test_overlap_is_found_by_content(three_classes: Path, tmp_path: Path) -> None:
    chosen = build_calibration_set(three_classes, count=6)
    everything = find_images(three_classes)
    positions = overlap(chosen, everything.items)
    assert {everything.names[position] for position in positions} == {image.name for image in chosen.images}
    renamed = tmp_path / "renamed.png"
    shutil.copyfile(Path(str(chosen.items[0].where)), renamed)
    others = [
        Path(str(item.where)) for item in everything.items if item.id not in {image.name for image in chosen.images}
    ]
    assert overlap(chosen, [*others, renamed]) == [len(others)]


def test_overlap_without_files_of_set_uses_digests(three_classes: Path, tmp_path: Path) -> None:
    chosen = build_calibration_set(three_classes, count=6)
    copies = tmp_path / "copies"
    shutil.copytree(three_classes, copies)
    shutil.rmtree(three_classes)
    assert len(overlap(chosen, find_images(copies).items)) == 6


def test_digest_of_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for content in (b"first", b"second, longer"):
        path.write_bytes(content)
        assert digest_of(path) == sha256_file(path)


def test_overlap_missing_image_is_named(three_classes: Path) -> None:
    chosen = build_calibration_set(three_classes, count=6)
    with pytest.raises(ImageError, match=r"none\.png: cannot read the image"):
        overlap(chosen, [three_classes / "none.png"])
