"""Every command that README and docs show: its options exist, and it runs, on the demo's digits and small networks."""

import importlib
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer

from quantkit.cli.app import app
from quantkit.cli.commands import COMMAND_MODULES
from quantkit.cli.main import main
from quantkit.demo.digits import MODEL, unpack_digits

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))}

# Pages whose commands are not run here, and why. Their options are checked all the same.
PARSED_ONLY = {
    "export.md": "needs torch; tests/export runs the commands of this page",
    "CONTRIBUTING.md": "shows make and pytest only",
    "benchmarks.md": "tests/test_benchmarks.py runs the benchmarks",
    "cluster.md": "needs Ray and archives; tests/workflows runs commands on workers, and plan",
    "sources.md": "needs archives, parquet files and buckets; tests/data opens each kind of source",
}
# Single commands that are not run, and why.
NOT_RUN = {
    "quantkit demo": "tests/test_readme.py and tests/demo run it; its files are unpacked here",
    "quantkit vamp eval": "needs results of a device; tests/vendors/vacc evaluates such files",
}
# What a reader has, made smaller: the stand-in for ImageNet has 100 images.
SMALLER = {
    "--count 1000": "--count 50",
    "--count 200": "--count 60",
    "--time 1m": "--time 2s",
    "sensitivity tutorial": "sensitivity tutorial --count 4",
}
# What the reader of a page has beside networks, images and a calibration set; nothing if not said.
HAS_PROJECT = {"README.md", "devices.md", "gates.md", "tuning.md"}
HAS_RUN = {"devices.md", "gates.md", "tuning.md"}
# A gate that so few images cannot prove ends with code 20.
GATED = {"gates.md": (0, 20)}

# A classifier of 3 x 224 x 224 images in ten classes.
TEXT = """
<ir_version: 8, opset_import: ["": 17]>
small (float[N, 3, 224, 224] input) => (float[N, 10] logits) {
    a = Conv <strides = [16, 16]> (input, w1, b1)
    r = Relu(a)
    b = Conv <strides = [2, 2]> (r, w2, b2)
    s = Relu(b)
    g = GlobalAveragePool(s)
    f = Flatten(g)
    logits = Gemm <transB = 1> (f, w3, b3)
}
"""
PROJECT = """\
model: resnet50.onnx
set: calib.csv
preset: imagenet
images: ImageNet/val
run: runs/resnet50
"""


def code_lines(text: str) -> Iterator[str]:
    """Yield the lines of code blocks, indented or fenced, with continued lines joined."""
    fenced, held = False, ""
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            held += line.strip()
            if held.endswith("\\"):
                held = held[:-1]
                continue
            yield held
            held = ""


def shown(page: Path, *programs: str) -> list[str]:
    """Return the command lines of programs that a page shows, without comments."""
    lines = (line.partition(" #")[0].strip() for line in code_lines(page.read_text()))
    return [line for line in lines if re.match(rf"(PYTHONPATH=\S+ )?({'|'.join(programs)}) ", line)]


