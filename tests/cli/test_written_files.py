"""Every command ends with the files that it wrote and the next command, and names no file that it did not write."""

import importlib
import json
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from quantkit.cli.app import app
from quantkit.cli.commands import COMMAND_MODULES

Run = Callable[..., tuple[str, str]]
# A line for each command that can write files, in an order in which each finds what it needs.
WRITING = (
    "init --model other.onnx --images images",
    "init resnet18",
    "preset show digits --out digits.yaml",
    "preset from-hf preprocessor_config.json --out hf.yaml",
    "preset from-timm config.json --out timm.yaml",
    "plan eval tiny.onnx --images images --preset pipeline.yaml --json plan.json",
    "preprocess guess tiny.onnx --images images --preset pipeline.yaml --json guess.json --out guessed.yaml",
    "calib-set build --images images --count 16 --out calib.csv --materialize flat",
    "calib-set build --labels labels.txt --count 4 --out planned.csv",
    "calib-set rebuild planned.csv --images images --out rebuilt.csv",
    "calib-set materialize calib.csv laid-out",
    "calibrate --model tiny.onnx --set calib.csv --preset pipeline.yaml --run run",
    "calibrate --model tiny.onnx --images images --count 8 --preset card.yaml --run run-vacc --target vacc",
    "quantize --run run --method kl",
    "quantize --run run --method mse --out elsewhere/mse.onnx",
    "quantize --run run-vacc --target vacc --method mse",
    "sensitivity run --count 4 --json s.json --csv s.csv --html s.html",
    "tune run --images images --max-drop 50 --disable precision --disable rounding --json tuned.json",
    "eval fp32 --run run --images images --out fp32.npz --json fp32.json",
    "eval tiny.onnx --images images --preset pipeline.yaml --shard 1/2 --out half-1.npz",
    "eval tiny.onnx --images images --preset pipeline.yaml --shard 2/2 --out half-2.npz",
    "eval --merge half-1.npz half-2.npz --out whole.npz",
    "compare fp32 int8 --run run --images images --json c.json --csv c.csv --markdown c.md --html c.html",
    "compare tiny.onnx run/int8.onnx --images images --preset pipeline.yaml --json files.json",
    "compare fp32 int8 --run run --images images --fail-if 'agreement < 1' --junit gates.xml",
    "report run --images images --html all.html",
    "relink run --set calib.csv",
    "vamc write --run run-vacc --out written.yaml --vdsp written.json",
    "vamc convert written.yaml --to build --out converted.yaml",
    "vamc tensors calib.csv --model tiny.onnx --preset pipeline.yaml --out tensors",
    "vamc vdsp --preset vacc --out vdsp.json",
    "vamc advise --run run-vacc --images images --skips 0 --out advised.yaml --json advised.json",
    "vamp inputs --images images --out npz",
    "vamp eval --results card --datalist card.txt --labels truth.txt --out relay.txt",
    "stats merge run-a/statistics.safetensors run-b/statistics.safetensors --out merged.safetensors",
    "imagenet prepare flat-val --labels val_label.txt --out sorted",
)
READING = (
    "inspect tiny.onnx",
    "init",
    "init --schema",
    "preset show digits",
    "calib-set check calib.csv",
    "imagenet check sorted",
    "stats show run/statistics.safetensors",
    "stats diff run/statistics.safetensors run-a/statistics.safetensors",
    "vamc check written.yaml",
    "vamp command written.yaml",
)
# Commands that cannot be run here; their ends are tested where they can be.
ELSEWHERE = {
    "demo": "tests/demo",
    "export": "tests/export, where torch is",
    "preset from-torchvision": "tests/export, where torch is",
}
# What commands keep for themselves: caches, locks, the record of a run, and what these tests write.
OWN = ("cache", "user-cache", ".lock", "run.json", "events")


