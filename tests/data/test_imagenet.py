import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from progress_log import ProgressLog
from scipy.io import savemat

from quantkit.data.classes import ilsvrc_order, imagenet_classes, imagenet_index
from quantkit.data.devkit import GROUND_TRUTH, read_imagenet_labels
from quantkit.data.imagenet import check_imagenet, prepare_imagenet
from quantkit.errors import CalibrationSetError, LabelError, OutputError, UsageError

WNIDS = list(imagenet_classes())


def val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def label_of(number: int) -> int:
    return number * 37 % 9 * 100


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Forty files named like validation images, each with content of its own, and val_label.txt beside them."""
    folder = tmp_path / "val"
    folder.mkdir()
    for number in range(1, 41):
        (folder / val_name(number)).write_bytes(f"image {number}".encode())
    labels = "".join(f"{val_name(number)} {label_of(number)}\n" for number in range(1, 41))
    (tmp_path / "val_label.txt").write_text(labels)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.JPEG"))}


SORTED = {f"{WNIDS[label_of(number)]}/{val_name(number)}": f"image {number}".encode() for number in range(1, 41)}


def test_prepare_imagenet_move_sorts_in_place(flat: Path) -> None:
    log = ProgressLog()
    done = prepare_imagenet(flat, progress=log)
    assert contents(flat) == SORTED
    assert done == Counter({"placed": 40})
    assert log.counts[-1] == (40, 40)
    assert prepare_imagenet(flat) == Counter({"already there": 40})


def test_prepare_imagenet_links_leave_images_in_place(flat: Path, tmp_path: Path) -> None:
    assert prepare_imagenet(flat, tmp_path / "sorted") == Counter({"placed": 40})
    assert contents(tmp_path / "sorted") == SORTED
    assert len(contents(flat)) == 40
    assert prepare_imagenet(flat, tmp_path / "sorted") == Counter({"already there": 40})


@pytest.mark.parametrize("moving", [True, False])
def test_prepare_imagenet_without_hard_links_sorts_too(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moving: bool
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    to = None if moving else tmp_path / "sorted"
    prepare_imagenet(flat, to)
    assert contents(to or flat) == SORTED
    assert prepare_imagenet(flat, to) == Counter({"already there": 40})


def test_prepare_imagenet_never_overwrites_other_file(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = flat / WNIDS[label_of(1)] / val_name(1)
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    there = tmp_path / "sorted" / mine.relative_to(flat)
    there.parent.mkdir(parents=True)
    there.write_bytes(b"mine")

    def refuse(source: Path, target: Path) -> None:
        raise OSError(95, "Operation not supported")

    for _ in ("with hard links", "without"):
        for to in (None, tmp_path / "sorted"):
            with pytest.raises(OutputError, match=rf"another file with this name; .*{val_name(1)} was not moved"):
                prepare_imagenet(flat, to)
        monkeypatch.setattr(os, "link", refuse)
    assert mine.read_bytes() == there.read_bytes() == b"mine"
    assert (flat / val_name(1)).read_bytes() == b"image 1"


def test_prepare_imagenet_link_to_image_itself_is_refused(flat: Path) -> None:
    """Removing the image would leave a link to nothing."""
    link = flat / WNIDS[label_of(1)] / val_name(1)
    link.parent.mkdir()
    link.symlink_to(flat / val_name(1))
    with pytest.raises(OutputError, match="there is another file with this name"):
        prepare_imagenet(flat)
    assert link.read_bytes() == b"image 1"


def test_prepare_imagenet_images_that_are_links_are_moved_as_links(flat: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    flat.rename(store)
    flat.mkdir()
    for path in store.iterdir():
        (flat / path.name).symlink_to(os.path.relpath(path, flat))
    prepare_imagenet(flat)
    assert contents(flat) == SORTED
    assert len(list(store.iterdir())) == 40


def test_prepare_imagenet_same_content_twice_is_no_conflict(flat: Path) -> None:
    copy = flat / WNIDS[label_of(1)] / val_name(1)
    copy.parent.mkdir()
    copy.write_bytes(b"image 1")
    prepare_imagenet(flat)
    assert contents(flat) == SORTED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(f"{val_name(7)} ", "other.JPEG "), rf"1 of 40 images have no label: {val_name(7)}"),
        (lambda text: text + f"{val_name(7)} 3\n", rf"val_label\.txt:41: {val_name(7)} has label 3, and \d+ on line 7"),
        (
            lambda text: text.replace(f"{val_name(7)} ", f"{val_name(7)} 1"),
            "1 of 40 labels are out of range for",
        ),
    ],
)
def test_prepare_imagenet_bad_labels_are_refused_before_moving(
    flat: Path, tmp_path: Path, change, message: str
) -> None:
    labels = tmp_path / "val_label.txt"
    labels.write_text(change(labels.read_text()))
    with pytest.raises(LabelError, match=message):
        prepare_imagenet(flat)
    assert all("/" not in name for name in contents(flat))


def test_prepare_imagenet_contradicting_labels_are_refused_before_moving(flat: Path, tmp_path: Path) -> None:
    prepare_imagenet(flat)
    (flat / WNIDS[label_of(5)] / val_name(5)).rename(flat / val_name(5))
    labels = tmp_path / "val_label.txt"
    labels.write_text("".join(f"{val_name(number)} {label_of(number) + 1}\n" for number in range(1, 41)))
    with pytest.raises(LabelError, match=r"is in the folder of n\d+ and has label n\d+; check the label file"):
        prepare_imagenet(flat, labels=labels)
    assert (flat / val_name(5)).exists()


def test_prepare_imagenet_without_label_file_says_where_it_looked(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "val_label.txt").unlink()
    with pytest.raises(LabelError, match=r"there is no label file \(val_label\.txt, .*--labels"):
        prepare_imagenet(flat)


def test_prepare_imagenet_links_into_folder_itself_are_refused(flat: Path) -> None:
    for to in (flat, flat / "sorted"):
        with pytest.raises(UsageError, match="the links cannot be in the folder of the images"):
            prepare_imagenet(flat, to)


def test_prepare_imagenet_place_that_cannot_be_written_is_named(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot create the folder"):
        prepare_imagenet(flat, tmp_path / "file")
    with pytest.raises(CalibrationSetError, match="there is no such folder"):
        prepare_imagenet(tmp_path / "none")


# Runs prepare in a child again and again; each child kills itself right before its nth change to the file system, the
# last one is left to finish. Prints how many children were killed.
KILLING = """
import os, signal, sys
from pathlib import Path
from quantkit.data.imagenet import prepare_imagenet