COMMANDS = [(name, line) for name, page in PAGES.items() for line in shown(page, "quantkit")]
RUN = sorted({name for name, _ in COMMANDS} - PARSED_ONLY.keys())


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command, or group of commands, that words begin with, and the words after its name."""
    for module in COMMAND_MODULES:
        importlib.import_module(module)
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_docs_command_has_known_options(page: str, line: str) -> None:
    del page
    _, *words = (word for word in shlex.split(line) if not word.startswith("PYTHONPATH="))
    command, rest = find_command(words)
    assert not hasattr(command, "commands"), f"{line}: no such command"
    command.make_context("quantkit", rest)


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_docs_commands_within_sentences_exist_with_their_options(page: Path) -> None:
    for line in re.findall(r"`quantkit ([a-z][^`]*)`", page.read_text()):
        words = line.split()
        command, rest = find_command(words)
        assert len(rest) < len(words), f"{page.name}: there is no quantkit {line}"
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        assert {word for word in rest if word.startswith("--")} <= known, f"{page.name}: quantkit {line}"


def test_docs_pages_that_a_newcomer_reads_are_run() -> None:
    assert {"README.md", "tutorial.md", "own_network.md", "gates.md", "tuning.md", "vacc.md"} <= set(RUN)


def test_docs_make_targets_and_extras_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    text = "\n".join(page.read_text() for page in PAGES.values())
    makes = {word for page in PAGES.values() for line in shown(page, "make") for word in line.split()[1:2]}
    makes |= set(re.findall(r"`make ([a-z-]+)`", text))
    assert {"demo", "test", "docs", "dist"} <= makes
    assert makes - targets == set()
    named = {extra for group in re.findall(r"\.\[([a-z,]+)\]|quantkit\[([a-z,]+)\]", text) for extra in group if extra}
    assert named - extras == set()


def small_network(path: Path) -> None:
    """Write a classifier in place of the reader's."""
    model = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 16, 16), "b1": (8,), "w2": (16, 8, 2, 2), "b2": (16,), "w3": (10, 16), "b3": (10,)}
    for name, shape in shapes.items():
        values = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, path)


def typed(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command line in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.fixture(scope="module")
def readers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the reader of a page is told to have: networks, images, a set, a calibrated run."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("resnet50.onnx", "iresnet50.onnx"):
        small_network(folder / name)
    digits = unpack_digits(folder / "quantkit-demo" / "images")
    shutil.copy(ROOT / "quantkit" / "demo" / MODEL, folder / "quantkit-demo")
    for label in range(10):
        target = folder / "ImageNet" / "val" / str(label)
        target.mkdir(parents=True)
        for image in sorted((digits / "test" / str(label)).iterdir())[:10]:
            shutil.copy(image, target)
    (folder / "quantkit.yaml").write_text(PROJECT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert typed("quantkit calib-set build --images ImageNet/val --count 30 --out calib.csv", patch) == 0
        assert typed("quantkit calibrate", patch) == 0
    return folder


def write_files(page: Path, folder: Path) -> None:
    """Write the files that a page shows under a comment ``<!-- file: NAME -->``."""
    for name, text in re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", page.read_text(), re.DOTALL):
        (folder / name).write_text(text)


@pytest.mark.parametrize("name", RUN)
def test_docs_commands_run_in_order(
    name: str, readers_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(readers_folder, folder)
    if name not in HAS_RUN:
        shutil.rmtree(folder / "runs")
    if name not in HAS_PROJECT:
        (folder / "quantkit.yaml").unlink()
    if "calib-set build" in PAGES[name].read_text():
        (folder / "calib.csv").unlink()
    monkeypatch.chdir(folder)
    write_files(PAGES[name], folder)
    ran = 0
    for line in shown(PAGES[name], "quantkit", "cd"):
        if line.startswith("cd "):
            folder = folder / line.split()[1]
            monkeypatch.chdir(folder)
        elif not line.startswith(tuple(NOT_RUN)):
            for there, here in SMALLER.items():
                line = line.replace(there, here)
            code = typed(line, monkeypatch)
            assert code in GATED.get(name, (0,)), f"{line}\n{''.join(capsys.readouterr())}"
            ran += 1
    assert ran


def test_tutorial_python_example_runs_on_what_the_tutorial_made(readers_folder: Path, tmp_path: Path) -> None:
    [example] = re.findall(r"<!-- example -->\n```python\n(.*?)```", PAGES["tutorial.md"].read_text(), re.DOTALL)
    shutil.copytree(readers_folder / "quantkit-demo", tmp_path / "demo")
    (tmp_path / "demo" / "tutorial").mkdir()
    shutil.copy(ROOT / "quantkit" / "demo" / MODEL, tmp_path / "demo" / "tutorial" / "int8.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "demo")
        exec(compile(example, "tutorial.md", "exec"), {})
