"""The same pictures from every form of source: ids, labels, bytes, sets, overlap."""

import hashlib
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
from counting import counted
from source_forms import flat, labels_of, pictures, write_folder, write_parquet, write_tar, write_webdataset, write_zip

from quantkit.data.build_set import build_calibration_set
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.folder import find_images, find_labelled_images
from quantkit.data.materialize import materialize
from quantkit.data.overlap import overlap
from quantkit.data.rebuild import rebuild_calibration_set
from quantkit.data.source import ImageSource
from quantkit.data.sources.open import open_source
from quantkit.errors import LabelError

PICTURES = pictures()


def _memory(path: Path) -> str:
    """Put a file or folder behind a memory:// URL."""
    fs = fsspec.filesystem("memory")
    root = f"/{path.parent.name}-{path.name}"
    fs.put(str(path), root, recursive=True)
    return f"memory:/{root}"


def _half(images: dict[str, bytes], first: bool) -> dict[str, bytes]:
    names = list(images)
    return {name: images[name] for name in (names[: len(names) // 2] if first else names[len(names) // 2 :])}


def _halves(folder: Path) -> Path:
    write_parquet(folder / "val-00000-of-00002.parquet", _half(PICTURES, first=True))
    write_parquet(folder / "val-00001-of-00002.parquet", _half(PICTURES, first=False))
    return folder


FORMS: dict[str, Callable[[Path], Path | str]] = {
    "folder": lambda place: write_folder(place / "zoo", PICTURES),
    "tar": lambda place: write_tar(place / "zoo.tar", PICTURES),
    "tar of a folder": lambda place: write_tar(place / "zoo.tar", {f"zoo/{name}": PICTURES[name] for name in PICTURES}),
    "tar with dot names": lambda place: write_tar(
        place / "zoo.tar", {f"./{name}": PICTURES[name] for name in PICTURES}
    ),
    "GNU tar": lambda place: write_tar(place / "zoo.tar", PICTURES, tarfile.GNU_FORMAT),
    "ustar": lambda place: write_tar(place / "zoo.tar", PICTURES, tarfile.USTAR_FORMAT),
    "tar.gz": lambda place: write_tar(place / "zoo.tar.gz", PICTURES, mode="w:gz"),
    "tar.bz2": lambda place: write_tar(place / "zoo.tar.bz2", PICTURES, mode="w:bz2"),
    "tar.xz": lambda place: write_tar(place / "zoo.tar.xz", PICTURES, mode="w:xz"),
    "zip": lambda place: write_zip(place / "zoo.zip", PICTURES),
    "stored zip": lambda place: write_zip(place / "zoo.zip", PICTURES, zipfile.ZIP_STORED),
    "webdataset": lambda place: (write_webdataset(place, PICTURES), str(place / "data-{000000..000002}.tar"))[1],
    "webdataset glob": lambda place: (write_webdataset(place, PICTURES), str(place / "data-*.tar"))[1],
    "folder of shards": lambda place: (write_webdataset(place / "shards", PICTURES), place / "shards")[1],
    "parquet": lambda place: write_parquet(place / "zoo.parquet", PICTURES),
    "parquet files": lambda place: _halves(place / "zoo"),
    "parquet glob": lambda place: f"{_halves(place)}/val-*.parquet",
    "file URL": lambda place: f"file://{write_tar(place / 'zoo.tar', PICTURES)}",
    "memory folder": lambda place: _memory(write_folder(place / "zoo", PICTURES)),
    "memory tar": lambda place: _memory(write_tar(place / "zoo.tar", PICTURES)),
    "memory zip": lambda place: _memory(write_zip(place / "zoo.zip", PICTURES)),
    "memory parquet": lambda place: _memory(write_parquet(place / "zoo.parquet", PICTURES)),
    "memory shards": lambda place: (
        write_webdataset(place / "shards", PICTURES),
        f"{_memory(place / 'shards')}/data-{{000000..000002}}.tar",
    )[1],
    "memory folder of shards": lambda place: (write_webdataset(place / "s", PICTURES), _memory(place / "s"))[1],
}


@pytest.fixture(params=FORMS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """The pictures in one form."""
    return FORMS[request.param](tmp_path)


def _name(id: str) -> str:
    """Return the name of a picture in its folder; parquet's have an underscore for the slash."""
    return id.replace("_", "/")


def test_find_labelled_images_any_form_same_names_labels_and_bytes(place: Path | str) -> None:
    found = find_labelled_images(place)
    assert [_name(name) for name in found.names] == list(PICTURES)
    assert found.labels is not None
    assert found.labels.tolist() == labels_of(PICTURES)
    assert {_name(item.id): item.read() for item in found.items} == PICTURES
    assert [item.digest() for item in found.items] == [hashlib.sha256(data).hexdigest() for data in PICTURES.values()]


def test_source_items_of_any_form_are_read_in_any_order(place: Path | str) -> None:
    found = find_images(place)
    for index in np.random.default_rng(0).permutation(len(found)):
        item = found.items[index]
        assert item.read() == PICTURES[_name(item.id)]


def test_source_fingerprints_of_any_form_are_distinct_and_stay(place: Path | str) -> None:
    first, second = ([item.fingerprint() for item in find_images(place).items] for _ in range(2))
    assert first == second
    assert len(set(first)) == len(PICTURES)


def test_calibration_set_of_any_form_is_saved_loaded_and_verified(place: Path | str, tmp_path: Path) -> None:
    chosen = build_calibration_set(place, count=6, seed=3)
    assert chosen.per_class == {0: 2, 1: 2, 2: 2}
    chosen.save(tmp_path / "sets" / "set.csv")
    loaded = CalibrationSet.load(tmp_path / "sets" / "set.csv")
    assert loaded.digest == chosen.digest
    assert loaded.verify() == ()
    assert [item.digest() for item in loaded.items] == [image.sha256 for image in chosen.images]


def test_overlap_of_any_form_with_set_from_folder_is_found(place: Path | str, tmp_path: Path) -> None:
    chosen = build_calibration_set(write_folder(tmp_path / "original", PICTURES), count=6, seed=3)
    names = {image.name for image in chosen.images}
    found = find_images(place)
    assert overlap(chosen, found.items) == [index for index, name in enumerate(found.names) if _name(name) in names]


def test_rebuild_set_from_tar_and_zip_has_equal_digest(tmp_path: Path) -> None:
    chosen = build_calibration_set(write_folder(tmp_path / "zoo", PICTURES), count=6, seed=3)
    for place in (write_tar(tmp_path / "zoo.tar", PICTURES), write_zip(tmp_path / "zoo.zip", PICTURES)):
        rebuilt = rebuild_calibration_set(chosen, place)
        assert rebuilt.digest == chosen.digest
        assert [item.id for item in rebuilt.items] == [image.name for image in chosen.images]
        same = build_calibration_set(place, count=6, seed=3)
        assert [image.sha256 for image in same.images] == [image.sha256 for image in chosen.images]


def test_materialize_writes_the_bytes_of_any_form(place: Path | str, tmp_path: Path) -> None:
    chosen = build_calibration_set(place, count=6, seed=3)
    materialize(chosen, tmp_path / "flat")
    written = [path.read_bytes() for path in sorted((tmp_path / "flat").iterdir())]
    assert [hashlib.sha256(data).hexdigest() for data in written] == [image.sha256 for image in chosen.images]


def test_manifest_names_an_archive_relative_to_itself(tmp_path: Path) -> None:
    chosen = build_calibration_set(write_tar(tmp_path / "zoo.tar", PICTURES), count=3)
    (tmp_path / "sets").mkdir()
    chosen.save(tmp_path / "sets" / "set.csv")
    assert "# images: ../zoo.tar\n" in (tmp_path / "sets" / "set.csv").read_text()
    (tmp_path / "sets").rename(tmp_path / "moved")
    assert CalibrationSet.load(tmp_path / "moved" / "set.csv").verify() == ()


def test_manifest_of_a_removed_image_names_it(tmp_path: Path) -> None:
    chosen = build_calibration_set(write_tar(tmp_path / "zoo.tar", PICTURES), count=3)
    gone = chosen.images[1].name
    write_tar(tmp_path / "zoo.tar", {name: PICTURES[name] for name in PICTURES if name != gone})
    chosen.save(tmp_path / "set.csv")
    [left] = CalibrationSet.load(tmp_path / "set.csv").verify()
    assert (left.name, left.why) == (gone, "there is no such image in it")


def test_source_changed_archive_changes_fingerprints(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "zoo.tar", PICTURES)
    before = [item.fingerprint() for item in find_images(path).items]
    write_tar(path, {**PICTURES, "fox/0.png": PICTURES["cat/0.png"]})
    after = [item.fingerprint() for item in find_images(path).items]
    assert not set(before) & set(after)


def test_shards_with_equal_member_names_prefix_the_shard_name(tmp_path: Path) -> None:
    for shard in range(2):
        write_tar(
            tmp_path / f"data-{shard}.tar", {"0.png": list(PICTURES.values())[shard], "0.cls": str(shard).encode()}
        )
    found = find_labelled_images(str(tmp_path / "data-{0..1}.tar"))
    assert found.names == ("data-0.tar/0.png", "data-1.tar/0.png")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1]


def test_parquet_without_paths_is_named_by_row_and_kind(tmp_path: Path) -> None:
    found = find_images(write_parquet(tmp_path / "zoo.parquet", PICTURES, path_of=lambda _: None))
    assert found.names[:2] == ("zoo-000000.png", "zoo-000001.png")


def test_parquet_class_names_come_from_its_metadata(tmp_path: Path) -> None:
    found = find_labelled_images(write_parquet(tmp_path / "zoo.parquet", PICTURES))
    assert found.class_names == {0: "cat", 1: "dog", 2: "emu"}
    assert found.classes == 3


def test_label_file_goes_before_the_labels_of_a_source(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "zoo.parquet", PICTURES)
    lines = [f"{name.replace('/', '_')} {7 - label}" for name, label in zip(PICTURES, labels_of(PICTURES), strict=True)]
    (tmp_path / "labels.txt").write_text("\n".join(lines))
    found = find_labelled_images(path, tmp_path / "labels.txt")
    assert found.labels is not None
    assert found.labels.tolist() == [7 - label for label in labels_of(PICTURES)]


def test_open_source_own_source_is_returned(tmp_path: Path) -> None:
    items = find_images(write_tar(tmp_path / "zoo.tar", PICTURES)).items
    own = ImageSource("a database", items[:3], np.array([0, 1, 2]))
    assert find_labelled_images(own) is own
    assert open_source(own) is own


def test_source_items_of_archives_are_pickled(tmp_path: Path) -> None:
    import pickle

    for path in (
        write_tar(tmp_path / "zoo.tar", PICTURES),
        write_zip(tmp_path / "zoo.zip", PICTURES),
        write_parquet(tmp_path / "zoo.parquet", PICTURES),
        write_folder(tmp_path / "zoo", PICTURES),
    ):
        item = find_images(path).items[5]
        item.read()
        again = pickle.loads(pickle.dumps(item))
        assert (again.id, again.read(), again.fingerprint()) == (item.id, item.read(), item.fingerprint())


def test_parquet_reads_each_row_group_once_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quantkit.data.sources.parquet_file import ParquetImages

    read = counted(ParquetImages, "read_group", monkeypatch)
    for item in find_images(write_parquet(tmp_path / "zoo.parquet", PICTURES, row_group_size=5)).items:
        item.read()
    assert read == [(0,), (1,), (2,)]


def test_tar_reads_single_members_not_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quantkit.data.sources.blob import LocalBlob

    large = {**PICTURES, "fox/large.png": PICTURES["cat/0.png"] + b"\0" * 5_000_000}
    item = find_images(write_tar(tmp_path / "zoo.tar", large)).items[0]
    read = counted(LocalBlob, "read_at", monkeypatch)
    assert item.read() == PICTURES["cat/0.png"]
    assert sum(int(length) for _, length in read) == len(PICTURES["cat/0.png"])
    read.clear()
    write_tar(tmp_path / "other.tar", large)
    find_images(tmp_path / "other.tar")
    assert sum(int(length) for _, length in read) < 1_000_000


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_label_file_serves_a_source_whose_own_labels_are_faulty(form: str, tmp_path: Path) -> None:
    if form == "tar":
        path = write_tar(tmp_path / "zoo.tar", {**PICTURES, "cat/0.cls": b"cat"})
        names = list(PICTURES)
    else:
        path = write_parquet(tmp_path / "zoo.parquet", PICTURES, labels=[None] * len(PICTURES))
        names = [flat(name) for name in PICTURES]
    with pytest.raises(LabelError, match=r"no \.cls member|no label"):
        find_labelled_images(path)
    (tmp_path / "labels.txt").write_text("".join(f"{name} 5\n" for name in names))
    found = find_labelled_images(path, tmp_path / "labels.txt")
    assert found.labels is not None
    assert set(found.labels.tolist()) == {5}
    assert build_calibration_set(path, count=3, unlabelled=True).labels is None
