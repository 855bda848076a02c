"""Classes of the card's inputs and results: folders that identify them, names that only display them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantkit.data.classes import ilsvrc_order, imagenet_classes
from quantkit.data.folder import find_labelled_images
from quantkit.data.imagenet_names import follows_imagenet, imagenet_remarks
from quantkit.errors import LabelError, UsageError, VendorFileError
from quantkit.vendors.vacc.evaluate import read_relay_text
from quantkit.vendors.vacc.inputs import plan_inputs
from quantkit.vendors.vacc.relay import read_relay
from quantkit.vendors.vacc.results import DeviceOutput, read_classes, true_labels
from quantkit.vendors.vacc.tensors import read_npz
from quantkit.workflows.vacc.device_results import DeviceResults

Run = Callable[..., tuple[int, str, str]]

WNIDS = tuple(imagenet_classes())
WORDS = tuple(imagenet_classes().values())
CRANE, OTHER_CRANE = (index for index, words in enumerate(WORDS) if words == "crane")
CASH_MACHINE = 480
# As in the vendor's list: class 480 has lost its last two words.
VENDOR_WORDS = tuple(
    words.removesuffix(", automatic teller, ATM") if index == CASH_MACHINE else words
    for index, words in enumerate(WORDS)
)


def picture(path: Path, size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def names_file(folder: Path, names: tuple[str, ...]) -> Path:
    path = folder / "imagenet.txt"
    path.write_text("\n".join(names) + "\n")
    return path


# --- folders of inputs


@pytest.mark.parametrize("names", [None, WORDS, VENDOR_WORDS, tuple(f"类{index}" for index in range(1000))])
def test_inputs_wnid_folders_stay_whatever_the_names_say(tmp_path: Path, names: tuple[str, ...] | None) -> None:
    classes = (CRANE, OTHER_CRANE, CASH_MACHINE, 757)  # 757: "recreational vehicle, RV, R.V.", no name for a folder
    for index in classes:
        picture(tmp_path / "val" / WNIDS[index] / "x.png")
    given = None if names is None else names_file(tmp_path, names)
    planned = plan_inputs(find_labelled_images(tmp_path / "val", names=given), tmp_path / "npz")
    assert [file.npz.parent.name for file in planned] == sorted(WNIDS[index] for index in classes)


@pytest.mark.parametrize(
    ("label_lines", "names", "folders"),
    [
        ("a.png n02012849\nb.png n03126707\n", None, ["n02012849", "n03126707"]),
        ("a.png 134\nb.png 517\n", WORDS, ["n02012849", "n03126707"]),
        ("a.png 134\nb.png 517\n", None, ["134", "517"]),  # nothing says that these are ImageNet's
        ("a.png 1\nb.png 0\n", ("crane", "crane"), ["1", "0"]),
        ("a.png bird\nb.png machine\n", ("machine", "bird"), ["1", "0"]),
    ],
)
def test_inputs_flat_images_get_wnids_or_indices(
    tmp_path: Path, label_lines: str, names: tuple[str, ...] | None, folders: list[str]
) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "flat" / name)
    (tmp_path / "labels.txt").write_text(label_lines)
    given = None if names is None else names_file(tmp_path, names)
    found = find_labelled_images(tmp_path / "flat", tmp_path / "labels.txt", given)
    assert [file.npz.parent.name for file in plan_inputs(found, tmp_path / "npz")] == folders


def test_inputs_own_class_folders_stay(tmp_path: Path) -> None:
    for name in ("R.V.", "a b", "Crane"):
        picture(tmp_path / "own" / name / "x.png")
    given = names_file(tmp_path, ("Crane", "R.V.", "a b"))
    planned = plan_inputs(find_labelled_images(tmp_path / "own", names=given), tmp_path / "npz")
    assert [file.npz.parent.name for file in planned] == ["Crane", "R.V.", "a b"]


def test_inputs_labels_beyond_imagenet_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "flat" / "ILSVRC2012_val_00000001.png")
    (tmp_path / "labels.txt").write_text("ILSVRC2012_val_00000001.png 1000\n")
    with pytest.raises(LabelError, match="labels go up to 1000, and ImageNet has 1000 classes, counted from 0"):
        plan_inputs(find_labelled_images(tmp_path / "flat", tmp_path / "labels.txt"), tmp_path / "npz")


# --- lists of names


def test_class_names_that_disagree_with_imagenet_are_named_by_line(tmp_path: Path) -> None:
    path = names_file(tmp_path, VENDOR_WORDS)
    (remark,) = imagenet_remarks(VENDOR_WORDS, path)
    assert remark.startswith(f"{path}:481: 'cash machine, cash dispenser")
    assert remark.endswith("automatic teller, ATM'")
    picture(tmp_path / "val" / WNIDS[0] / "x.png")
    assert find_labelled_images(tmp_path / "val", names=path).warnings == (remark,)
    assert imagenet_remarks(WORDS, path) == ()


def test_class_names_in_other_spelling_disagree_without_shared_word() -> None:
    first_words = [words.split(",")[0].upper() for words in WORDS]
    assert follows_imagenet(first_words)
    assert imagenet_remarks(first_words, None) == ()
    first_words[3], first_words[4] = first_words[4], "something else"
    assert [remark.split(": ")[0] for remark in imagenet_remarks(first_words, None)] == ["None:4", "None:5"]


def test_class_names_many_disagreeing_lines_are_counted() -> None:
    names = [f"x{words}" if index < 30 else words for index, words in enumerate(WORDS)]
    remarks = imagenet_remarks(names, None)
    assert len(remarks) == 21
    assert remarks[-1] == "None: 10 more lines differ from ImageNet"


@pytest.mark.parametrize(
    "names",
    [
        tuple(imagenet_classes()[wnid] for wnid in ilsvrc_order()),  # the devkit's order
        ("background", *WORDS),
        tuple(reversed(WORDS)),
    ],
)
def test_class_names_in_other_order_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    picture(tmp_path / "val" / WNIDS[0] / "x.png")
    with pytest.raises(LabelError, match="the class names are ImageNet's in another order: line "):
        find_labelled_images(tmp_path / "val", names=names_file(tmp_path, names))


def test_class_names_in_other_language_are_one_remark() -> None:
    (remark,) = imagenet_remarks([f"类{index}" for index in range(1000)], Path("zh.txt"))
    assert remark == "zh.txt: hardly any name is an English ImageNet name, so their order was not checked"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("ant", "bee", "cat"), r"1 of 2 class folders are not among the class names: dog"),
        (("cat", "dog", "cat"), r"lines 1 and 3 of the class names are both 'cat'"),
        (("A", "B", "C"), "there are 2 class folders and 3 class names, and no folder has such a name"),
    ],
)
def test_class_folders_fitting_names_in_part_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / "own" / name / "x.png")
    with pytest.raises(LabelError, match=message):
        find_labelled_images(tmp_path / "own", names=names_file(tmp_path, names))
    found = find_labelled_images(tmp_path / "own", names=names_file(tmp_path, ("Katze", "Hund")))
    assert found.class_names == {0: "Katze", 1: "Hund"}  # names for display, in the order of the folders


def test_labels_that_name_two_classes_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "flat" / "a.png")
    (tmp_path / "labels.csv").write_text("image,label\na.png,crane\n")
    with pytest.raises(LabelError, match=r"labels.csv:2: several classes are called 'crane'; give the class index"):
        find_labelled_images(tmp_path / "flat", tmp_path / "labels.csv", names_file(tmp_path, WORDS))


# --- the truth of results


def outputs_in(*folders: str) -> list[DeviceOutput]:
    return [DeviceOutput(Path("out.npz"), f"/npz/{folder}/x{i}.npz") for i, folder in enumerate(folders)]


def test_truth_of_wnid_folders_needs_no_names(tmp_path: Path) -> None:
    outputs = outputs_in(WNIDS[OTHER_CRANE], WNIDS[CRANE])
    assert true_labels(outputs, read_classes(None, outputs)).tolist() == [OTHER_CRANE, CRANE]
    with pytest.raises(LabelError, match=r"^labels: the classes are unknown; give imagenet\.txt"):
        read_classes(None, outputs_in("crane"))


def test_truth_by_a_name_of_two_classes_is_refused(tmp_path: Path) -> None:
    outputs = outputs_in("crane", "bittern")
    classes = read_classes(names_file(tmp_path, WORDS), outputs)
    with pytest.raises(LabelError, match="2 classes have the name of the datalist's folder crane"):
        true_labels(outputs, classes)


def test_truth_by_numbers_that_are_names_of_other_classes_is_refused(tmp_path: Path) -> None:
    names = names_file(tmp_path, tuple(sorted(map(str, range(12)))))  # 0 1 10 11 2 ...
    outputs = outputs_in("0", "1")
    assert true_labels(outputs, read_classes(names, outputs)).tolist() == [0, 1]
    outputs = outputs_in("0", "2")
    with pytest.raises(LabelError, match="the folder 2 of the datalist is the name of class 4 and the index"):
        true_labels(outputs, read_classes(names, outputs))


def test_truth_from_a_label_file_tells_one_name_in_two_folders_apart(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    outputs = [DeviceOutput(Path("o.npz"), f"/npz/{folder}/0.npz") for folder in ("cat", "dog")]
    path.write_text("cat/0.png 0\ndog/0.png 1\n")
    assert true_labels(outputs, read_classes(path, outputs)).tolist() == [0, 1]
    path.write_text("cat/0.png 0\nrat/0.png 1\n")
    with pytest.raises(LabelError, match=r"1 images have no label, for example /npz/dog/0.npz"):
        true_labels(outputs, read_classes(path, outputs))
    path.write_text("0.png 0\n0.png 1\n")
    with pytest.raises(LabelError, match=r"labels.txt:2: 0.png has class 1, and 0 on an earlier line"):
        read_classes(path, outputs)


def test_device_results_of_one_file_name_in_two_classes_are_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for number in range(2):
        np.savez(tmp_path / f"out/{number}.npz", output_0=np.eye(2, dtype=np.float32)[number])
    (tmp_path / "list.txt").write_text("/npz/0/a.npz\n/npz/1/a.npz\n")
    for name in ("cat", "dog"):
        picture(tmp_path / "own" / name / "a.png")
    answers = DeviceResults("card", tmp_path / "out", tmp_path / "list.txt")
    with pytest.raises(VendorFileError, match="the card has no result for 2 of 2 images"):
        answers.check(find_labelled_images(tmp_path / "own"))


# --- the vendor's text file


def relay(path: str, ids: tuple[int, ...], names: tuple[str, ...] = WORDS) -> str:
    return "".join(
        f"{path}: Relay top-{k} id: {index}, prob: {0.5 - k / 10:.8f}, class name: {names[index]}\n"
        for k, index in enumerate(ids)
    )


def image(index: int, number: int = 0) -> str:
    return f"/val/{WNIDS[index]}/{number}.JPEG"


FIRST = relay(image(0), (0, 1, 2, 3, 4)) + relay(image(1), (2, 3, 4, 5, 6)) + relay(image(2), (2, 3, 4, 5, 6))
SECOND = relay(image(0), (1, 0, 2, 3, 4)) + relay(image(1), (1, 3, 4, 5, 6)) + relay(image(2), (9, 3, 4, 5, 6))


def test_results_text_of_two_runs_is_refused_until_one_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "r.txt"
    path.write_text(FIRST + SECOND)
    with pytest.raises(VendorFileError, match=r"r.txt: it has 2 appended runs \(of 3, 3 images\); give --text-run, 1"):
        read_relay_text(path, None)
    first, second, last = (read_relay_text(path, None, run) for run in (1, 2, -1))
    assert (first.images, first.top1, first.top5) == (3, 2, 2)
    assert (second.images, second.top1, second.top5) == (3, 1, 2)
    assert second == last
    for run in (0, 3, -3):
        with pytest.raises(UsageError, match=f"^text_run: there is no run {run} of 2; give 1 to 2"):
            read_relay_text(path, None, run)
    path.write_text(FIRST)
    assert read_relay_text(path, None) == read_relay_text(path, None, 1) == first


@pytest.mark.parametrize("lines", [5, 7, 10, 13])
def test_results_text_of_ended_and_appended_run_holds_two_runs(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "r.txt"
    path.write_text("".join(FIRST.splitlines(keepends=True)[:lines]) + SECOND)
    assert read_relay_text(path, None, 2).top1 == 1
    if lines % 5:
        with pytest.raises(VendorFileError, match=rf"has {lines % 5} lines, and others have 5; the file may be"):
            read_relay_text(path, None, 1)


def test_results_text_of_image_run_twice_holds_two_runs(tmp_path: Path) -> None:
    path = tmp_path / "r.txt"
    path.write_text(relay(image(0), (0, 1, 2, 3, 4)) + relay(image(0), (4, 3, 2, 1, 0)))
    assert [read_relay(path, run)[0].classes[0] for run in (1, 2)] == [0, 4]


def test_results_text_of_other_images_is_indistinguishable(tmp_path: Path) -> None:
    path = tmp_path / "r.txt"
    path.write_text(relay(image(1), (0, 1, 2, 3, 4)) + relay(image(0), (4, 3, 2, 1, 0)) + FIRST)
    with pytest.raises(VendorFileError, match="runs over different images were appended"):
        read_relay_text(path, None, 1)
    path.write_text(FIRST + relay(image(0), (4, 3, 2, 1, 0)) + relay(image(7), (4, 3, 2, 1, 0)))
    with pytest.raises(VendorFileError, match="runs over different images were appended"):
        read_relay_text(path, None, -1)


def test_results_text_in_other_order_holds_two_runs(tmp_path: Path) -> None:
    path = tmp_path / "r.txt"
    path.write_text(FIRST + "".join(relay(image(i), (i, 7, 8, 9, 10)) for i in (2, 0, 1)))
    assert read_relay_text(path, None, 2).top1 == 3


def test_results_text_with_separated_lines_of_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.txt"
    path.write_text("".join(FIRST.splitlines(keepends=True)[2:]))
    with pytest.raises(VendorFileError, match=r"r.txt:1: the lines of /val/n01440764/0.JPEG begin with top-2"):
        read_relay_text(path, None)


def eval_topk(text: str) -> tuple[float, float]:
    """Top-1 and top-5 as the vendor's script finds them: names compared, five lines an image, from its description."""
    lines = text.splitlines()
    hits = [
        imagenet_classes()[line.split("/")[-2]] == line.split(":")[4].strip() for line in lines
    ]  # KeyError where a folder is no WordNet id
    groups = [hits[at : at + 5] for at in range(0, len(hits), 5)]
    return 100 * sum(group[0] for group in groups) / len(groups), 100 * sum(map(any, groups)) / len(groups)


