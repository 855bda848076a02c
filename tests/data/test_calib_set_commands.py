"""The commands calib-set and imagenet, through the entry point: what they print and how they end."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quantkit.cli.main import main
from quantkit.data.calibration_set import CalibrationSet

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run quantkit in ``tmp_path``; return exit code, standard output and standard error as one line each."""
    monkeypatch.chdir(tmp_path)

    def run_quantkit(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["quantkit", *map(str, arguments)])
        with pytest.raises(SystemExit, match=r"^\d+$") as ended:
            main()
        out, err = capsys.readouterr()
        return int(str(ended.value)), out, " ".join(err.split())

    return run_quantkit


def test_calib_set_build_check_and_materialize_in_turn(run: Run, three_classes: Path, tmp_path: Path) -> None:
    (three_classes / "dog/3.png").write_bytes(b"")
    code, out, _ = run("calib-set", "build", "--images", "zoo", "--count", 15, "--seed", 1, "--out", "sets/zoo.csv")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "15 images: 3 classes, 3 to 6 each; labels: 3 class folders; seed 1"
    assert lines[1] == f"digest {CalibrationSet.load(tmp_path / 'sets/zoo.csv').digest}"
    assert "note: the classes have 3 to 6 images, because some have too few usable ones" in lines
    assert "wrote sets/zoo.csv (new: sets/)" in lines
    code, out, _ = run("calib-set", "check", "sets/zoo.csv")
    assert (code, out.splitlines()[-1]) == (0, "all 15 images are present, unchanged and decodable")
    code, out, _ = run("calib-set", "materialize", "sets/zoo.csv", "flat")
    assert code == 0
    assert out.startswith("15 images are in flat\nwrote flat\nnext: quantkit vamc write ")
    assert len(list((tmp_path / "flat").iterdir())) == 15


def test_calib_set_build_does_not_overwrite_other_set(run: Run, three_classes: Path, tmp_path: Path) -> None:
    build = ("calib-set", "build", "--images", "zoo", "--count", 6, "--out", "zoo.csv")
    assert run(*build)[0] == 0
    before = (tmp_path / "zoo.csv").read_bytes()
    code, _, err = run(*build, "--seed", 9)
    assert code == 2
    assert "zoo.csv: the file exists, has other content, and is not overwritten; give another --out" in err
    assert (tmp_path / "zoo.csv").read_bytes() == before
    assert run(*build)[0] == 0  # the same set again
    (tmp_path / "zoo.csv").write_text("my notes")
    assert run(*build)[0] == 2


def test_calib_set_build_names_images_left_out(run: Run, three_classes: Path) -> None:
    for path in (three_classes / "emu").iterdir():
        path.write_bytes(b"<html>")
    code, out, _ = run("calib-set", "build", "--images", "zoo", "--count", 9, "--out", "zoo.csv")
    assert code == 0
    assert sorted(line for line in out.splitlines() if line.startswith("left out: ")) == [
        f"left out: emu/{number}.png: not an image: it starts like an HTML page, a failed download"
        for number in range(3)
    ]


def test_calib_set_build_materializes_copies_at_once(run: Run, three_classes: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        "calib-set", "build", "--images", "zoo", "--count", 6, "--out", "zoo.csv", "--materialize", "flat", "--copy"
    )
    assert code == 0
    assert "6 images are in flat" in out.splitlines()
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "flat").iterdir())


def test_calib_set_build_reads_label_and_name_files(run: Run, tmp_path: Path, make_images) -> None:
    make_images(tmp_path / "images", "a.png", "b.png")
    (tmp_path / "labels.txt").write_text("a.png 1\nb.png 0\n")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    common = ("calib-set", "build", "--images", "images", "--labels", "labels.txt", "--names", "names.txt")
    code, _, _ = run(*common, "--count", 2, "--out", "set.csv")
    assert code == 0
    found = {image.name: image.class_name for image in CalibrationSet.load(tmp_path / "set.csv").images}
    assert found == {"a.png": "dog", "b.png": "cat"}


def test_calib_set_build_without_labels_needs_unlabelled(run: Run, tmp_path: Path, make_images) -> None:
    make_images(tmp_path / "images", *(f"{number}.png" for number in range(6)))
    code, out, _ = run("calib-set", "build", "--images", "images", "--unlabelled", "--count", 4, "--out", "set.csv")
    assert (code, out.splitlines()[0]) == (0, "4 images: no labels; seed 0")


def test_calib_set_build_from_labels_alone_is_rebuilt(run: Run, tmp_path: Path, make_images) -> None:
    make_images(tmp_path / "copy/deep", *(f"{number}.png" for number in range(6)))
    (tmp_path / "labels.txt").write_text("".join(f"{number}.png {number % 2}\n" for number in range(6)))
    code, out, _ = run("calib-set", "build", "--labels", "labels.txt", "--count", 4, "--out", "plan.csv")
    assert (code, out.splitlines()[1]) == (0, "no digests yet: selected from labels alone")
    code, _, err = run("calib-set", "check", "plan.csv")
    assert code == 6
    assert (
        "plan.csv: the set was selected from labels alone and has no digests; find them with quantkit calib-set" in err
    )
    code, out, _ = run("calib-set", "rebuild", "plan.csv", "--images", "copy", "--out", "set.csv")
    assert code == 0
    assert "wrote set.csv" in out.splitlines()
    assert run("calib-set", "check", "set.csv")[0] == 0


