"""The files of a tuned model."""

from pathlib import Path
from typing import Any

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
    require_free,
)


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
