"""Results that came back from a card, as one more model of a comparison."""

from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from quantkit.data.source import ImageSource
from quantkit.errors import UsageError, VendorFileError
from quantkit.vendors.vacc.results import pair_outputs, read_scores


class DeviceResults:
    """The scores a card gave, by image.

    Args:
        results: folder of output files.
        datalist: the list that the card was run on.

    Raises:
        VendorFileError: outputs and list do not fit each other.
    """

    def __init__(self, results: Path, datalist: Path) -> None:
        self.path = results
        self._outputs = {output.name: output for output in pair_outputs(results, datalist)}
        self._by_file: dict[str, str] = {}
        for name in self._outputs:
            self._by_file.setdefault(PurePosixPath(name).name, name)

    def check(self, found: ImageSource) -> None:
        """See that every image has an answer.

        Raises:
            VendorFileError: some have none; says how many and names one.
        """
        missing = [name for name in found.names if self._name(name) is None]
        if missing:
            raise VendorFileError(
                f"the card has no answer to {len(missing)} of {len(found.names)} images ({missing[0]}, ...)",
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


def parse_card(model: str, datalist: Path | None) -> tuple[str, DeviceResults] | None:
    """Return the name and the answers of ``NAME=DIR``, or None where a model is no such thing.

    Raises:
        UsageError: there is no datalist to read them with.
        VendorFileError: outputs and list do not fit each other.
    """
    name, sign, folder = model.partition("=")
    if not sign:
        return None
    if datalist is None:
        raise UsageError(f"{model} are results of a card", fix="give the --datalist that it was run on")
    return name, DeviceResults(Path(folder), datalist)
