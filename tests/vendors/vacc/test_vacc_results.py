"""The card's answers: paired with the datalist, judged, and in the vendor's text form."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from vacc_files import BUILD, COMPILE

from quantkit.data.classes import imagenet_classes
from quantkit.errors import LabelError, VendorFileError
from quantkit.vendors.vacc.command import VampRun, compiled_model, picture_size
from quantkit.vendors.vacc.convert import read_spec
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.evaluate import evaluate, is_relay_text, read_rates, read_relay_text
from quantkit.vendors.vacc.results import pair_outputs, read_classes, read_scores, true_labels

NAMES = ("cat", "dog", "emu", "fox", "gnu", "hen")


class ModelScores(NamedTuple):
    """Scores ``[N, classes]``, true classes and names of a run, in the order of its datalist."""

    scores: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


def read_answers(results: Path, datalist: Path, labels: Path) -> ModelScores:
    """Pair and read everything."""
    outputs = pair_outputs(results, datalist)
    classes = read_classes(labels, outputs)
    truth = true_labels(outputs, classes)
    count = None if classes.names is None else len(classes.names)
    scores = np.stack([read_scores(output, count) for output in outputs])
    return ModelScores(scores, truth, tuple(output.name for output in outputs))


class Device:
    """A folder of answers that are known, with its datalist and class names.

    Image ``i`` is of class ``i % 6``; its true class has rank ``i % 7`` (rank 6 is the last of six).
    """

    def __init__(self, folder: Path, images: int = 14, name: str = "output_{:06d}") -> None:
        self.results, self.datalist, self.labels = folder / "out", folder / "list.txt", folder / "names.txt"
        self.results.mkdir()
        self.lines = [f"/data/npz/{NAMES[i % 6]}/img{i}.npz" for i in range(images)]
        self.datalist.write_text("\n".join(self.lines) + "\n")
        self.labels.write_text("\n".join(NAMES) + "\n")
        self.scores = np.stack([self._scores(i) for i in range(images)])
        self.files = [self.results / (name.format(i) + ".npz") for i in range(images)]
        for path, scores in zip(self.files, self.scores, strict=True):
            np.savez(path, output_0=scores[None])

    @staticmethod
    def _scores(image: int) -> np.ndarray:
        order = [c for c in range(6) if c != image % 6]
        order.insert(min(image % 7, 5), image % 6)
        scores = np.empty(6, np.float32)
        scores[order] = np.arange(6, 0, -1) + image / 100
        return scores

    def read(self) -> ModelScores:
        """Pair and read everything."""
        return read_answers(self.results, self.datalist, self.labels)


@pytest.mark.parametrize("name", ["output_{:06d}", "output_{}", "{:03d}", "img{}", "result-{:04d}"])
def test_pair_outputs_reads_results_in_order(tmp_path: Path, name: str) -> None:
    """Unpadded numbers count as numbers: the tenth answer is not the second."""
    card = Device(tmp_path, name=name)
    results = card.read()
    np.testing.assert_array_equal(results.scores, card.scores)
    np.testing.assert_array_equal(results.labels, np.arange(14) % 6)
    assert results.names[:2] == ("cat/img0", "dog/img1")
    assert results.scores.dtype == np.float32


def test_pair_outputs_other_names_pair_in_order(tmp_path: Path) -> None:
    card = Device(tmp_path, images=3)
    for path, name in zip(card.files, ("alpha", "beta", "gamma"), strict=True):
        path.rename(card.results / f"{name}.npz")
    np.testing.assert_array_equal(card.read().scores, card.scores)


def test_pair_outputs_missing_results_are_named(tmp_path: Path) -> None:
    card = Device(tmp_path)
    card.files[3].unlink()
    with pytest.raises(VendorFileError, match=r"13 results for 14 lines; missing: number 3 \(.*/img3.npz\)"):
        card.read()
    for index, path in enumerate(card.files):
        if path.exists():
            path.rename(card.results / f"img{index}.npz")
    with pytest.raises(VendorFileError, match=r"13 results for 14 lines; missing: /data/npz/fox/img3.npz"):
        card.read()


def test_pair_outputs_too_many_results_are_refused(tmp_path: Path) -> None:
    card = Device(tmp_path)
    card.datalist.write_text("\n".join(card.lines[:10]))
    with pytest.raises(VendorFileError, match="there are 14 results for the 10 lines"):
        card.read()


def test_pair_outputs_missing_folder_or_list_is_refused(tmp_path: Path) -> None:
    card = Device(tmp_path)
    with pytest.raises(VendorFileError, match="cannot list the results"):
        pair_outputs(tmp_path / "gone", card.datalist)
    with pytest.raises(VendorFileError, match=r"there are no \.npz results"):
        pair_outputs(tmp_path, card.datalist)
    with pytest.raises(VendorFileError, match="cannot read the file"):
        pair_outputs(card.results, tmp_path / "gone.txt")
    card.datalist.write_text("\n\n")
    with pytest.raises(VendorFileError, match="the datalist is empty"):
        pair_outputs(card.results, card.datalist)
    card.datalist.write_text("/a/b.npz\n/a/b.npz\n")
    with pytest.raises(VendorFileError, match=r"/a/b.npz occurs more than once"):
        pair_outputs(card.results, card.datalist)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((1, 7), np.float32), "there are 7 scores and 6 class names"),
        (np.zeros((2, 6), np.float32), r"`output_0` is float32 \[2, 6\], not scores"),
        (np.full((1, 6), np.nan, np.float32), "the scores contain NaN or infinity"),
        (np.array(["a"] * 6), "not scores"),
    ],
)
def test_evaluate_results_that_are_no_scores_are_refused(tmp_path: Path, scores: np.ndarray, message: str) -> None:
    card = Device(tmp_path)
    np.savez(card.files[4], output_0=scores)
    with pytest.raises(VendorFileError, match=rf"output_000004.npz: .*{message}"):
        card.read()


def test_evaluate_results_half_precision_and_extra_dimensions_are_scores(tmp_path: Path) -> None:
    card = Device(tmp_path)
    np.savez(card.files[0], output_0=card.scores[0].astype(np.float16).reshape(1, 6, 1, 1))
    np.testing.assert_array_equal(card.read().scores[0], card.scores[0].astype(np.float16))


def test_evaluate_results_accuracy_equals_hand_count(tmp_path: Path) -> None:
    """Ranks 0 1 2 3 4 5 5 twice over 14 images: 2 are first, 10 among the first five."""
    card = Device(tmp_path)
    outputs = pair_outputs(card.results, card.datalist)
    seen: list[tuple[int, int]] = []
    accuracy = evaluate(
        outputs, read_classes(card.labels, outputs), tmp_path / "r.txt", progress=lambda *at: seen.append(at)
    )
    assert (accuracy.images, accuracy.top1, accuracy.top5) == (14, 2, 10)
    assert accuracy.line() == "[VACC]:  top1_rate: 14.286 top5_rate: 71.429"
    assert seen[-1] == (14, 14)
    text = (tmp_path / "r.txt").read_text()
    assert text.splitlines()[:2] == [
        "/data/npz/cat/img0.npz: Relay top-0 id: 0, prob: 6.00000000, class name: cat",
        "/data/npz/cat/img0.npz: Relay top-1 id: 1, prob: 5.00000000, class name: dog",
    ]
    assert len(text.splitlines()) == 14 * 5
    again = read_relay_text(tmp_path / "r.txt", card.labels)
    assert (again.images, again.top1, again.top5) == (14, 2, 10)


def test_evaluate_results_text_is_read_by_vendor_script(tmp_path: Path) -> None:
    """As eval_topk.py takes a line apart: the folder before the last slash, and what follows the fourth colon."""
    card = Device(tmp_path)
    outputs = pair_outputs(card.results, card.datalist)
    evaluate(outputs, read_classes(card.labels, outputs), tmp_path / "r.txt")
    lines = (tmp_path / "r.txt").read_text().splitlines()
    groups = [lines[at : at + 5] for at in range(0, len(lines), 5)]
    hits = [[line.split("/")[-2] == line.split(":")[4].strip() for line in group] for group in groups]
    assert sum(group[0] for group in hits) == 2
    assert sum(any(group) for group in hits) == 10


def test_evaluate_results_equal_scores_give_lower_class(tmp_path: Path) -> None:
    card = Device(tmp_path, images=1)
    np.savez(card.files[0], output_0=np.zeros(6, np.float32))
    outputs = pair_outputs(card.results, card.datalist)
    evaluate(outputs, read_classes(card.labels, outputs), tmp_path / "r.txt")
    assert [line.split("id: ")[1][0] for line in (tmp_path / "r.txt").read_text().splitlines()] == list("01234")


def test_evaluate_results_damaged_are_named_and_can_be_left_out(tmp_path: Path) -> None:
    card = Device(tmp_path)
    card.files[0].write_bytes(b"")
    card.files[5].write_bytes(card.files[5].read_bytes()[:200])
    outputs = pair_outputs(card.results, card.datalist)
    classes = read_classes(card.labels, outputs)
    with pytest.raises(VendorFileError, match=r"2 of 14 results cannot be read: .*output_000000.*output_000005"):
        evaluate(outputs, classes, tmp_path / "r.txt")
    assert not (tmp_path / "r.txt").exists()
    accuracy = evaluate(outputs, classes, skip_damaged=True)
    assert (accuracy.images, accuracy.top1, accuracy.top5, len(accuracy.faults)) == (12, 1, 9, 2)


def test_read_classes_from_label_file(tmp_path: Path) -> None:
    """The older evaluation's label file: image and class index, the folders say nothing."""
    card = Device(tmp_path)
    card.datalist.write_text("\n".join(f"/data/flat/img{i}.npz" for i in range(14)))
    card.labels.write_text("".join(f"img{i}.JPEG {i % 6}\n" for i in range(14)))
    outputs = pair_outputs(card.results, card.datalist)
    classes = read_classes(card.labels, outputs)
    accuracy = evaluate(outputs, classes, tmp_path / "r.txt")
    assert (accuracy.top1, accuracy.top5) == (2, 10)
    assert "class name: 0" in (tmp_path / "r.txt").read_text().splitlines()[0]
    card.labels.write_text("".join(f"img{i}.JPEG {i % 6}\n" for i in range(13)))
    with pytest.raises(LabelError, match=r"1 images have no label, for example /data/flat/img13.npz"):
        true_labels(outputs, read_classes(card.labels, outputs))


