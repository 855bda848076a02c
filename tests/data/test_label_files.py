from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.data.classes import ilsvrc_order, imagenet_classes, imagenet_index, leading_wnid, read_class_names
from quantkit.data.labels import check_labels_fit, pair_labels, read_label_file
from quantkit.errors import LabelError


def labels_of(tmp_path: Path, content: str | bytes, names: list[str] | None = None, file: str = "labels.txt") -> dict:
    path = tmp_path / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return {line.name: line.label for line in read_label_file(path, names)}


def test_imagenet_classes_are_a_thousand_sorted() -> None:
    wnids = list(imagenet_classes())
    assert len(wnids) == 1000
    assert wnids == sorted(wnids)
    assert imagenet_classes()["n01440764"] == "tench, Tinca tinca"
    assert (imagenet_index()["n01440764"], imagenet_index()["n15075141"]) == (0, 999)


def test_ilsvrc_order_fits_published_ground_truth() -> None:
    """The ids of the first ten validation images, and the class indices that they are known to mean."""
    ilsvrc_ids = [490, 361, 171, 822, 297, 482, 13, 704, 599, 164]
    class_indices = [imagenet_index()[ilsvrc_order()[ilsvrc_id - 1]] for ilsvrc_id in ilsvrc_ids]
    assert class_indices == [65, 970, 230, 809, 516, 57, 334, 415, 674, 332]
    assert sorted(ilsvrc_order()) == list(imagenet_classes())


@pytest.mark.parametrize(
    ("name", "wnid"),
    [
        ("n01440764", "n01440764"),
        ("n01440764_tench.JPEG", "n01440764"),
        ("n01440764.tar", "n01440764"),
        ("n014407645", None),
        ("n00000001_x.JPEG", None),
        ("ILSVRC2012_val_00000001.JPEG", None),
    ],
)
def test_leading_wnid_of_file_name_is_found(name: str, wnid: str | None) -> None:
    assert leading_wnid(name) == wnid


@pytest.mark.parametrize(
    "content",
    [
        "a.jpg 3\nb.jpg 0\n",
        "a.jpg\t3\nb.jpg\t0",
        "a.jpg,3\nb.jpg,0\n",
        "a.jpg, 3\nb.jpg, 0\n",
        "3 a.jpg\n0 b.jpg\n",
        "3,a.jpg\n0,b.jpg\n",
        b"\xef\xbb\xbfa.jpg 3\r\nb.jpg 0\r\n",
        "a.jpg 3\rb.jpg 0\r",
        "\n# a comment\na.jpg 3\n\n   \nb.jpg 0\n",
        "image,label\na.jpg,3\nb.jpg,0\n",
        "Label,File Name\n3,a.jpg\n0,b.jpg\n",
        "filename split class_id\na.jpg val 3\nb.jpg val 0\n",
        'path,target\n"a.jpg",3\n"b.jpg","0"\n',
        b"\xef\xbb\xbffilename;label\r\na.jpg;3\r\nb.jpg;0\r\n",
        "a.jpg;3\nb.jpg;0\n",
        "id,image,label\n0,a.jpg,3\n1,b.jpg,0\n",
        "image,x,y,label\na.jpg,7,8,3\nb.jpg,9,9,0\n",
        "image,class,class_id\na.jpg,cat,3\nb.jpg,dog,0\n",
        "a.jpg,val,3\nb.jpg,val,0\n",
    ],
)
def test_label_file_usual_forms_are_read(tmp_path: Path, content: str | bytes) -> None:
    assert labels_of(tmp_path, content) == {"a.jpg": 3, "b.jpg": 0}


def test_label_file_names_may_hold_spaces_and_commas(tmp_path: Path) -> None:
    assert labels_of(tmp_path, "my cat, grey.jpg 3\nb.jpg 0") == {"my cat, grey.jpg": 3, "b.jpg": 0}
    assert labels_of(tmp_path, '"my cat, grey.jpg",3\nb.jpg,0') == {"my cat, grey.jpg": 3, "b.jpg": 0}