folder, to, points = Path(sys.argv[1]), sys.argv[2], [int(n) for n in sys.argv[3].split(",")]
CHANGES = {"os.link", "os.remove", "os.rename", "os.symlink"}

def run(point):
    changes = 0
    def count(event, arguments):
        nonlocal changes
        if event in CHANGES:
            changes += 1
            if changes == point:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    prepare_imagenet(folder, Path(to) if to else None)
    os._exit(0)

killed = 0
for point in [*points, 0]:
    child = os.fork()
    if child == 0:
        run(point)
    killed += os.waitpid(child, 0)[1] == signal.SIGKILL
print(killed)
"""


@pytest.mark.parametrize("moving", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_prepare_imagenet_killed_at_random_loses_nothing(flat: Path, tmp_path: Path, moving: bool, seed: int) -> None:
    to = "" if moving else str(tmp_path / "sorted")
    points = ",".join(str(random.Random(seed).randint(1, 6)) for _ in range(12))
    command = [sys.executable, "-c", KILLING, str(flat), to, points]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 8
    assert contents(Path(to) if to else flat) == SORTED
    assert len(contents(flat)) == 40


def test_prepare_imagenet_killed_at_every_change_loses_nothing(flat: Path) -> None:
    """One child dies between link and removal of an image, the next after the removal, and so on for forty images."""
    command = [sys.executable, "-c", KILLING, str(flat), "", ",".join("23" * 45)]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) == 79
    assert contents(flat) == SORTED


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """A ground truth of 50,000 ids and a meta.mat laid out like the devkit's."""
    folder = tmp_path / "ILSVRC2012_devkit_t12/data"
    folder.mkdir(parents=True)
    (folder / GROUND_TRUTH).write_text("".join(f"{number * 7 % 1000 + 1}\n" for number in range(50_000)))
    write_meta(folder / "meta.mat", ilsvrc_order())
    return folder


def write_meta(path: Path, order: tuple[str, ...]) -> None:
    """The thousand classes, then inner nodes of the tree, which have ids too."""
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    rows = [(number, wnid, "words", 0) for number, wnid in enumerate((*order, "n00001740", "n00001930"), start=1)]
    savemat(path, {"synsets": np.array(rows, kinds).reshape(-1, 1)})


@pytest.mark.parametrize("with_meta", [True, False])
def test_devkit_ground_truth_is_mapped_to_class_indices(devkit: Path, with_meta: bool) -> None:
    if not with_meta:
        (devkit / "meta.mat").unlink()
    lines = read_imagenet_labels(devkit / GROUND_TRUTH)
    assert len(lines) == 50_000
    assert (lines[0].name, lines[-1].name) == (val_name(1), val_name(50_000))
    for line in lines[:50]:
        ilsvrc_id = (line.number - 1) * 7 % 1000 + 1
        assert line.label == imagenet_index()[ilsvrc_order()[ilsvrc_id - 1]]


