"""Evaluation: right figures, each image asked about once ever, the same bits however it was interrupted or split."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_model, write_images
from PIL import Image
from progress_log import ProgressLog

from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.engine.predict import Classifier
from quantkit.errors import (
    ImageError,
    LabelError,
    ModelError,
    NumericError,
    OutputError,
    ProvenanceError,
    QuantkitError,
    StatisticsError,
    UsageError,
)
from quantkit.evaluation.label_diagnosis import diagnose_labels
from quantkit.evaluation.predictions import Predictions
from quantkit.evaluation.predictions_file import load_predictions, merge_predictions, save_predictions
from quantkit.runs.cache import CacheKey, ResultCache
from quantkit.runs.score_cache import ScoreCache
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.compare import compare
from quantkit.workflows.evaluate import ModelEvaluation, accuracy_of, evaluate, parse_shard

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))
ROW_BYTES = 16 + 3 * 4 + 4  # what names the image, three scores, CRC
KEY = CacheKey("scores", 1, {"model": "0" * 64, "pipeline": "1"})
IDS = [bytes([i + 1]) * 16 for i in range(6)]


class Place:
    """A folder with a model and 32 images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = tiny_model(folder / "tiny.onnx")
        self.images = write_images(folder / "images", per_class=8)
        self.cache = folder / "cache"

    def evaluate(self, **options: Any) -> ModelEvaluation:
        chosen = {"images": self.images, "pipeline": PIPELINE, "cache": self.cache, **options}
        return evaluate(self.model, **chosen)

    def saved(self, **options: Any) -> bytes:
        done = self.evaluate(**options)
        save_predictions(self.folder / "p.npz", done.predictions, done.origin)
        return (self.folder / "p.npz").read_bytes()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were asked about an image, one entry an image."""
    calls: list[str] = []
    scores = Classifier.scores

    def counted(self: Classifier, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        calls.append(self.path.stem)
        return scores(self, x)

    monkeypatch.setattr(Classifier, "scores", counted)
    return calls


def test_evaluate_figures_equal_plain_loop(place: Place) -> None:
    session = ort.InferenceSession(place.model, providers=["CPUExecutionProvider"])
    logits, labels, names = [], [], []
    for label, folder in enumerate("abcd"):
        for path in sorted((place.images / folder).iterdir()):
            x = np.asarray(Image.open(path).convert("RGB"), np.float32).transpose(2, 0, 1)[None] / 255
            logits.append(session.run(None, {"input": x})[0][0])
            labels.append(label)
            names.append(f"{folder}/{path.name}")
    order = np.argsort(-np.array(logits), axis=1, kind="stable")
    done = place.evaluate()
    assert done.predictions.names == tuple(names)
    assert (done.predictions.top == order[:, :5]).all()
    accuracy = accuracy_of(done.predictions)
    assert accuracy.top1 == pytest.approx(100 * float((order[:, 0] == labels).mean()))
    assert accuracy.top5 == 100.0
    assert accuracy.top1_ci95.lo < accuracy.top1 < accuracy.top1_ci95.hi
    assert accuracy.images == 32


def test_evaluate_repeated_runs_nothing_and_gives_same_bits(place: Place, asked: list[str]) -> None:
    first = place.saved(threads=1)
    assert len(asked) == 32
    assert place.saved(threads=2) == first
    assert len(asked) == 32
    assert place.saved(threads=2, cache=place.folder / "elsewhere") == first
    assert len(asked) == 64


def test_evaluate_changed_dependency_runs_anew(place: Place, asked: list[str]) -> None:
    place.evaluate()
    place.evaluate(pipeline=Pipeline(ops=(Decode(), ToTensor(divisor=128))))
    assert len(asked) == 64
    path = next(place.images.rglob("*.png"))
    os.utime(path, ns=(1, 1))
    place.evaluate()
    assert len(asked) == 65  # the one image
    tiny_model(place.model, seed=4)
    place.evaluate()
    assert len(asked) == 97


def test_evaluate_part_of_images_shares_cached_scores(place: Place, asked: list[str]) -> None:
    whole = place.saved(cache=place.folder / "whole")
    asked.clear()
    assert place.evaluate(shard=(2, 4)).kept == 0
    assert place.evaluate(limit=8).kept == 0
    assert len(asked) == 16
    assert place.saved() == whole
    assert len(asked) == 32
    assert place.evaluate(limit=10).kept == 10


def test_evaluate_and_compare_share_cached_scores(place: Place, asked: list[str]) -> None:
    chosen = build_calibration_set(place.images, count=8)
    chosen.save(place.folder / "set.csv")
    run = calibrate(place.model, place.folder / "set.csv", PIPELINE, run=place.folder / "run").run
    apart = compare(["fp32", "int8"], run=run, images=place.images, drift_images=0).to_json()
    assert sorted(asked) == ["int8"] * 32 + ["tiny"] * 32
    again = compare(["fp32", "int8"], run=run, images=place.images, drift_images=0).to_json()
    done = evaluate("int8", run=run, images=place.images, cache=run / "cache")
    assert len(asked) == 64
    assert again == apart
    assert done.kept == 32
    assert accuracy_of(done.predictions).top1 == pytest.approx(apart["models"][1]["top1"])
    assert any("8 of 32 images are in the calibration set too" in warning for warning in done.warnings)
    few = evaluate("int8", run=run, images=place.images, limit=10, cache=run / "cache")
    shared = set(few.predictions.names) & {image.name for image in chosen.images}
    assert any(f"{len(shared)} of 10 images are in the calibration set too" in warning for warning in few.warnings)
    # As files, without a run, scores are cached for the user; the figures are the same, KL divergence to the last bit.
    for _ in range(2):
        models = [place.model, run / "int8.onnx"]
        files = compare(models, images=place.images, pipeline=PIPELINE, drift_images=0).to_json()
        assert len(asked) == 128
        assert files["models"][1]["kl"] == apart["models"][1]["kl"]


def test_evaluate_scores_from_before_run_are_used_by_run(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    (place.folder / "pipeline.yaml").write_text("ops:\n- op: decode\n- op: to_tensor\n")
    run = _command(place.folder, monkeypatch, capsys)
    first = run("eval", "tiny.onnx", "--images", "images", "--preset", "pipeline.yaml", "--limit", "20")[0]
    assert "20 images in" in first
    run("calibrate", "--model", "tiny.onnx", "--images", "images", "--count", "8", "--preset", "pipeline.yaml")
    asked.clear()
    out = run("eval", "fp32", "--run", "runs/tiny", "--images", "images")[0]
    assert "12 images in" in out
    assert "(20 were cached)" in out
    assert asked == ["tiny"] * 12
    # The run has its own copy, which moves with it.
    for path in (place.folder / "user-cache").rglob("*.scores"):
        path.unlink()
    assert "all scores were cached" in run("eval", "fp32", "--run", "runs/tiny", "--images", "images")[0]


def test_compare_files_without_writable_user_cache_works(
    place: Place, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    (place.folder / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.folder / "file"))
    copy = place.folder / "copy.onnx"
    copy.write_bytes(place.model.read_bytes())
    result = compare([place.model, copy], images=place.images, pipeline=PIPELINE, drift_images=0)
    assert result.candidates[0].to_json()["agreement"] == 100.0
    assert len(asked) == 64


def test_compare_model_with_its_copy_in_run_shares_scores(place: Place) -> None:
    run = calibrate(place.model, build_calibration_set(place.images, count=8), PIPELINE, run=place.folder / "run").run
    copy = place.folder / "copy.onnx"
    copy.write_bytes(place.model.read_bytes())
    result = compare(["fp32", copy], run=run, images=place.images, drift_images=0).candidates[0].to_json()
    assert (result["agreement"], result["kl"]) == (100.0, 0.0)
    assert len(list((run / "cache").rglob("*.scores"))) == 1


def test_evaluate_interrupted_runs_remaining_images_only(place: Place, asked: list[str]) -> None:
    whole = place.saved(cache=place.folder / "whole", threads=1)

    def interrupt(name: str, done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.evaluate(threads=1, progress=ProgressLog(interrupt))
    end_image_threads()
    assert _kept(place.cache) == 20
    asked.clear()
    assert place.saved(threads=1) == whole
    assert len(asked) == 12


def end_image_threads() -> None:
    """Wait for threads that an interrupted command left with the images they had begun."""
    for thread in threading.enumerate():
        if thread.name.startswith("quantkit-image"):
            thread.join()


def test_evaluate_killed_loses_next_to_nothing(place: Place) -> None:
    images = write_images(place.folder / "many", per_class=150)
    (place.folder / "pipeline.yaml").write_text("ops:\n- op: decode\n- op: to_tensor\n")
    command = [sys.executable, "-m", "quantkit.cli.main", "eval", str(place.model), "--images", str(images)]
    command += ["--preset", "pipeline.yaml", "--threads", "1"]
    whole = place.saved(images=images)
    out, cache = place.folder / "killed.npz", Path(os.environ["XDG_CACHE_HOME"])
    known = 0
    for more in (1, 60, 150):
        process = subprocess.Popen(
            [*command, "--out", out.name], cwd=place.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Killed as soon as it has come so far, at whatever it is doing then.
        while process.poll() is None and _kept(cache) < known + more:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists() or out.read_bytes() == whole
        assert _kept(cache) >= known
        known = _kept(cache)
    subprocess.run([*command, "--out", out.name], cwd=place.folder, check=True, capture_output=True)
    assert out.read_bytes() == whole
    assert not list(place.folder.glob(".*quantkit-tmp"))


def _kept(folder: Path) -> int:
    """How many answers of four classes the largest file holds, as its size tells."""
    sizes = [path.stat().st_size for path in folder.rglob("*.scores")] if folder.is_dir() else []
    return max(0, (max(sizes, default=0) - 1024) // (16 + 4 * 4 + 4))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_score_cache_damaged_file_is_good_up_to_damage(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    scores = np.random.default_rng(0).standard_normal((6, 1, 3)).astype(np.float32)
    with ScoreCache(ResultCache(folder), KEY, IDS) as kept:
        for index, row in enumerate(scores):
            kept.add(index, row)
    content = bytearray(kept.path.read_bytes())
    assert len(content) == 1024 + 6 * ROW_BYTES
    place = data.draw(st.integers(0, len(content) - 1), "place")
    how = data.draw(st.sampled_from(["cut", "flip", "zeros"]), "how")
    if how == "cut":
        del content[place:]
    elif how == "flip":
        content[place] ^= 1 << data.draw(st.integers(0, 7), "bit")
    else:
        content[place:] = bytes(len(content) - place)
    kept.path.write_bytes(content)
    whole_rows = (place - 1024) // ROW_BYTES if place >= 1024 else 0
    with ScoreCache(ResultCache(folder), KEY, IDS) as again:
        assert again.known >= whole_rows
        for index in range(6):
            if again.knows(index):
                assert (again.scores(index) == scores[index]).all()
            else:
                again.add(index, scores[index])
    with ScoreCache(ResultCache(folder), KEY, IDS[::-1]) as last:  # in any order
        assert [last.scores(5 - index).tobytes() for index in range(6)] == [row.tobytes() for row in scores]


def test_score_cache_growing_file_belongs_to_one_process(tmp_path: Path) -> None:
    row = np.zeros((1, 3), np.float32)
    with ScoreCache(ResultCache(tmp_path), KEY, IDS[:2]) as first:
        with pytest.raises(UsageError, match="another quantkit process is running this model; wait for it"):
            ScoreCache(ResultCache(tmp_path), KEY, IDS[:2])
        first.add(0, row)
        first.add(1, row)
    one, other = (ScoreCache(ResultCache(tmp_path), KEY, IDS[start:2]) for start in (0, 1))
    with one, other:  # any number of processes read
        assert (one.known, other.known) == (2, 1)
        with ScoreCache(ResultCache(tmp_path), KEY, IDS[:3]) as growing:
            growing.add(2, row + 1)
        assert (one.scores(1) == row).all()


def test_score_cache_other_number_of_classes_is_refused(tmp_path: Path) -> None:
    with ScoreCache(ResultCache(tmp_path), KEY, IDS) as kept:
        kept.add(0, np.zeros((1, 3), np.float32))
        with pytest.raises(ModelError, match="returned 3 scores for some images and 4 for others"):
            kept.add(1, np.zeros((1, 4), np.float32))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_evaluate_shards_merge_to_bits_of_one_evaluation(place: Place, count: int) -> None:
    whole = place.saved()
    paths = []
    for i in range(count, 0, -1):
        place.saved(shard=(i, count))
        paths.append((place.folder / "p.npz").rename(place.folder / f"part{i}.npz"))
    merged = merge_predictions(paths)
    save_predictions(place.folder / "merged.npz", *merged)
    assert (place.folder / "merged.npz").read_bytes() == whole
    some, origin = merge_predictions(paths[:2])
    assert origin.shards == (() if count == 2 else ((count - 1, count), (count, count)))
    assert len(some) < 32 or count == 2


def test_merge_predictions_unlike_parts_are_refused(place: Place) -> None:
    def part(name: str, **options: Any) -> Path:
        place.saved(**options)
        return (place.folder / "p.npz").rename(place.folder / name)

    whole, one, two = part("whole"), part("one", shard=(1, 2)), part("two", shard=(2, 2))
    third = part("third", shard=(1, 3))
    fewer = part("fewer", shard=(2, 2), limit=16)
    scaled = part("scaled", shard=(2, 2), pipeline=Pipeline(ops=(Decode(), ToTensor(divisor=100))))
    tiny_model(place.model, seed=8)
    other = part("other", shard=(2, 2))
    cases: list[tuple[list[Path], type[QuantkitError], str]] = [
        ([one], UsageError, "at least two files"),
        ([one, whole], ProvenanceError, "whole: it has predictions for all images"),
        ([one, one], ProvenanceError, "one: shard 1/2 is in .*one too"),
        ([one, third], ProvenanceError, "third: it is one of 3 shards and the first file one of 2"),
        ([one, fewer], ProvenanceError, "fewer: it has other images"),
        ([one, scaled], ProvenanceError, "scaled: it has another preprocessing"),
        ([one, other], ProvenanceError, "other: it has another model"),
        ([one, place.folder / "gone"], StatisticsError, "gone: cannot be read"),
        ([one, place.model], StatisticsError, "is not a prediction file, or is damaged"),
    ]
    for paths, error, message in cases:
        with pytest.raises(error, match=message):
            merge_predictions(paths)
    assert merge_predictions([two, one])[1].shards == ()


@pytest.mark.parametrize("size", [0, 1, 100, 700, -1, -30])
def test_predictions_file_damaged_is_refused(place: Place, size: int) -> None:
    path = place.folder / "cut.npz"
    path.write_bytes(place.saved()[:size])
    with pytest.raises(StatisticsError, match=r"cut.npz: is not a prediction file, or is damaged; run quantkit eval"):
        load_predictions(path)


def test_predictions_file_holds_plain_arrays(place: Place) -> None:
    place.saved()
    loaded, origin = load_predictions(place.folder / "p.npz")
    with np.load(place.folder / "p.npz", allow_pickle=False) as file:
        assert (file["top"][:, 0] == loaded.top1).all()
        assert file["names"].tolist() == list(loaded.names)
        assert json.loads(str(file["origin"]))["model"] == origin.model
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [label for label in range(4) for _ in range(8)]


def _predictions(top1: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], classes: int) -> Predictions:
    scores = np.zeros((len(top1), classes), np.float32)
    scores[np.arange(len(top1)), top1] = 5.0
    return Predictions.from_scores(scores, [str(i) for i in range(len(top1))], labels)


def test_evaluate_doubtful_predictions_are_warned_of() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 999, 500)
    assert diagnose_labels(_predictions(truth, truth, 1000)) is None
    shifted = diagnose_labels(_predictions(truth, truth + 1, 1000))
    assert shifted is not None
    assert shifted.startswith("the labels seem to count from 1 where the model counts from 0: top-1 is 0.0 % as given")
    guessing = diagnose_labels(_predictions(rng.integers(0, 1000, 500), truth, 1000))
    assert guessing is not None
    assert guessing.startswith("top-1 is not better than guessing (0.1 %)")


@pytest.mark.parametrize("quantized", [False, True])
def test_evaluate_softmax_at_end_is_detected_even_in_integers(place: Place, quantized: bool) -> None:
    model = onnx.load(place.model)
    ends = "probabilities" if not quantized else "soft"
    del model.graph.output[:]
    model.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], [ends]))
    if quantized:
        for name, value in (("scale", np.float32(1 / 8)), ("zero", np.uint8(0))):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
        model.graph.node.append(onnx.helper.make_node("QuantizeLinear", ["soft", "scale", "zero"], ["q"]))
        model.graph.node.append(onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["probabilities"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["N", 4]))
    onnx.save(model, place.model)
    done = place.evaluate()
    assert done.origin.scores == "probabilities"
    assert (done.predictions.confidence > 1 / 4 - 1e-6).all()


def test_evaluate_bad_input_is_refused_before_work(place: Place) -> None:
    five = write_images(place.folder / "five", classes="abcde", per_class=1)
    with pytest.raises(
        LabelError, match=r"tiny.onnx: the labels go up to 4, and .* 4 classes; the labels are those of"
    ):
        place.evaluate(images=five)
    with pytest.raises(UsageError, match="'int8' is not an ONNX file, and no run was given"):
        evaluate("int8", images=place.images, pipeline=PIPELINE, cache=place.cache)
    with pytest.raises(UsageError, match="no preprocessing was given; give --preset"):
        place.evaluate(pipeline=None)
    with pytest.raises(UsageError, match="there are 32 images for 33 shards; use fewer"):
        place.evaluate(shard=(1, 33))
    for text in ("0/2", "3/2", "1", "a/b", "1/2/3", ""):
        with pytest.raises(UsageError, match="write the second of four as 2/4"):
            parse_shard(text)
    assert parse_shard("2/4") == (2, 4)
    place.cache.write_text("")
    with pytest.raises(OutputError, match="cannot create the folder"):
        place.evaluate()


def test_evaluate_undecodable_image_stops_and_loses_nothing(place: Place) -> None:
    path = place.images / "c" / "005.png"
    good = path.read_bytes()
    path.write_bytes(good[:40])
    with pytest.raises(ImageError, match=r"c/005.png"):
        place.evaluate(threads=1)
    assert path.exists()
    path.write_bytes(good)
    assert place.evaluate(threads=1).kept == 21  # all before it


def test_evaluate_non_finite_scores_are_named(place: Place) -> None:
    model = onnx.load(place.model)
    bias = next(one for one in model.graph.initializer if one.name == "b3")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([np.inf, 0, 0, 0], np.float32), "b3"))
    onnx.save(model, place.model)
    for _ in range(2):  # kept or not
        with pytest.raises(NumericError, match=r"a/000.png: the model's output contains NaN or infinity"):
            place.evaluate()


def test_eval_command_prints_and_writes_results(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place.folder / "pipeline.yaml").write_text("ops:\n- op: decode\n- op: to_tensor\n")
    run = _command(place.folder, monkeypatch, capsys)
    options = ["--images", "images", "--preset", "pipeline.yaml"]
    out, _ = run("eval", "tiny.onnx", *options, "--out", "p.npz", "--json", "a.json")
    assert out.startswith("32 images in ")
    assert "over 32 images; intervals of 95 %" in out
    assert "all scores were cached, nothing was run" in run("eval", "tiny.onnx", *options, "--out", "p.npz")[0]
    assert json.loads((place.folder / "a.json").read_text())["images"] == 32
    for i in (1, 2):
        run("eval", "tiny.onnx", *options, "--shard", f"{i}/2", "--out", f"{i}.npz")
    run("eval", "--merge", "2.npz", "1.npz", "--out", "both.npz")
    assert (place.folder / "both.npz").read_bytes() == (place.folder / "p.npz").read_bytes()
    for arguments, code, message in (
        (["eval", "tiny.onnx", "--images", "images"], 2, "no preprocessing was given"),
        (["eval", "int8", "--images", "images"], 2, "there is no run here"),
        (["eval", "tiny.onnx", "int8", *options], 2, "2 models were given"),
        (["eval", "gone.onnx", *options], 7, "gone.onnx: there is no such model file"),
        (["eval", "tiny.onnx", "--preset", "pipeline.yaml"], 2, "no evaluation images were given"),
        (["eval", "--merge", "1.npz", "2.npz"], 2, "give --out"),
        (["eval", "--merge", "1.npz", "1.npz", "--out", "x"], 9, "shard 1/2 is in 1.npz too"),
    ):
        _, err = run(*arguments, code=code)
        [line] = err.strip().splitlines()
        assert line.startswith("error: ")
        assert message in line


def test_eval_command_caches_scores_where_compare_looks(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    (place.folder / "pipeline.yaml").write_text("ops:\n- op: decode\n- op: to_tensor\n")
    run = _command(place.folder, monkeypatch, capsys)
    run("eval", "tiny.onnx", "--images", "images", "--preset", "pipeline.yaml")
    run("calibrate", "--model", "tiny.onnx", "--images", "images", "--count", "8", "--preset", "pipeline.yaml")
    run("eval", "tiny.onnx", "--images", "images", "--preset", "pipeline.yaml")
    asked.clear()
    run("compare", "fp32", "int8", "--images", "images", "--drift-images", "0")
    assert asked == ["int8"] * 32


def test_eval_without_a_run_caches_scores_in_the_user_cache_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.folder / "home"))
    (place.folder / "pipeline.yaml").write_text("ops:\n- op: decode\n- op: to_tensor\n")
    (place.folder / "quantkit.yaml").write_text("model: tiny.onnx\npreset: pipeline.yaml\nrun: mine\nimages: images\n")
    before = {path.name for path in place.folder.iterdir()}
    run = _command(place.folder, monkeypatch, capsys)
    run("eval", "tiny.onnx", "--out", "elsewhere/p.npz")
    assert {path.name for path in place.folder.iterdir()} - before == {"elsewhere", "home"}
    assert [path.name for path in (place.folder / "elsewhere").iterdir()] == ["p.npz"]
    assert len(list((place.folder / "home/quantkit").rglob("*.scores"))) == 1
    assert "all scores were cached" in run("eval", "tiny.onnx")[0]


def _command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, str]]:
    from quantkit.cli.main import main

    monkeypatch.chdir(folder)
    monkeypatch.delenv("QUANTKIT_DEBUG", raising=False)

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["quantkit", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert end.value.code == code, said.err + said.out
        return said.out, said.err

    return run