@pytest.mark.parametrize(
    ("folders", "names", "labels"),
    [
        (["emu", "cat"], NAMES, [2, 0]),
        (["n01443537", "n01440764"], tuple(imagenet_classes().values()), [1, 0]),
        (["5", "0"], NAMES, [5, 0]),
        (["n09999999", "n00000001"], ("first", "second"), [1, 0]),
    ],
)
def test_read_classes_from_class_folders(
    tmp_path: Path, folders: list[str], names: tuple[str, ...], labels: list[int]
) -> None:
    card = Device(tmp_path, images=2)
    card.datalist.write_text("".join(f"/data/{folder}/x{i}.npz\n" for i, folder in enumerate(folders)))
    card.labels.write_text("\n".join(names))
    outputs = pair_outputs(card.results, card.datalist)
    assert true_labels(outputs, read_classes(card.labels, outputs)).tolist() == labels


def test_read_classes_folders_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    card = Device(tmp_path)
    card.datalist.write_text("\n".join(line.replace("emu", "dodo") for line in card.lines))
    with pytest.raises(LabelError, match="the folder dodo of the datalist is not one of the 6 classes"):
        card.read()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/a/cat/b.npz: Relay top-0 id: 0, prob: 1.0, class name: cat\nrubbish\n", r"r.txt:2: no line of the form"),
        (
            "/a/cat/b.npz: Relay top-0 id: 0, prob: 1.0, class name: cat\n" * 5
            + "/a/cat/c.npz: Relay top-0 id: 0, prob: 1.0, class name: cat\n",
            r"the image /a/cat/c.npz has 1 lines, and others have 5",
        ),
    ],
)
def test_results_text_cut_short_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.txt").write_text(text)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    with pytest.raises(VendorFileError, match=message):
        read_relay_text(tmp_path / "r.txt", tmp_path / "names.txt")


