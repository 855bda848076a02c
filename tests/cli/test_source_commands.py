"""Commands on images from other places than a folder, as a user types them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from models import tiny_model, write_images
from source_forms import write_parquet, write_tar, write_webdataset, write_zip

Command = Callable[..., tuple[str, str]]


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, bytes]:
    """A model and a preprocessing file in the test's folder; pictures by name."""
    tiny_model(tmp_path / "tiny.onnx")
    (tmp_path / "pipeline.yaml").write_text("ops:\n- op: decode\n- op: to_tensor\n")
    images = write_images(tmp_path / "images", per_class=8, classes=("cat", "dog", "emu"))
    return {path.relative_to(images).as_posix(): path.read_bytes() for path in sorted(images.rglob("*.png"))}


def test_calibrate_and_compare_read_tar_of_project_file(
    tmp_path: Path, command: Command, pictures: dict[str, bytes]
) -> None:
    write_tar(tmp_path / "images.tar", pictures)
    command("calib-set", "build", "--images", "images.tar", "--count", "12", "--out", "set.csv")
    (tmp_path / "quantkit.yaml").write_text(
        "model: tiny.onnx\npreset: pipeline.yaml\nset: set.csv\nimages: images.tar\nrun: run\n"
    )
    command("calibrate")
    out, _ = command("compare", "fp32", "int8", "--exclude", "set.csv")
    assert "12 images" in out


def test_calibrate_draws_from_shards_and_eval_reads_parquet(
    tmp_path: Path, command: Command, pictures: dict[str, bytes]
) -> None:
    write_webdataset(tmp_path, pictures)
    write_parquet(tmp_path / "val" / "images.parquet", pictures)
    shards, pipeline = "data-{000000..000002}.tar", ["--preset", "pipeline.yaml"]
    command("calibrate", "--model", "tiny.onnx", "--images", shards, "--count", "12", "--run", "run", *pipeline)
    out, _ = command("eval", "int8", "--run", "run", "--images", "val/*.parquet")
    assert "over 24 images" in out


def test_calibrate_damaged_shard_is_refused_or_left_out_with_skip_damaged(
    tmp_path: Path, command: Command, pictures: dict[str, bytes]
) -> None:
    shard = write_webdataset(tmp_path, pictures)[1]
    shard.write_bytes(shard.read_bytes()[:3000])
    build = ["calib-set", "build", "--images", "data-*.tar", "--count", "12", "--out", "set.csv"]
    _, err = command(*build, code=6)
    assert "data-000001.tar" in err
    assert "--skip-damaged" in err
    out, _ = command(*build, "--skip-damaged")
    assert "left out 2 damaged parts of the source: data-000001.tar" in out
    assert "12 images" in out
    options = ["--preset", "pipeline.yaml", "--images", "data-*.tar"]
    _, err = command("eval", "tiny.onnx", *options, code=6)
    assert "data-000001.tar" in err
    out, err = command("eval", "tiny.onnx", *options, "--skip-damaged")
    assert "left out 2 damaged parts" in out + err


def test_materialize_from_a_tar_writes_files(tmp_path: Path, command: Command, pictures: dict[str, bytes]) -> None:
    write_tar(tmp_path / "images.tar", pictures)
    command("calib-set", "build", "--images", "images.tar", "--count", "6", "--out", "set.csv", "--materialize", "flat")
    assert len(list((tmp_path / "flat").iterdir())) == 6
    command("calib-set", "check", "set.csv")
    (tmp_path / "images.tar").rename(tmp_path / "moved.tar")
    command("calib-set", "check", "set.csv", code=6)
    command("calib-set", "check", "set.csv", "--images", "moved.tar")


def test_imagenet_check_reads_a_tar(tmp_path: Path, command: Command, pictures: dict[str, bytes]) -> None:
    write_tar(tmp_path / "val.tar", {f"n01440764/{number}.png": data for number, data in enumerate(pictures.values())})
    out, _ = command("imagenet", "check", "val.tar")
    assert "24 images, 1 of 1000 classes" in out


def test_skip_damaged_of_tensors_and_imagenet_check_uses_rest_of_tar(
    tmp_path: Path, command: Command, pictures: dict[str, bytes]
) -> None:
    tar = write_tar(
        tmp_path / "val.tar", {f"n01440764/{number}.png": data for number, data in enumerate(pictures.values())}
    )
    tar.write_bytes(tar.read_bytes()[:3000])
    tensors = ["vamc", "tensors", "val.tar", "--model", "tiny.onnx", "--preset", "pipeline.yaml", "--out", "tensors"]
    command(*tensors, code=6)
    out, _ = command(*tensors, "--skip-damaged")
    written = len(list((tmp_path / "tensors").iterdir()))
    assert f"{written} tensors (suffix: npz)" in out
    command("imagenet", "check", "val.tar", code=6)
    out, _ = command("imagenet", "check", "val.tar", "--skip-damaged")
    assert f"{written} images" in out
    assert "left out 1 damaged parts of the source" in out


def test_vamp_inputs_are_written_from_a_zip_and_kept(
    tmp_path: Path, command: Command, pictures: dict[str, bytes]
) -> None:
    write_zip(tmp_path / "images.zip", pictures)
    out, _ = command("vamp", "inputs", "--images", "images.zip", "--out", "npz")
    assert "24 inputs (0 were there)" in out
    out, _ = command("vamp", "inputs", "--images", "images.zip", "--out", "npz")
    assert "0 inputs (24 were there)" in out