def test_eval_says_what_the_vendors_script_prints_and_why(run: Run, tmp_path: Path) -> None:
    names = VENDOR_WORDS
    text = "".join(
        [
            relay(image(CASH_MACHINE, 0), (CASH_MACHINE, 1, 2, 3, 4), names),
            relay(image(CASH_MACHINE, 1), (1, CASH_MACHINE, 2, 3, 4), names),
            relay(image(CRANE), (OTHER_CRANE, 1, 2, 3, 4), names),
            relay(image(5), (5, 1, 2, 3, 4), names),
        ]
    )
    (tmp_path / "r.txt").write_text(text)
    names_file(tmp_path, names)
    code, out, err = run("vamp", "eval", "--text", "r.txt", "--labels", "imagenet.txt")
    assert (code, out.splitlines()[0]) == (0, "[VACC]:  top1_rate: 50.0 top5_rate: 75.0")
    assert eval_topk(text) == (50.0, 50.0)
    assert "eval_topk compares class names, not indices, and prints [VACC]: top1_rate: 50.0 top5_rate: 50.0" in err
    assert "eval_topk never counts class 480 as correct, its name is spelled differently: 2 images here" in err
    assert "eval_topk treats all classes named 'crane' as one: 1 image of another class here" in err
    assert "imagenet.txt:481: 'cash machine" in err
    # With ImageNet's own names the list says nothing, and the text does.
    err = run("vamp", "eval", "--text", "r.txt")[2]
    assert "r.txt was written with other class names: class 480 is" in err


