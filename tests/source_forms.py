"""One set of pictures in every form that a source can have."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

Pictures = Mapping[str, bytes]
CLASSES = ("cat", "dog", "emu")


def picture(seed: int, size: int = 12) -> bytes:
    """Return a PNG that depends on the seed alone."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(per_class: int = 4, classes: Sequence[str] = CLASSES) -> dict[str, bytes]:
    """Return pictures by name, ``cat/0.png``, in the order of their names."""
    names = [f"{name}/{number}.png" for name in classes for number in range(per_class)]
    return {name: picture(seed) for seed, name in enumerate(names)}


def labels_of(images: Pictures, classes: Sequence[str] = CLASSES) -> list[int]:
    """Return the class index of each picture, that of its class folder."""
    return [list(classes).index(name.partition("/")[0]) for name in images]


def write_folder(path: Path, images: Pictures) -> Path:
    """Write class folders."""
    for name, data in images.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_tar(path: Path, images: Pictures, form: int = tarfile.PAX_FORMAT, mode: Any = "w") -> Path:
    """Write a tar."""
    with tarfile.open(path, mode, format=form) as archive:
        for name, data in images.items():
            add(archive, name, data)
    return path


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def write_zip(path: Path, images: Pictures, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in images.items():
            archive.writestr(name, data)
    return path


def write_webdataset(folder: Path, images: Pictures, shards: int = 3) -> list[Path]:
    """Write WebDataset shards ``data-000000.tar`` ..., samples dealt out in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    names, labels = list(images), labels_of(images)
    paths = []
    for shard in range(shards):
        members: dict[str, bytes] = {}
        for name, label in list(zip(names, labels, strict=True))[shard::shards]:
            members[name] = images[name]
            members[f"{name.removesuffix('.png')}.cls"] = str(label).encode()
        paths.append(write_tar(folder / f"data-{shard:06d}.tar", members))
    return paths


def flat(name: str) -> str:
    """Return a name without folders, still unique."""
    return name.replace("/", "_")


def table(
    images: Pictures,
    *,
    path_of: Callable[[str], str | None] = flat,
    classes: Sequence[str] = CLASSES,
    labels: Sequence[int | None] | None = None,
) -> pyarrow.Table:
    """Return a table in the layout of Hugging Face's image data sets, with its metadata."""
    rows = [{"bytes": data, "path": path_of(name)} for name, data in images.items()]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    features = {"image": {"_type": "Image"}, "label": {"names": list(classes), "_type": "ClassLabel"}}
    columns = [pyarrow.array(rows, kind), pyarrow.array(labels or labels_of(images, classes), pyarrow.int64())]
    made = pyarrow.Table.from_arrays(columns, ["image", "label"])
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_parquet(path: Path, images: Pictures, row_group_size: int = 5, **options: Any) -> Path:
    """Write a parquet file with several row groups; further options are those of `table`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table(images, **options), path, row_group_size=row_group_size)
    return path