def test_prepare_imagenet_flat_folder_finds_devkit_beside_it(devkit: Path, tmp_path: Path) -> None:
    flat = tmp_path / "val"
    flat.mkdir()
    for number in (1, 2, 50_000):
        (flat / val_name(number)).write_bytes(b"image")
    prepare_imagenet(flat)
    assert set(contents(flat)) == {
        f"{ilsvrc_order()[0]}/{val_name(1)}",
        f"{ilsvrc_order()[7]}/{val_name(2)}",
        f"{ilsvrc_order()[993]}/{val_name(50_000)}",
    }


def test_devkit_bad_files_are_refused(devkit: Path) -> None:
    truth, meta = devkit / GROUND_TRUTH, devkit / "meta.mat"
    lines = truth.read_text().splitlines()
    for text in ("0", "1001", "x", "-3", "", "3.0"):
        truth.write_text("\n".join([*lines[:9], text, *lines[10:]]) + "\n")
        with pytest.raises(LabelError, match=rf"{GROUND_TRUTH}:10: '{text}' is not an ILSVRC id \(1 to 1000\)"):
            read_imagenet_labels(truth)
    truth.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(LabelError, match="49999 lines, not 50000"):
        read_imagenet_labels(truth)
    write_meta(meta, ilsvrc_order()[1:])
    with pytest.raises(LabelError, match=r"meta\.mat: its ids 1 to 1000 are not the classes of ILSVRC 2012"):
        read_imagenet_labels(truth)
    for content in (b"", b"MATLAB 5.0 MAT-file", meta.read_bytes()[:5000]):
        meta.write_bytes(content)
        with pytest.raises(LabelError, match=r"meta\.mat: not the meta\.mat of the ILSVRC 2012 devkit"):
            read_imagenet_labels(truth)


def test_check_imagenet_labels_from_1_are_reported(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("".join(f"{val_name(number)} {number}\n" for number in range(1, 1001)))
    with pytest.raises(LabelError, match="these labels seem to count from 1"):
        read_imagenet_labels(tmp_path / "val.txt")


def test_check_imagenet_counts_and_names(tmp_path: Path, make_images) -> None:
    folder = make_images(tmp_path / "val", "n01440764/a.png", "n01440764/b.png", "n01443537/c.png")
    Image.new("L", (8, 8)).save(folder / "n01443537/grey.png")
    Image.new("CMYK", (8, 8)).save(folder / "n01443537/ink.jpg")
    (folder / "n01443537/cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    log = ProgressLog()
    report = check_imagenet(folder, progress=log)
    assert (report.images, report.source) == (6, "class folders")
    assert report.per_class == {"n01440764": 2, "n01443537": 4}
    assert [item.name for item in report.corrupt] == ["n01443537/cut.jpg"]
    assert report.notes == {"greyscale": ("n01443537/grey.png",), "CMYK": ("n01443537/ink.jpg",)}
    assert len(report.missing) == 998
    assert not report.is_whole_validation_set
    assert log.counts[-1] == (6, 6)


def test_check_imagenet_file_names_with_wordnet_id_need_no_labels(tmp_path: Path, make_images) -> None:
    folder = make_images(tmp_path / "train", "n01440764_1.png", "n01443537_2.png")
    report = check_imagenet(folder)
    assert (report.source, list(report.per_class)) == (
        "file names that begin with WordNet ids",
        ["n01440764", "n01443537"],
    )
    prepare_imagenet(folder)
    assert (folder / "n01443537/n01443537_2.png").is_file()
    assert check_imagenet(folder).source == "class folders"


def test_check_imagenet_without_labels_is_refused(tmp_path: Path, make_images) -> None:
    with pytest.raises(LabelError, match="do not begin with WordNet ids, and there is no label file"):
        check_imagenet(make_images(tmp_path / "flat", "a.png"))


def test_check_imagenet_real_photos_have_no_faults(shared_assets: Path, tmp_path: Path) -> None:
    for photo in sorted((shared_assets / "imagenet_samples").iterdir())[::5]:
        target = tmp_path / photo.name[:9] / photo.name
        target.parent.mkdir()
        target.symlink_to(photo)
    report = check_imagenet(tmp_path)
    assert (report.images, len(report.per_class), report.corrupt) == (200, 200, ())
    assert len(report.notes["greyscale"]) > 0