def test_eval_says_nothing_where_the_vendors_script_agrees(run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text(FIRST)
    code, out, err = run("vamp", "eval", "--text", "r.txt")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "[VACC]:  top1_rate: 66.667 top5_rate: 66.667"
    assert eval_topk(FIRST) == pytest.approx((200 / 3, 200 / 3))


# --- EXIF orientation


def turned_picture(path: Path, orientation: int) -> np.ndarray:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:3, :5] = (250, 120, 10)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif)
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
def test_inputs_exif_orientation_as_opencv_applies_it(run: Run, tmp_path: Path, orientation: int) -> None:
    stored = turned_picture(tmp_path / "val/n01440764/x.png", orientation)
    # The EXIF standard's table: what row 0 and column 0 of the stored picture are.
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored, 1),
    }[orientation]
    npz = tmp_path / "npz/n01440764/x.npz"
    images = ("vamp", "inputs", "--images", "val", "--out", "npz")
    for option, expected, word in (("--no-exif", stored, "ignored"), ("--exif", upright, "applied")):
        # The second command writes again: the size of a square picture does not tell whether it was turned.
        code, _, err = run(*images, option)
        assert (code, f"EXIF orientation of 1 image was {word}" in err) == (0, orientation != 1)
        np.testing.assert_array_equal(read_npz(npz, "input_0"), expected.transpose(2, 0, 1))
    assert "1 were there" in run(*images)[1] or orientation != 1


