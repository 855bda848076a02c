"""Results of a card as a candidate of a comparison."""

from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from quantkit.config.pipeline import Pipeline
from quantkit.data.source import ImageSource
from quantkit.errors import UsageError, VendorFileError
from quantkit.vendors.vacc.results import pair_outputs, read_scores
from quantkit.workflows.presets import load_preset

# Preset file in the folder of the datalist: the preprocessing that the card's inputs were written for.
PREPROCESSING = "preprocessing.yaml"


def other_preprocessing(datalist: Path, pipeline: Pipeline) -> str | None:
    """Return a warning if the inputs of a datalist were written for other preprocessing than a pipeline.

    Raises:
        ConfigError: the preset file is damaged.
    """
    path = datalist.parent / PREPROCESSING
    if not path.is_file() or load_preset(path) == pipeline:
        return None
    return f"the card's inputs were written for other preprocessing ({path}) than the models are evaluated with here"


class DeviceResults:
    """Scores of a card, by image.

    Args:
        name: as the user calls them.
        results: folder of output files.
        datalist: the datalist of the card's run.

    Raises:
        VendorFileError: outputs and datalist do not match.

    Example:
        With the results of the card in ``card``, and the list of its inputs:

        >>> import quantkit
        >>> models = ["fp32", "card=card"]
        >>> done = quantkit.compare(models, run="run", datalist="npz_datalist.txt")  # doctest: +SKIP
    """

    def __init__(self, name: str, results: Path, datalist: Path) -> None:
        self.name, self.path = name, results
        self._outputs = {output.name: output for output in pair_outputs(results, datalist)}
        # File names alone identify images only if they are unique: 0.png may be in any class folder.
        counts = Counter(PurePosixPath(name).name for name in self._outputs)
        files = {PurePosixPath(name).name: name for name in self._outputs}
        self._by_file = {file: name for file, name in files.items() if counts[file] == 1}

    def check(self, found: ImageSource) -> None:
        """Check that every image has a result.

        Raises:
            VendorFileError: images have no result; the message has their number and names one.
        """
        missing = [name for name in found.names if self._name(name) is None]
        if missing:
            raise VendorFileError(
                f"the card has no result for {len(missing)} of {len(found.names)} images ({missing[0]}, ...)",
                where=self.path,
                fix="compare on the images of its datalist, with --images",
            )

    def scores(self, image: str) -> npt.NDArray[np.float32]:
        """Return the scores ``[1, classes]`` of one image."""
        name = self._name(image)
        assert name is not None
        return read_scores(self._outputs[name])[None]

    def _name(self, image: str) -> str | None:
        path = PurePosixPath(image).with_suffix("")
        in_class = str(PurePosixPath(*path.parts[-2:]))
        return in_class if in_class in self._outputs else self._by_file.get(path.name)


def card_answers(name: str, folder: Path, datalist: Path | None) -> DeviceResults:
    """Return the results of ``NAME=DIR``.

    Raises:
        UsageError: there is no such folder, or no datalist is given.
        VendorFileError: outputs and datalist do not match.
    """
    if not folder.is_dir():
        raise UsageError("there is no such model file or folder of results", where=f"{name}={folder}")
    if datalist is None:
        raise UsageError(f"{name}={folder} are results of a card", fix="give the --datalist of its run")
    return DeviceResults(name, folder, datalist)
