"""Every bad input of the corpus, through the library's door and through a command."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_input.bad_item import BadInput
from bad_input.corpus import CORPUS
from bad_input.doors import DOORS, command_line, input_folder, prepare

from quantkit import errors
from quantkit.cli.main import main
from quantkit.errors import ModelError, QuantkitError
from quantkit.workflows.inspect import inspect

Run = Callable[..., tuple[object, str, str]]

# Read by the library, and met later: weights may be infinite where a mask is meant.
LATER = {"model: infinite_weight.onnx": (ModelError.exit_code, "contains NaN or infinity")}


def _name(item: BadInput) -> str:
    return f"{item.kind}: {item.name}"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    prepare(folder)
    return folder


@pytest.fixture
def place(sound: Path, tmp_path: Path) -> Path:
    """A folder of its own for every test, beside the sound files."""
    for path in sound.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Type a command line in a folder; exit code, output and errors come back."""

    def command(folder: Path, *arguments: str) -> tuple[object, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.delenv("QUANTKIT_DEBUG", raising=False)
        monkeypatch.setattr(sys, "argv", ["quantkit", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return end.value.code, said.out, said.err

    return command


@pytest.mark.parametrize("item", CORPUS, ids=_name)
def test_bad_input_to_library_raises_stated_error(item: BadInput, place: Path) -> None:
    path = item.write(input_folder(item.kind, place))
    if item.error is None:
        assert DOORS[item.kind](path) == item.result
        return
    with pytest.raises(item.error, match=item.result):
        DOORS[item.kind](path)


@pytest.mark.parametrize("item", CORPUS, ids=_name)
def test_bad_input_to_command_ends_in_one_line_and_exit_code(item: BadInput, place: Path, run: Run) -> None:
    path = item.write(input_folder(item.kind, place))
    folder = path.parent if item.kind == "project" else place
    before = sorted(found for found in place.rglob("*") if found.is_file())
    code, _, err = run(folder, "-q", *command_line(item.kind, path))
    wanted, says = LATER.get(_name(item), (item.error.exit_code if item.error else 0, item.result))
    assert code == wanted, err
    if code:
        [line] = [line for line in err.splitlines() if line.strip()]
        assert line.startswith("error: ")
        assert re.search(says, line)
    assert sorted(found for found in before if found.is_file()) == before
    assert not list(place.rglob("*.quantkit-tmp"))


@pytest.mark.parametrize(("number", "code"), [(28, 12), (30, 12), (5, 70)], ids=["full", "read-only", "broken"])
def test_command_disk_error_is_one_line_with_exit_code(
    number: int, code: int, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "the system's words")

    monkeypatch.setattr("quantkit.data.calibration_set.CalibrationSet.load", fail)
    ended, _, err = run(place, "calib-set", "check", "any.csv")
    assert (ended, err.count("\n")) == (code, 1)


def test_docs_list_every_exit_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "input.md").read_text()
    said = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| `(\w+)`", text, re.MULTILINE)}
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, QuantkitError)]
    assert said == {one.__name__: one.exit_code for one in classes if one is not QuantkitError}


def test_corpus_has_every_kind_under_distinct_names() -> None:
    assert {item.kind for item in CORPUS} == DOORS.keys()
    assert len({_name(item) for item in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize("item", [item for item in CORPUS if item.kind == "model"], ids=_name)
def test_inspect_describes_or_refuses_every_bad_model(item: BadInput, place: Path) -> None:
    path = item.write(input_folder(item.kind, place))
    try:
        summary = inspect(path)
    except QuantkitError as error:
        said = [str(error)]
    else:
        said = [str(problem) for problem in summary.errors]
    assert bool(said) == (item.error is not None)
    assert item.error is None or any(re.search(item.result, text) for text in said)
    assert not any("not_simulated" in text for text in said)