def test_label_file_labels_may_be_wordnet_ids_or_names(tmp_path: Path) -> None:
    assert labels_of(tmp_path, "a.jpg n01440764\nb.jpg n15075141") == {"a.jpg": 0, "b.jpg": 999}
    assert labels_of(tmp_path, "a.jpg cat\nb.jpg dog", ["dog", "cat"]) == {"a.jpg": 1, "b.jpg": 0}


def test_label_file_of_kaggle_is_read(tmp_path: Path) -> None:
    content = "ImageId,PredictionString\nILSVRC2012_val_00048981,n03995372 85 1 499 272 \n"
    assert labels_of(tmp_path, content) == {"ILSVRC2012_val_00048981": imagenet_index()["n03995372"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"labels\.txt: the label file is empty"),
        ("# nothing\n\n", r"labels\.txt: the label file is empty"),
        ("a.jpg 3\nb.jpg -1\n", r"labels\.txt:2: label -1 is not a non-negative integer"),
        ("a.jpg 3\nb.jpg 3.0\n", r"labels\.txt:2: label 3\.0 is not a non-negative integer"),
        ("a.jpg 3.5\n", r"labels\.txt:1: label 3\.5 is not a non-negative integer"),
        ("a.jpg 3\n\nb.jpg\n", r"labels\.txt:3: the line has no name or no label: 'b\.jpg'"),
        ("a.jpg 3\nb.jpg cat\n", r"labels\.txt:2: label 'cat' is neither a class index nor a known class"),
        ("a.jpg n00000001\n", r"labels\.txt:1: n00000001 is not a class of ImageNet-1k"),
        ("490\n361\n171\n", r"has 3 labels without image names, and labels are not paired by position"),
        ("hello there world\n", r"labels\.txt:1: neither a header nor a line with a label"),
        ("a.jpg,3,1\nb.jpg,0,0\n", r"labels\.txt:1: neither a header .* or a header such as image,label"),
        ("a.jpg;3;0.98\n", r"labels\.txt:1: neither a header nor a line with a label"),
        ("a.jpg,\n", r"labels\.txt:1: neither a header nor a line with a label"),
        ("image,label\na.jpg,\n", r"labels\.txt:2: label '' is neither"),
        ("image,label\n,3\n", r"labels\.txt:2: the line has no name"),
        (b"\xff\xfea\0.\0j\0p\0g\0 \0003\0", r"labels\.txt: not UTF-8 text"),
        (b"\x00\x01\x02 3", r"labels\.txt: not a text file"),
        ("x" * 200_000 + "\n", r"labels\.txt:1: neither a header nor a line with a label"),
        ("a.jpg ３\n", r"labels\.txt:1: neither|label"),
    ],
)
def test_label_file_malformed_names_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        labels_of(tmp_path, content)


def test_label_file_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"none\.txt: cannot read the file \(no such file or directory\)"):
        read_label_file(tmp_path / "none.txt")


