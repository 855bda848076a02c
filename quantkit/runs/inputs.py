"""What steps read of a run before they work on it: network, statistics, and images as the network takes them."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.config.pipeline import Pipeline
from quantkit.data.item import ImageItem
from quantkit.data.parallel import map_in_order
from quantkit.data.preprocess import preprocess
from quantkit.engine.observe import load_batch
from quantkit.errors import ProvenanceError
from quantkit.graph.model import image_input, read_model
from quantkit.graph.prepare import Prepared, prepare
from quantkit.runs.folder import RunFolder, RunRecord
from quantkit.stats.file import Statistics, load_statistics


def calibrated(folder: RunFolder, record: RunRecord) -> tuple[Prepared, Statistics]:
    """Return the prepared fp32 model of a run and the statistics of its tensors.

    Raises:
        ModelError: the model is gone or cannot be read.
        ProvenanceError: model or statistics are not those the run was made with.
        StatisticsError: the statistics are damaged.
    """
    prepared = prepare(read_model(folder.fp32(record)))
    statistics, _ = load_statistics(folder.statistics)
    if statistics.provenance.model_sha256 != record.model.sha256:
        raise ProvenanceError(
            "the statistics are of another model than the run",
            where=folder.statistics,
            fix="run quantkit calibrate again",
        )
    return prepared, statistics


def model_inputs(
    model: ir.Model, images: Sequence[ImageItem], pipeline: Pipeline, threads: int
) -> list[npt.NDArray[np.float32]]:
    """Return each image as ``[N, C, H, W]`` float32, repeated to fill the batch of a model whose batch is fixed.

    Raises:
        ImageError: an image cannot be decoded.
    """
    load, batch = partial(preprocess, pipeline=pipeline), image_input(model).batch or 1
    return list(map_in_order(lambda image: load_batch([image], load, batch), images, threads))
