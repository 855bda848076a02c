"""The files of a tuned model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.errors import ModelError
from quantkit.files import make_folder, sha256_file
from quantkit.graph.coverage import Coverage
from quantkit.graph.model import model_digest
from quantkit.notes import Note, as_note
from quantkit.runs.cache import CacheEntry, CacheKey
from quantkit.search.candidate_builder import Product
from quantkit.search.recipe import Recipe
from quantkit.search.trials import TuningTask
from quantkit.workflows.backends import BackendFiles, TunedModel, backend_of
from quantkit.workflows.quantized_files import (
    TUNED,
    corrected_path,
    int8_name,
    output_path,
    record_model,
    remove_model,
    require_free,
)

KIND = "tuned-files"
_FORMAT = 1
# In the cache of the run.
_CANDIDATE = Path("tune-candidate") / "int8.onnx"


@dataclass(frozen=True, kw_only=True)
class FinishedModel:
    """What a search says of the files of its best recipe, with the files.

    Attributes:
        fp32: the rewritten fp32 model for the compiler, None where there is none.
        files: the models, and the files of the target's vendor.
        coverage: layers and multiply-adds in int8.
        notes: on the int8 model, and of the vendor.
        fp32_change: see `quantkit.workflows.tune.Tuning`.
        rescaling_change: likewise.
    """

    fp32: Path | None
    files: tuple[Path, ...]
    coverage: Coverage
    notes: tuple[str, ...]
    fp32_change: float | None
    rescaling_change: float | None

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, with the digests of the files."""
        return {
            "fp32": None if self.fp32 is None else str(self.fp32),
            "files": {str(path): _digest(path) for path in self.files},
            "coverage": self.coverage.to_json(),
            "notes": [as_note(note).to_json() for note in self.notes],
            "fp32_change": self.fp32_change,
            "rescaling_change": self.rescaling_change,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "FinishedModel | None":
        """Return the finished model, None if one of its files is gone or another one now."""
        try:
            files = {Path(path): digest for path, digest in plain["files"].items()}
            if any(_digest(path) != digest for path, digest in files.items()):
                return None
            return cls(
                fp32=None if plain["fp32"] is None else Path(plain["fp32"]),
                files=tuple(files),
                coverage=Coverage.from_json(plain["coverage"]),
                notes=tuple(Note.from_json(note) for note in plain["notes"]),
                fp32_change=plain["fp32_change"],
                rescaling_change=plain["rescaling_change"],
            )
        except (KeyError, TypeError, ValueError, AttributeError, OSError, ModelError):
            return None


class TunedFiles:
    """The files of the best model so far, in the run folder or where the user wants them.

    Args:
        subject: what is tuned.
        out: path of the int8 model; in the run folder by default.
        write_fp32: path of the rewritten fp32 model for a compiler; in the run folder by default.

    Attributes:
        name: of the int8 model in the run.
        path: its file.
        fp32: the rewritten fp32 model for the compiler, None where there is none.
        vendor_files: the files of the target's vendor.
    """

    def __init__(self, subject: TuningTask, out: Path | None, write_fp32: Path | None) -> None:
        self._subject, self._write_fp32 = subject, write_fp32
        self._target = subject.builder.target
        folder, record = subject.run.folder, subject.run.record
        default = f"{int8_name(self._target)}-{TUNED}"
        self.name, self.path = output_path(folder, record, default, self._target, out)
        if write_fp32 is not None:
            require_free(folder, record, write_fp32, self.name, "--write-fp32")
        self.fp32: Path | None = None
        self.vendor_files = BackendFiles()
        self._written: Recipe | None = None

    @contextmanager
    def candidate(self, product: Product) -> Iterator[Path]:
        """Give a file with the int8 model of a recipe, which is removed after the block; the best one stays as it is.

        Raises:
            OutputError: it cannot be written.
        """
        path = self._subject.run.folder.cache.folder / _CANDIDATE
        make_folder(path.parent)
        try:
            self._subject.run.prepared.save(product.int8, path)
            yield path
        finally:
            remove_model(path)

    def write(self, recipe: Recipe, product: Product) -> None:
        """Write the models of a recipe and the vendor's files, unless they are there; enter them into ``run.json``.

        Raises:
            OutputError: a file cannot be written.
        """
        if recipe == self._written:
            return
        folder, save = self._subject.run.folder, self._subject.run.prepared.save
        save(product.int8, self.path)
        self.fp32 = None
        if self._target.compiler_calibrates and product.corrected_fp32 is not None:
            self.fp32 = self._write_fp32 or corrected_path(folder, self.name)
            save(product.corrected_fp32, self.fp32)
        options: dict[str, Any] = {"recipe": recipe.to_json()}
        if self._subject.builder.keep_outliers:
            options["keep_outliers"] = True
        inside = self.fp32 if self.fp32 is not None and self.fp32.parent == folder.path else None
        entry = {"target": self._target.name, "options": options, "fp32": None if inside is None else inside.name}
        record_model(folder, self.name, self.path, recipe.method, **entry)
        if (backend := backend_of(self._target, folder)) is not None:
            tuned = TunedModel(name=self.name, fp32=self.fp32, method=recipe.method, plan=product.plan)
            self.vendor_files = backend.after_tune(folder, tuned)
        self._written = recipe

    def finished(self, recipe: Recipe) -> FinishedModel | None:
        """Return what an earlier search kept of a recipe, None unless it is the run's model and all files are there."""
        made = self._subject.run.folder.read().quantized.get(self.name)
        if made is None or made.options.get("recipe") != recipe.to_json():
            return None
        entry = self._subject.run.folder.cache.load(self._key(recipe))
        return None if entry is None else FinishedModel.from_json(entry.values)

    def finish(self, recipe: Recipe, done: FinishedModel) -> None:
        """Keep what is known of the written files of a recipe.

        Raises:
            OutputError: it cannot be written.
        """
        self._subject.run.folder.cache.store(self._key(recipe), CacheEntry(done.to_json()))

    def _key(self, recipe: Recipe) -> CacheKey:
        places = {"path": str(self.path.resolve()), "fp32": None if self._write_fp32 is None else str(self._write_fp32)}
        return CacheKey(KIND, _FORMAT, {**self._subject.depends_on(), "recipe": recipe.to_json(), **places})


def _digest(path: Path) -> str:
    return model_digest(path) if path.suffix == ".onnx" else sha256_file(path)
