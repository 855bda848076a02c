"""The cost of layers, measured by the workers of a cluster: each runs all models on a few images.

Images are spread and not layers, because what two layers share is run once, and where such a run is cut shows in the
roundings of the scores. Each image is run by itself, so that its scores are those of `layer_costs` to the bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quantkit.data.parallel import map_in_order
from quantkit.engine.batches import load_batch
from quantkit.engine.cluster.work import Engine, Fetch, ImageKey, SharedImages, SharedModel
from quantkit.graph.image_input import image_input
from quantkit.graph.qdq.plan import Layer
from quantkit.sensitivity.measure import EvaluatedNetwork, LayerScorer, NetworkCost, Quantization
from quantkit.types import Float32Array

# Images of a job: what it costs to write and open the models of every layer is shared among them.
_IMAGES = 8

LayerJob = tuple[ImageKey, ...]


@dataclass(frozen=True)
class LayerScores:
    """The scores of all models on a few images, float32 ``[images, classes]`` each.

    Attributes:
        layers: the integer layers, in graph order.
        conv_index: of 2-D convolutions, by node name.
        macs: multiply-adds for one image, by node name.
        reference: of fp32.
        int8: of the whole int8 model.
        by_layer: of each layer, with it alone in int8, and with all but it in int8.
    """

    layers: tuple[Layer, ...]
    conv_index: Mapping[str, int]
    macs: Mapping[str, int]
    reference: Float32Array
    int8: Float32Array
    by_layer: tuple[tuple[Float32Array, Float32Array], ...]


@dataclass(frozen=True)
class LayerWork:
    """Run the models of all layers on images.

    Attributes:
        model: the fp32 model, which workers prepare themselves.
        images: where the images are.
        quantization: how the model is quantized.
    """

    model: SharedModel
    images: SharedImages
    quantization: Quantization

    @property
    def runs_jobs_together(self) -> bool:
        """A job uses all threads of a worker, for different images."""
        return False

    def open(self, fetch: Fetch, threads: int) -> Callable[[LayerJob], LayerScores]:
        """Prepare the model; see `quantkit.engine.cluster.work.Work`."""
        find = self.images.open()
        prepared = self.model.read(fetch, lambda file: file.prepared().model)
        batch = image_input(prepared).batch or 1

        def run(job: LayerJob) -> LayerScores:
            items = [find(key) for key in job]
            inputs = map_in_order(lambda item: load_batch([item], self.images.load, batch), items, threads)
            scorer = LayerScorer(prepared, self.quantization, list(inputs), threads=threads)
            by_layer = tuple(scorer.scores(layer) for layer in scorer.layers)
            return LayerScores(scorer.layers, scorer.conv_index, scorer.macs, scorer.reference, scorer.int8, by_layer)

        return run


def layer_costs_on_cluster(
    engine: Engine,
    work: LayerWork,
    lots: Sequence[Sequence[ImageKey]],
    progress: Callable[[int, int], None],
) -> Iterator[NetworkCost]:
    """Yield what `quantkit.sensitivity.measure.layer_costs` returns for each lot of images, measured by workers.

    Args:
        engine: the cluster.
        work: what to measure.
        lots: ids and digests of the images.
        progress: called with the number of images done and of all images.

    Raises:
        ClusterError: the cluster is not there, or its workers cannot do the work.
        ImageError: an image cannot be decoded, or is another one at a worker.
        NumericError: scores are NaN or infinite.
    """
    total, done = sum(map(len, lots)), 0
    size = max(1, min(_IMAGES, total // engine.workers))
    parts = [[tuple(lot[start : start + size]) for start in range(0, len(lot), size)] for lot in lots]
    found = engine.map(work, [job for jobs in parts for job in jobs])
    for jobs in parts:
        scores = []
        for job in jobs:
            scores.append(next(found))
            done += len(job)
            progress(done, total)
        yield _joined(scores)


def _joined(parts: Sequence[LayerScores]) -> NetworkCost:
    first = parts[0]
    reference, int8 = (np.concatenate([getattr(part, name) for part in parts]) for name in ("reference", "int8"))
    network = EvaluatedNetwork(first.conv_index, first.macs, reference, int8)
    columns = zip(*(part.by_layer for part in parts), strict=True)
    layers = [
        network.layer(layer, *(np.concatenate(scores) for scores in zip(*column, strict=True)))
        for layer, column in zip(first.layers, columns, strict=True)
    ]
    return network.cost(layers)
