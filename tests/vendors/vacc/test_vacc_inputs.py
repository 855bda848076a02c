"""Images for the card's runner: pixels, names, resumption, and what cannot be decoded."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantkit.data.folder import find_labelled_images
from quantkit.data.item import FileItem
from quantkit.errors import CalibrationSetError, VendorFileError
from quantkit.vendors.vacc.inputs import InputFile, plan_inputs, write_datalist, write_inputs
from quantkit.vendors.vacc.tensors import npz_shape, read_npz, write_npz


def test_npz_file_is_read_by_numpy_and_repeats_bytes(tmp_path: Path, rng: np.random.Generator) -> None:
    arrays: dict[str, np.ndarray] = {
        "output_0": rng.standard_normal((1, 7)).astype(np.float16),
        "b": np.arange(6).reshape(2, 3).T,
    }
    write_npz(tmp_path / "a.npz", arrays)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert stored.files == ["output_0", "b"]
        for key, array in arrays.items():
            np.testing.assert_array_equal(stored[key], array)
            assert stored[key].dtype == array.dtype
    time.sleep(0.01)
    write_npz(tmp_path / "b.npz", arrays, durable=False)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    np.testing.assert_array_equal(read_npz(tmp_path / "a.npz", "b"), arrays["b"])
    assert npz_shape(tmp_path / "a.npz", "b") == (3, 2)
    np.savez_compressed(tmp_path / "c.npz", output_0=arrays["output_0"])
    np.testing.assert_array_equal(read_npz(tmp_path / "c.npz", "output_0"), arrays["output_0"])


def test_npz_file_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, {"output_0": np.zeros(400, np.float32)})
    whole = path.read_bytes()
    with pytest.raises(VendorFileError, match=r"it has no `input_0` \(found: output_0\)"):
        read_npz(path, "input_0")
    for content in (b"", whole[:90], whole[:-30], whole.replace(b"\0" * 99, b"\1" * 99, 1), b"\x93NUMPY", whole[:50]):
        path.write_bytes(content)
        with pytest.raises(VendorFileError, match=r"a.npz: a damaged npz file"):
            read_npz(path, "output_0")
    with pytest.raises(VendorFileError, match="cannot read the file"):
        read_npz(tmp_path / "gone.npz", "output_0")
    assert npz_shape(tmp_path / "gone.npz", "a") is None
    np.savez(path, output_0=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(VendorFileError, match=r"damaged npz file \(Object arrays cannot be loaded"):
        read_npz(path, "output_0")


def test_inputs_are_whole_pictures_in_class_folders(tmp_path: Path, photos: Path) -> None:
    found = find_labelled_images(photos)
    files = plan_inputs(found, tmp_path / "npz")
    seen: list[tuple[int, int]] = []
    report = write_inputs(files, progress=lambda done, total: seen.append((done, total)))
    assert (report.written, report.broken) == (len(found.names), ())
    assert seen[-1] == (len(found.names),) * 2
    for file in report.files:
        pixels = read_npz(file.npz, "input_0")
        with Image.open(Path(str(file.image.where))) as image:
            np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")).transpose(2, 0, 1))
        assert pixels.dtype == np.uint8
        assert (
            file.npz
            == tmp_path / "npz" / Path(str(file.image.where)).parent.name / f"{Path(str(file.image.where)).stem}.npz"
        )
    write_datalist(tmp_path / "list.txt", report.files)
    lines = (tmp_path / "list.txt").read_text().splitlines()
    assert lines == [str(tmp_path / "npz" / Path(name).with_suffix(".npz")) for name in found.names]


def test_inputs_of_imagenet_are_in_wordnet_folders(tmp_path: Path, photos: Path) -> None:
    image = next(photos.rglob("*.png")).read_bytes()
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in ("n01443537_goldfish.png", "n01440764_tench.png"):
        (flat / name).write_bytes(image)
    planned = plan_inputs(find_labelled_images(flat), tmp_path / "npz")
    assert [file.npz.parent.name for file in planned] == ["n01440764", "n01443537"]
    (flat / "n01443537_goldfish.png").rename(flat / "ILSVRC2012_val_00000001.png")
    (flat / "n01440764_tench.png").rename(flat / "ILSVRC2012_val_00000002.png")
    (tmp_path / "val.txt").write_text("ILSVRC2012_val_00000001.png 65\nILSVRC2012_val_00000002.png 1\n")
    planned = plan_inputs(find_labelled_images(flat, tmp_path / "val.txt"), tmp_path / "npz")
    assert [file.npz.parent.name for file in planned] == ["n01751748", "n01443537"]


def test_inputs_without_class_names_are_in_numbered_folders(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (3, 2)).save(tmp_path / "flat" / "x.png")
    (tmp_path / "labels.txt").write_text("x.png 7\n")
    (file,) = plan_inputs(find_labelled_images(tmp_path / "flat", tmp_path / "labels.txt"), tmp_path / "npz")
    assert file.npz == tmp_path / "npz" / "7" / "x.npz"


def test_inputs_two_images_of_one_name_are_refused(tmp_path: Path, photos: Path) -> None:
    first = next(photos.rglob("*.png"))
    (first.with_suffix(".bmp")).write_bytes(first.read_bytes())
    with pytest.raises(CalibrationSetError, match=r"would both be written to .*\.npz; rename one of them"):
        plan_inputs(find_labelled_images(photos), tmp_path / "npz")


def test_inputs_rewrite_only_what_changed(tmp_path: Path, photos: Path) -> None:
    files = plan_inputs(find_labelled_images(photos), tmp_path / "npz")
    write_inputs(files)
    stamps = [file.npz.stat().st_mtime_ns for file in files]
    assert write_inputs(files).written == 0
    files[0].npz.write_bytes(files[0].npz.read_bytes()[:-40])  # as a power failure may leave it
    Image.new("RGB", (5, 4)).save(Path(str(files[1].image.where)))  # another picture
    os.utime(Path(str(files[2].image.where)))  # newer than what was made of it
    assert write_inputs(files).written == 3
    assert read_npz(files[1].npz, "input_0").shape == (3, 4, 5)
    assert [file.npz.stat().st_mtime_ns for file in files[3:]] == stamps[3:]


def test_inputs_broken_images_are_named_and_left_out(tmp_path: Path, photos: Path) -> None:
    found = find_labelled_images(photos)
    broken = Path(str(found.items[1].where))
    broken.write_bytes(broken.read_bytes()[:60])
    report = write_inputs(plan_inputs(found, tmp_path / "npz"))
    assert [fault.where for fault in report.broken] == [str(broken)]
    assert len(report.files) == len(found.names) - 1


def test_inputs_killed_run_leaves_whole_files_and_resumes(tmp_path: Path, rng: np.random.Generator) -> None:
    for index in range(40):
        path = tmp_path / "images" / "ab"[index % 2] / f"{index}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (700, 700, 3), dtype=np.uint8)).save(path)
    command = [sys.executable, "-m", "quantkit.cli.main", "vamp", "inputs", "--threads", "1"]
    command += ["--images", str(tmp_path / "images"), "--out", str(tmp_path / "npz")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list((tmp_path / "npz").rglob("[!.]*.npz"))) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = list((tmp_path / "npz").rglob("[!.]*.npz"))
    for path in there:
        assert read_npz(path, "input_0").shape == (3, 700, 700)
    assert not (tmp_path / "npz" / "npz_datalist.txt").exists() or len(there) == 40
    (tmp_path / "npz" / "a" / ".x.npz.0.quantkit-tmp").touch()  # what a kill leaves
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{40 - len(there)} inputs ({len(there)} were there)" in " ".join(done.stdout.split())
    assert len((tmp_path / "npz" / "npz_datalist.txt").read_text().splitlines()) == 40
    assert list((tmp_path / "npz").rglob(".*")) == []


def test_inputs_vanished_image_is_named(tmp_path: Path) -> None:
    report = write_inputs([InputFile(FileItem(tmp_path / "gone.png"), tmp_path / "npz" / "a" / "gone.npz")])
    assert "gone.png: cannot read the image" in str(report.broken[0])