def test_results_printed_rates_of_either_version_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("Namespace(...)\n[VACC]:  top1_rate: 75.856 top5_rate: 92.892\n")
    assert read_rates(path) == (75.856, 92.892)
    path.write_text("[VACC]:  top1_rate: 75.85600000000001 top5_rate: 92.892\n")
    assert read_rates(path) == (75.85600000000001, 92.892)
    assert not is_relay_text(path)
    path.write_text("nothing\n")
    with pytest.raises(VendorFileError, match="neither results of the card nor top1_rate"):
        read_rates(path)


def test_command_lines_equal_those_of_vendor() -> None:
    run = VampRun(model="deploy_weights/x/mod", vdsp="p.json", size=(3, 224, 224))
    assert run.performance() == "vamp -m deploy_weights/x/mod --vdsp_params p.json -i 8 -p 1 -b 22 -s '[3,224,224]'"
    plain = VampRun(model="m/mod", vdsp="p q.json", instances=2, processes=3, batch=4)
    assert plain.accuracy("l.txt", "out") == (
        "vamp -m m/mod --vdsp_params 'p q.json' -i 2 -p 3 -b 4 --datalist l.txt --path_output out"
    )


def test_compiled_model_path_follows_build_file() -> None:
    compile_, build = read_spec(Document.parse(COMPILE)), read_spec(Document.parse(BUILD))
    assert compiled_model(compile_, "compile") == "deploy_weights/small_int8/mod"
    assert compiled_model(build, "build") == "deploy_weights/small-int8-percentile-3_224_224-vacc/small"
    floating = build.model_copy(update={"backend": build.backend.model_copy(update={"dtype": "fp16"})})
    assert compiled_model(floating, "build") == "deploy_weights/small-fp16-none-3_224_224-vacc/small"
    assert picture_size(compile_) == (3, 224, 224)
    with pytest.raises(VendorFileError, match="has no name or no workspace"):
        compiled_model(compile_.model_copy(update={"name": None}), "compile")