@given(text=st.text(max_size=200))
def test_label_file_of_any_text_is_read_or_refused(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(text.encode(errors="surrogatepass"))
    try:
        lines = read_label_file(path)
    except LabelError:
        return
    assert all(line.name and line.label >= 0 and line.number >= 1 for line in lines)


NAMES = st.text("abcxyz _-é", min_size=1, max_size=8).map(str.strip).filter(bool).map(lambda name: f"{name}.jpg")


@given(labels=st.dictionaries(NAMES, st.integers(0, 2000), min_size=1), separator=st.sampled_from([" ", "\t", ","]))
def test_label_file_round_trips(
    labels: dict[str, int], separator: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.txt"
    path.write_text("".join(f"{name}{separator}{label}\n" for name, label in labels.items()), encoding="utf-8")
    assert {line.name: line.label for line in read_label_file(path)} == labels


def pair(tmp_path: Path, content: str, images: list[str]) -> tuple[list[int], list[str], list[str], int]:
    path = tmp_path / "labels.txt"
    path.write_text(content)
    pairing = pair_labels(path, read_label_file(path), images)
    unmatched = [line.name for line in pairing.unmatched]
    return pairing.labels.tolist(), list(pairing.unlabelled), unmatched, pairing.repeated


def test_pair_labels_is_by_name(tmp_path: Path) -> None:
    assert pair(tmp_path, "b.jpg 2\na.jpg 1\nc.jpg 3\n", ["a.jpg", "b.jpg", "c.jpg"]) == ([1, 2, 3], [], [], 0)


@pytest.mark.parametrize(
    "name", ["x/a.jpg", "./x/a.jpg", "val/x/a.jpg", "a.jpg", "a", "x/a", "x\\a.jpg", "other/a.jpg"]
)
def test_pair_labels_longer_shorter_and_bare_names_fit(tmp_path: Path, name: str) -> None:
    assert pair(tmp_path, f"{name} 5\n", ["x/a.jpg", "x/b.jpg"]) == ([5, -1], ["x/b.jpg"], [], 0)


def test_pair_labels_path_decides_between_images_of_one_name(tmp_path: Path) -> None:
    assert pair(tmp_path, "x/a.jpg 1\ny/a.jpg 2\n", ["x/a.jpg", "y/a.jpg"])[0] == [1, 2]


def test_pair_labels_line_for_other_folder_is_not_used(tmp_path: Path) -> None:
    assert pair(tmp_path, "x/a.jpg 1\ny/a.jpg 2\n", ["y/a.jpg"]) == ([2], [], ["x/a.jpg"], 0)


def test_pair_labels_ambiguous_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"labels\.txt:1: a\.jpg matches 2 images, among them x/a\.jpg and y/a\.jpg"):
        pair(tmp_path, "a.jpg 1\n", ["x/a.jpg", "y/a.jpg"])


def test_pair_labels_repeated_lines_count_and_contradictions_are_named(tmp_path: Path) -> None:
    assert pair(tmp_path, "a.jpg 1\na.jpg 1\n", ["a.jpg"]) == ([1], [], [], 1)
    with pytest.raises(LabelError, match=r"labels\.txt:3: a\.jpg has label 2, and 1 on line 1"):
        pair(tmp_path, "a.jpg 1\nb.jpg 0\na.jpg 2\n", ["a.jpg", "b.jpg"])


def test_pair_labels_of_other_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"none of its 2 names matches any of the 1 images, such as p\.jpg and a"):
        pair(tmp_path, "p.jpg 1\nq.jpg 2\n", ["a.jpg"])


def test_labels_beyond_outputs_of_model_are_refused() -> None:
    check_labels_fit(np.array([0, 9]), 10, "labels.txt")
    check_labels_fit(np.array([], np.int64), 10, "labels.txt")
    with pytest.raises(
        LabelError, match=r"1 of 3 labels are out of range for 10 model outputs \(largest: 12\).*this model's"
    ):
        check_labels_fit(np.array([0, 9, 12]), 10, "labels.txt")
    with pytest.raises(LabelError, match="these labels seem to count from 1"):
        check_labels_fit(np.array([1, 5, 10]), 10, "labels.txt")


def test_class_names_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbftench, Tinca tinca\r\ncrane\r\ncrane\r\n\r\n")
    assert read_class_names(path) == ("tench, Tinca tinca", "crane", "crane")
    path.write_text("tench\n\ncrane\n")
    with pytest.raises(LabelError, match=r"names\.txt:2: empty line between class names"):
        read_class_names(path)
    path.write_text("\n\n")
    with pytest.raises(LabelError, match=r"names\.txt: the file of class names is empty"):
        read_class_names(path)
