"""``quantkit sensitivity`` as typed: what it prints and writes, and how it refuses."""

import json
import shlex
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def folder(calibrated: Path) -> Path:
    return calibrated


class _Bars(HTMLParser):
    """Counts the rows and bars of a page, and what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = self.bars = 0
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.rows += tag == "tr"
        self.bars += tag == "rect"
        if tag in ("img", "link") or any(
            name in ("src", "href") and not (value or "").startswith("#") for name, value in attrs
        ):
            self.loads.append(tag)


def test_sensitivity_table_fits_screen_and_files_hold_all(folder: Path, command: Run) -> None:
    out, _ = command("sensitivity", "--top", "1", "--json", "s.json", "--csv", "s.csv", "--html", "s.html")
    title, *table = out.splitlines()[:5]
    assert title.strip() == "tiny: layers isolated and left out, 1 of 3 layers"
    assert max(map(len, table)) <= 80
    assert "full int8 model (ort, percentile): SQNR of the scores" in out
    assert "the isolated noises of the 3 layers add up to" in out
    found = json.loads((folder / "s.json").read_text())
    assert table[-1].split()[0] == found["layers"][0]["layer"]
    assert {layer["layer"] for layer in found["layers"]} == {"conv:0", "conv:1", "logits"}
    assert len((folder / "s.csv").read_text().splitlines()) == 4
    page = _Bars()
    page.feed((folder / "s.html").read_text())
    assert (page.rows, page.bars, page.loads) == (2 + 3, 2 * 3, [])


def test_sensitivity_all_spellings_of_run_are_equal(folder: Path, command: Run) -> None:
    outs = {command("sensitivity", *words)[0] for words in ([], ["runs/tiny"], ["tiny.onnx"], ["--run", "runs/tiny"])}
    assert len(outs) == 1


def test_sensitivity_options_of_quantize_are_taken(folder: Path, command: Run) -> None:
    out, _ = command("sensitivity", "--target", "vacc", "--method", "kl", "--per-tensor", "--skip", "conv:0")
    assert "full int8 model (vacc, kl)" in out
    assert "conv:0" not in out


def test_sensitivity_accuracy_has_interval(folder: Path, command: Run) -> None:
    out, _ = command("sensitivity", "--by", "accuracy", "--images", "images", "--html", "s.html")
    assert max(map(len, out.splitlines()[:7])) <= 80
    assert "points, agreement" in out
    assert "Δ top-1" in (folder / "s.html").read_text()


def test_sensitivity_names_of_nodes_are_not_markup(folder: Path, command: Run) -> None:
    import onnx

    model = onnx.load(folder / "tiny.onnx")
    model.graph.node[0].name = "<b>[red]conv"
    onnx.save(model, folder / "tiny.onnx")
    command("calibrate", "--fresh")
    out, _ = command("sensitivity", "--html", "s.html")
    assert "<b>[red]conv" in out
    assert "&lt;b&gt;[red]conv" in (folder / "s.html").read_text()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["runs/other"], 2, "runs/other: this is not a run folder; run quantkit calibrate first"),
        (["other.onnx"], 2, "runs/other: this is not a run folder; run quantkit calibrate first"),
        (["runs/tiny", "--run", "runs/tiny"], 2, "--run: a run was given twice; give it once"),
        (["--by", "cost"], 2, "--by: 'cost' is not one of isolated, leave-one-out, accuracy"),
        (["--images", "images"], 2, "--images: labelled images need the order by accuracy; add --by accuracy"),
        (["--by", "accuracy", "--images", "nowhere"], 6, "nowhere"),
        (["--skip", "conv:7"], 2, "there is no conv 7"),
        (["--skip", "*"], 7, "no operator is left to quantize"),
        (["--count", "0"], 2, "greater than or equal to 1"),
        (["--target", "tpu"], 2, "'tpu' is not one of ort"),
    ],
)
def test_sensitivity_impossible_request_is_one_line(
    folder: Path, command: Run, words: list[str], code: int, said: str
) -> None:
    _, err = command("sensitivity", *words, code=code)
    assert said in " ".join(err.split())
    assert len(err.strip().splitlines()) == 1


def test_sensitivity_missing_images_are_named(folder: Path, command: Run) -> None:
    for path in (folder / "images").rglob("*.png"):
        path.unlink()
    _, err = command("sensitivity", code=6)
    assert "the calibration image is missing; restore it, or use --by accuracy with other images" in err


def test_sensitivity_decision_commands_run_as_printed(
    folder: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantkit.workflows.sensitivity_decision.MAX_MACS", 1.0)
    monkeypatch.setattr("quantkit.workflows.sensitivity_decision.WORTH_DB", 0.1)
    out, _ = command("sensitivity", "--no-bias-correction", "--json", "out.json")
    decision = json.loads((folder / "out.json").read_text())["decision"]
    assert decision["skip"]
    assert f"leave {decision['skip'][0]} in float: +{decision['gains_db'][0]:.1f} dB, " in out
    lines = [line.removeprefix("next: ") for line in out.splitlines() if line.startswith("next: quantkit ")]
    assert [line.split()[1] for line in lines] == ["quantize", "compare"]
    for line in lines:
        command(*shlex.split(line)[1:])
    assert (folder / "runs/tiny/int8-mixed.onnx").is_file()