@pytest.fixture
def place(project: Path, command: Run) -> Path:
    """The project with what all the lines read that no line before them writes."""
    (project / "quantkit.yaml").unlink()
    resize = "- {op: resize, size: [8, 8], antialias: false}\n"
    (project / "card.yaml").write_text(f"ops:\n- op: decode\n{resize}- op: to_tensor\n")
    (project / "other.onnx").write_bytes((project / "tiny.onnx").read_bytes())
    size = {"size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_resize": True}
    (project / "preprocessor_config.json").write_text(json.dumps(size))
    cfg = {"input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 1.0}
    (project / "config.json").write_text(json.dumps({"pretrained_cfg": cfg}))
    images = sorted((project / "images").rglob("*.png"))
    truth = {str(image.relative_to(project / "images")): "abcd".index(image.parent.name) for image in images}
    (project / "labels.txt").write_text("".join(f"{name} {label}\n" for name, label in truth.items()))
    (project / "truth.txt").write_text("".join(f"{name} {label}\n" for name, label in truth.items()))
    (project / "card").mkdir()
    for number, label in enumerate(truth.values()):
        np.savez(project / f"card/{number:06d}.npz", output_0=np.eye(10, dtype=np.float32)[label])
    (project / "card.txt").write_text("".join(f"/npz/{Path(name).with_suffix('.npz')}\n" for name in truth))
    (project / "flat-val").mkdir()
    for number in (1, 2):
        Image.new("RGB", (16, 16)).save(project / f"flat-val/ILSVRC2012_val_{number:08d}.JPEG")
    (project / "val_label.txt").write_text("ILSVRC2012_val_00000001.JPEG 0\nILSVRC2012_val_00000002.JPEG 1\n")
    for seed in ("a", "b"):
        (project / f"part-{seed}").symlink_to(project / "images" / seed)
        flags = ("--preset", "pipeline.yaml", "--run", f"run-{seed}")
        command(
            "calib-set", "build", "--images", f"part-{seed}", "--unlabelled", "--count", "8", "--out", f"{seed}.csv"
        )
        command("calibrate", "--model", "tiny.onnx", "--set", f"{seed}.csv", *flags)
    return project


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the files of a folder with what changes when they are written."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if not {*path.relative_to(folder).parts}.intersection(OWN):
                status = path.lstat()
                found[path] = (status.st_ino, status.st_mtime_ns)
    return found


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the names of all commands."""
    if not hasattr(command, "commands"):
        yield " ".join(words)
    else:
        for name, one in command.commands.items():
            yield from leaves(one, (*words, name))


def name_of(line: str) -> str:
    words = line.split()
    return " ".join(words[: 2 if words[0] in GROUPS else 1])


def root() -> Any:
    for module in COMMAND_MODULES:
        importlib.import_module(module)
    return typer.main.get_command(app)


GROUPS = {name for name, command in root().commands.items() if hasattr(command, "commands")}


def parses(words: list[str]) -> bool:
    """Return whether words are a command with options that it has, and raise what is wrong with them otherwise."""
    command = root()
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    command.make_context("quantkit", words)
    return True


def test_written_files_cover_every_command() -> None:
    walked = {name_of(line) for line in (*WRITING, *READING)}
    assert walked.isdisjoint(ELSEWHERE)
    assert walked | set(ELSEWHERE) == set(leaves(root()))


def test_written_files_are_named_with_next_command(place: Path, command: Run) -> None:
    for line in WRITING:
        if line.startswith("init"):
            (place / "quantkit.yaml").unlink(missing_ok=True)
        before = files(place)
        (place / "events").unlink(missing_ok=True)
        out, _ = command(*shlex.split(line), "--json-events", "events")
        events = [json.loads(one) for one in (place / "events").read_text().splitlines()]
        after = files(place)
        changed = {path for path, status in after.items() if before.get(path) != status}
        wrote = {place / path for event in events if event["event"] == "wrote" for path in event["files"]}
        wrote |= {path.resolve() for path in wrote}
        unnamed = {path for path in changed if path not in wrote and not wrote.intersection(path.parents)}
        assert not unnamed, f"{line}: did not name {unnamed}"
        assert not {path for path in wrote if not path.exists()}, f"{line}: names files that are not there"
        following = [event["command"] for event in events if event["event"] == "next"]
        assert following, f"{line}: no next command"
        assert all(parses(shlex.split(one)[1:]) for one in following)
        assert out.rstrip().splitlines()[-1] == f"next: {following[-1]}", line
        assert "\nwrote " in f"\n{out}", line
        if line.startswith(("calibrate", "quantize", "tune", "relink")):
            assert {path for path in wrote if path.name == "run.json"}, f"{line}: the record is a result"
    for line in READING:
        before = files(place)
        command(*shlex.split(line))
        assert files(place) == before, f"{line} wrote something"


def test_next_command_of_a_run_is_one_that_was_not_done(place: Path, command: Run) -> None:
    def following(line: str) -> str:
        out, _ = command(*shlex.split(line), "--json-events", "new/folder/events.jsonl")
        return out.rstrip().splitlines()[-1].removeprefix("next: quantkit ")

    command(
        *[
            "calibrate",
            "--model",
            "tiny.onnx",
            "--images",
            "images",
            "--count",
            "8",
            "--preset",
            "pipeline.yaml",
            "--run",
            "run",
        ]
    )
    images = "--images images"
    assert following(f"compare fp32 int8 --run run {images}") == "sensitivity run"
    assert following("sensitivity run --count 4") == "tune run"
    assert following(f"compare fp32 int8 --run run {images}") == "tune run"
    tuned = f"tune run {images} --max-drop 50 --disable precision --disable rounding"
    assert following(tuned) == "compare fp32 int8-tuned --run run"
    assert following(f"compare fp32 int8-tuned --run run {images}") == "report run"
    assert following(f"report run {images}") == "compare fp32 int8-tuned --run run"
    assert following(f"eval fp32 --run run {images}") == "compare fp32 int8-tuned --run run"


@pytest.mark.parametrize("line", ["inspect tiny.onnx", "calib-set check a.csv"])
def test_json_events_have_the_results_of_reading_commands(line: str, place: Path, command: Run) -> None:
    command(*line.split(), "--json-events", "events", "--log-file", "logs/new/log.txt")
    events = [json.loads(one) for one in (place / "events").read_text().splitlines()]
    [result] = [event["result"] for event in events if event["event"] == "result"]
    assert result.get("images") == 8 or result["opsets"] == {"ai.onnx": 17}
    assert (place / "logs/new/log.txt").is_file()