def test_inputs_exif_comes_from_the_preset_and_is_kept_with_it(run: Run, tmp_path: Path) -> None:
    turned_picture(tmp_path / "val/n01440764/x.png", 6)
    (tmp_path / "quantkit.yaml").write_text("preset: vacc\nexif: true\n")
    images = ("vamp", "inputs", "--images", "val", "--out", "npz")
    assert "was applied" in run(*images)[2]
    kept = tmp_path / "npz/preprocessing.yaml"
    assert "exif: true" in kept.read_text()
    (tmp_path / "quantkit.yaml").unlink()
    assert "was ignored" in run(*images, "--preset", "vacc")[2]
    assert "exif: false" in kept.read_text()
    code, _, err = run(*images, "--preset", "imagenet", "--exif")
    assert (code, "was applied" in err, "--preset vacc is what it computes" in err) == (0, True, True)
    assert run(*images)[0] == 0  # of no known preprocessing
    assert not kept.exists()


def test_inputs_paths_with_a_colon_are_warned_of(run: Run, tmp_path: Path) -> None:
    picture(tmp_path / "val/n01440764/x.png")
    assert "eval_topk cannot read paths with a colon" in run("vamp", "inputs", "--images", "val", "--out", "a:b")[2]


def test_command_takes_the_vdsp_params_beside_the_build_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/vamc.yaml").write_text(
        "name: x\nfrontend: {type: onnx, checkpoint: x.onnx}\nworkspace: {path: deploy}\n"
    )
    assert "--vdsp_params vdsp_params.json" in run("vamp", "command", "run/vamc.yaml")[1]
    (tmp_path / "run/vdsp_params.json").write_text("{}")
    assert "--vdsp_params run/vdsp_params.json" in run("vamp", "command", "run/vamc.yaml")[1]