@pytest.mark.shared
def test_inputs_run_through_model_have_accuracy_of_photographs(shared_assets: Path, tmp_path: Path) -> None:
    """Photos to inputs, through SqueezeNet in place of a card, to an accuracy: every tenth photo."""
    import onnxruntime
    from PIL import Image

    from quantkit.config.pipeline import PRESETS
    from quantkit.data.folder import find_labelled_images
    from quantkit.data.preprocess import normalize, preprocess, transform
    from quantkit.vendors.vacc.inputs import plan_inputs, write_datalist, write_inputs
    from quantkit.vendors.vacc.tensors import read_npz

    found = find_labelled_images(shared_assets / "imagenet_samples").only(range(0, 1000, 10))
    files = write_inputs(plan_inputs(found, tmp_path / "npz")).files
    write_datalist(tmp_path / "list.txt", files)
    (tmp_path / "imagenet.txt").write_text("\n".join(imagenet_classes().values()))
    session = onnxruntime.InferenceSession(shared_assets / "squeezenet1_1.onnx")
    (tmp_path / "out").mkdir()
    expected = []
    for index, file in enumerate(files):
        image = Image.fromarray(read_npz(file.npz, "input_0").transpose(1, 2, 0))
        tensor = np.empty((1, 3, 224, 224), np.float32)
        normalize(transform(image, PRESETS["imagenet"]), PRESETS["imagenet"], tensor[0])
        np.testing.assert_array_equal(tensor[0], preprocess(file.image, PRESETS["imagenet"]))
        scores = session.run(None, {"input": tensor})[0]
        expected.append(scores[0].argmax())
        np.savez(tmp_path / "out" / f"output_{index}.npz", output_0=scores)
    results = read_answers(tmp_path / "out", tmp_path / "list.txt", tmp_path / "imagenet.txt")
    assert results.labels.tolist() == found.labels.tolist()
    assert results.scores.argmax(axis=1).tolist() == expected
