"""The pass over a calibration set, done by the workers of a cluster.

Each job is a stretch of the images. Its counts are integers that add up exactly, and stretches end where ranges are
compared, so the statistics, and the points of convergence, are the same bits as those of `quantkit.engine.observe`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from quantkit.engine.batches import Batching
from quantkit.engine.classifier import ClassifierFile
from quantkit.engine.cluster.work import Engine, Fetch, ImageKey, SharedImages, SharedModel
from quantkit.engine.device import Device
from quantkit.engine.observe import CHUNK_SECONDS, Chunk, ImageObserver, begin
from quantkit.engine.tap import TappedSession
from quantkit.stats.convergence import next_point
from quantkit.stats.observed import Observed

# Images of a job. A job's histograms take megabytes, however many images it has, and take the driver milliseconds.
JOB_IMAGES = 64
# Of few images each thread of a worker gets a few jobs, so that none waits long for the last.
_JOBS_EACH = 3

PassJob = tuple[ImageKey, ...]


@dataclass(frozen=True)
class PassWork:
    """Observe the tensors of a model on images.

    Attributes:
        model: the fp32 model, which workers prepare themselves.
        tensors: names of the tensors to observe.
        images: the images.
        device: where the model runs.
        batching: how images run together.
    """

    model: SharedModel
    tensors: tuple[str, ...]
    images: SharedImages
    device: Device
    batching: Batching

    @property
    def runs_jobs_together(self) -> bool:
        """Each thread observes images of its own."""
        return True

    def open(self, fetch: Fetch, threads: int) -> Callable[[PassJob], Observed]:
        """Open the model with its taps and find the images; see `quantkit.engine.cluster.work.Work`."""
        device, find = self.device.resolved(), self.images.open()

        def tapped(file: ClassifierFile) -> TappedSession:
            return TappedSession(file.prepared().model, self.tensors, device=device)

        session, idle = self.model.read(fetch, tapped), SimpleQueue[ImageObserver]()

        def run(job: PassJob) -> Observed:
            try:
                observer = idle.get_nowait()
            except Empty:
                observer = ImageObserver(session, self.images.load, self.batching)
            found = observer.observed([find(key) for key in job])
            idle.put(observer)  # not after an error, which leaves it half full
            return found

        return run


def observe_on_cluster(
    engine: Engine,
    work: PassWork,
    images: Sequence[ImageKey],
    *,
    before: Observed | None,
    progress: Callable[[int], None],
) -> Iterator[Chunk]:
    """Observe images on workers and yield the statistics so far, chunk by chunk, until all are seen.

    Args:
        engine: the cluster.
        work: what to observe.
        images: id and digest of each.
        before: what the first images gave, from an interrupted pass.
        progress: called with the number of images seen.

    Raises:
        ClusterError: the cluster is not there, or its workers cannot do the work.
        ImageError: an image cannot be decoded, or is another one at a worker.
        NumericError: a tensor holds NaN or infinity; names tensor and image.
    """
    totals, extremes, done = begin(work.tensors, len(images), before)
    spans = list(_spans(done, len(images), engine.slots, work.batching.size))
    jobs = (tuple(images[start:end]) for start, end in spans)
    yielded_s = time.monotonic()
    for (start, end), found in zip(spans, engine.map(work, jobs), strict=True):
        extremes[start:end] = found.extremes
        for name, statistics in found.tensors.items():
            totals[name].add(statistics)
        progress(end)
        at_point = end == next_point(start) or end == len(images)
        if at_point or time.monotonic() - yielded_s >= CHUNK_SECONDS:
            yield Chunk(end, at_point, totals, extremes[:end])
            yielded_s = time.monotonic()


def _spans(done: int, count: int, slots: int, batch: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of the images that are left, none of which goes beyond a point of convergence."""
    size = min(JOB_IMAGES, -(-(count - done) // (_JOBS_EACH * slots)))
    size = max(1, -(-size // batch)) * batch
    while done < count:
        end = min(done + size, next_point(done), count)
        yield done, end
        done = end