def test_imagenet_prepare_and_check_print_summary(run: Run, tmp_path: Path, make_images) -> None:
    make_images(tmp_path / "val", *(f"ILSVRC2012_val_{number:08d}.png" for number in range(1, 5)))
    (tmp_path / "val_label.txt").write_text(
        "".join(f"ILSVRC2012_val_{number:08d}.png {number % 2}\n" for number in range(1, 5))
    )
    code, out, _ = run("imagenet", "prepare", "val", "--out", "sorted")
    assert (code, out.splitlines()[0]) == (0, "4 images placed, 0 were there, in sorted")
    code, out, _ = run("imagenet", "prepare", "val", "--move")
    assert (code, out.splitlines()[0]) == (0, "4 images placed, 0 were there, in val")
    (tmp_path / "val/n01440764/ILSVRC2012_val_00000002.png").write_bytes(b"")
    code, out, err = run("imagenet", "check", "val")
    assert code == 4
    assert out.splitlines()[0] == "4 images, 2 of 1000 classes, 2 each; labels: class folders"
    assert "corrupt: n01440764/ILSVRC2012_val_00000002.png: the image file is empty" in out
    assert "1 of 4 images cannot be decoded" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("build", "--out", "x.csv"), 2, "neither images nor labels are given; give --images DIR"),
        (("build", "--images", "none", "--out", "x.csv"), 6, "none: there is no such folder"),
        (("build", "--images", "zoo", "--count", 0, "--out", "x.csv"), 2, "invalid number of images 0"),
        (("build", "--images", "zoo", "--count", 99, "--out", "x.csv"), 6, "23 usable images, but 99 are requested"),
        (("build", "--images", "zoo/cat", "--out", "x.csv"), 5, "no labels: "),
        (("build", "--images", "zoo", "--labels", "none.txt", "--out", "x.csv"), 5, "none.txt: cannot read the file"),
        (
            ("build", "--images", "zoo", "--unlabelled", "--names", "n.txt", "--out", "x.csv"),
            2,
            "--unlabelled: cannot be combined",
        ),
        (("build", "--labels", "n.txt", "--materialize", "d", "--out", "x.csv"), 5, "n.txt: cannot read the file"),
        (("build", "--images", "zoo", "--count", 3, "--out", "file/x.csv"), 12, "file: cannot create the folder"),
        (("check", "none.csv"), 6, "none.csv: cannot read the calibration set"),
        (("materialize", "none.csv", "flat"), 6, "none.csv: cannot read the calibration set"),
        (("rebuild", "none.csv", "--images", "zoo", "--out", "x.csv"), 6, "none.csv: cannot read the calibration set"),
    ],
)
def test_calib_set_bad_input_is_one_line_and_writes_nothing(
    run: Run, three_classes: Path, tmp_path: Path, arguments: tuple[object, ...], code: int, message: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    ended, out, err = run("calib-set", *arguments)
    assert (ended, out) == (code, "")
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "x.csv").exists()


def test_calib_set_check_of_damaged_set_names_faults(run: Run, three_classes: Path, tmp_path: Path) -> None:
    run("calib-set", "build", "--images", "zoo", "--count", 6, "--out", "zoo.csv")
    victim = Path(str(CalibrationSet.load(tmp_path / "zoo.csv").items[0].where))
    victim.unlink()
    code, out, err = run("calib-set", "check", "zoo.csv")
    assert code == 6
    assert f"faulty: {victim.parent.name}/{victim.name}: cannot read the image" in out
    assert "zoo.csv: 1 of 6 images are missing, changed or damaged; restore them" in err
    code, _, err = run("imagenet", "prepare", "zoo")
    assert (code, "give either --out DIR or --move" in err) == (2, True)


# Builds the same set in a child again and again; each child kills itself at its nth opening or renaming of a file.
KILLING = """
import os, signal, sys
from pathlib import Path
from quantkit.data.build_set import build_calibration_set
from quantkit.data.materialize import materialize

def run(point):
    changes = 0
    def count(event, arguments):
        nonlocal changes
        if event in ("open", "os.rename", "os.mkdir", "os.link"):
            changes += 1
            if changes == point:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    chosen = build_calibration_set(Path("zoo"), count=15, workers=2)
    chosen.save(Path("sets/zoo.csv"))
    materialize(chosen, Path("flat"), link=False)
    os._exit(0)

killed = 0
for point in [int(n) for n in sys.argv[1].split(",")]:
    child = os.fork()
    if child == 0:
        run(point)
    killed += os.waitpid(child, 0)[1] == signal.SIGKILL
    if Path("sets/zoo.csv").exists():
        from quantkit.data.calibration_set import CalibrationSet
        CalibrationSet.load(Path("sets/zoo.csv"))
print(killed)
"""


def test_calib_set_build_killed_and_repeated_gives_same_bits(three_classes: Path, tmp_path: Path) -> None:
    def build(*points: int) -> int:
        command = [sys.executable, "-c", KILLING, ",".join(map(str, points))]
        return int(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)

    assert build(0) == 0
    expected = {path: path.read_bytes() for path in written(tmp_path)}
    for path in expected:
        path.unlink()
    assert build(*range(1, 140, 4)) >= 15
    assert build(0) == 0
    assert {path: path.read_bytes() for path in written(tmp_path) if "quantkit-tmp" not in path.name} == expected
    assert not [path for path in (tmp_path / "flat").iterdir() if "quantkit-tmp" in path.name]


def written(folder: Path) -> list[Path]:
    return [
        Path(root) / name for part in ("sets", "flat") for root, _, names in os.walk(folder / part) for name in names
    ]


def test_calib_set_file_name_that_is_no_text_is_escaped(run: Run, tmp_path: Path, make_images) -> None:
    make_images(tmp_path / "images", "a.png", "b.png")
    (tmp_path / "images" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    common = ("calib-set", "build", "--images", "images", "--unlabelled", "--out", "set.csv")
    outputs = [run(*common, "--count", 2, "--seed", seed)[1] for seed in range(8)]
    assert any("caf\\udce9.png: the image file is empty" in out for out in outputs)
