"""The cache of results: bias corrections, layer costs, trials of a search, and scores of models.

An entry belongs to a `CacheKey` with everything the result depends on. Entries with another key, an older format or
numeric version, and damaged entries are ignored and recomputed. Each entry is a file, written atomically, in one folder
per kind; entries can be deleted at any time.
"""

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from quantkit.files import sha256_json, write_bytes
from quantkit.numerics import NUMERIC_VERSION

FOLDER = "cache"
# The oldest entries are removed if a cache folder exceeds this size.
MAX_BYTES = 1 << 30

_METADATA = "quantkit-cache"
_SUFFIX = ".safetensors"
_NAME_DIGITS = 24


@dataclass(frozen=True)
class CacheKey:
    """Everything that a cached result depends on.

    Attributes:
        kind: kind of the result, the name of its folder.
        format: version of the entry's content, increased when its fields change.
        inputs: JSON values that identify the inputs: digests of models and images, ranges, options.
        numerics: version of quantkit's arithmetic, increased when the same inputs give other numbers.
        runtime: version of onnxruntime.
    """

    kind: str
    format: int
    inputs: Mapping[str, Any]
    numerics: int = field(default=NUMERIC_VERSION, kw_only=True)
    runtime: str = field(default=onnxruntime.__version__, kw_only=True)

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of the key."""
        return sha256_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the key as JSON values."""
        return {
            "kind": self.kind,
            "format": self.format,
            "inputs": dict(self.inputs),
            "numerics": self.numerics,
            "runtime": self.runtime,
        }


@dataclass(frozen=True)
class CacheEntry:
    """A cached result.

    Attributes:
        values: JSON values; infinities are allowed.
        arrays: numpy arrays by name.
    """

    values: Mapping[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


class ResultCache:
    """A folder of cached results.

    Args:
        folder: folder of the entries; created with the first entry.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: CacheKey, suffix: str = _SUFFIX) -> Path:
        """Return the file of an entry, whether it exists or not."""
        return self.folder / key.kind / f"{key.digest[:_NAME_DIGITS]}{suffix}"

    def load(self, key: CacheKey) -> CacheEntry | None:
        """Return the entry of a key, None if it is missing or damaged."""
        path = self.path(key)
        try:
            with safe_open(path, framework="numpy") as file:
                content = json.loads((file.metadata() or {})[_METADATA])
                if content["digest"] != key.digest:
                    return None
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                entry = CacheEntry(dict(content["values"]), arrays)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # `trim` removes the least recently used first
        return entry

    def store(self, key: CacheKey, entry: CacheEntry) -> None:
        """Write the entry of a key, and replace an earlier one.

        Raises:
            OutputError: the entry cannot be written.
        """
        content = json.dumps({"digest": key.digest, "values": dict(entry.values)})
        arrays = {name: np.ascontiguousarray(array) for name, array in entry.arrays.items()}
        # Only one metadata entry, because safetensors does not write several in a fixed order.
        write_bytes(self.path(key), save(arrays, metadata={_METADATA: content}))

    def trim(self, keep: Collection[Path], limit: int = MAX_BYTES) -> None:
        """Remove the least recently used entries until the folder has at most ``limit`` bytes.

        Args:
            keep: files that are not removed.
            limit: maximum size in bytes.
        """
        total = 0
        for size, path in self._newest_first():
            total += size
            if total > limit and path not in keep:
                with contextlib.suppress(OSError):  # some systems cannot remove files that are open
                    path.unlink(missing_ok=True)

    def _newest_first(self) -> Iterator[tuple[int, Path]]:
        files = []
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):  # another process trims, too
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        for _, size, path in sorted(files, reverse=True):
            yield size, path
