"""``quantkit plan``: how long a job takes, and in how much memory, from the rates of a few images."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from quantkit.config.arguments import AnyPath, as_path
from quantkit.config.pipeline import Pipeline
from quantkit.data.item import ImageItem
from quantkit.data.parallel import available_cpus
from quantkit.data.preprocess import preprocess
from quantkit.data.selection import DEFAULT_COUNT
from quantkit.data.sources.open import ImagesLike, open_source
from quantkit.engine.batches import Batching, Load
from quantkit.engine.classifier import ClassifierFile, read_classifier
from quantkit.engine.cluster.costs import DRIVER_IMAGE_S, DRIVER_PASS_JOB_S, JOB_S, START_S
from quantkit.engine.cluster.observe import JOB_IMAGES as PASS_IMAGES
from quantkit.engine.cluster.scores import JOB_IMAGES as SCORE_IMAGES
from quantkit.engine.device import CPU, Device
from quantkit.engine.inputs import check_arrays, used_pipeline
from quantkit.engine.observe import observe
from quantkit.engine.predict import Classifier, evaluate
from quantkit.engine.tap import TappedSession
from quantkit.errors import UsageError
from quantkit.graph.qdq.taps import observed_tensors
from quantkit.progress import Progress, ProgressCallback, as_progress
from quantkit.records import Records, plain_fields
from quantkit.types import Float32Array
from quantkit.workflows.presets import PresetSource, load_preset

Job = Literal["eval", "compare", "calibrate"]
# Measured for about so long, on so many images at least and at most.
_SECONDS = 6.0
_FEWEST, _MOST = 4, 64
# The load of a processor above which others wait for it.
_BUSY = 1.5
# Threads of a worker where a cluster's nodes are filled.
_NODE_THREADS = 4


@dataclass(frozen=True)
class JobEstimate:
    """How long a job takes in one place.

    Attributes:
        where: the place in words: ``here``, ``local:4``, ``8 nodes``.
        threads: images that are worked on at once.
        seconds: of the whole job, the start of a cluster included.
        images_per_s: once it runs.
        processes: that run models.
        process_mb: memory of each in MB, 0 where the system does not tell.

    Example:
        In the folder that ``quantkit demo`` makes:

        >>> import quantkit
        >>> plan = quantkit.plan_job("eval", ["mini_iresnet.onnx"], images="images/test", pipeline="digits", nodes=[2])
        >>> [one.where for one in plan.estimates]
        ['here', '2 nodes']
    """

    where: str
    threads: int
    seconds: float
    images_per_s: float
    processes: int
    process_mb: float


@dataclass(frozen=True)
class JobPlan(Records):
    """What a job costs, from the rates of a few images.

    Attributes:
        job: ``eval``, ``compare`` or ``calibrate``.
        images: that the job has.
        measured_images: that the rates are of.
        decode_s: seconds to read and preprocess one image, on one thread.
        run_s: seconds of each model for one image, on one thread of the CPU, or on the device.
        estimates: by place, this process first.
        device: what models were run on.
        notes: what makes the rates doubtful.

    Example:
        In the folder that ``quantkit demo`` makes:

        >>> import quantkit
        >>> plan = quantkit.plan_job("eval", ["mini_iresnet.onnx"], images="images/test", pipeline="digits")
        >>> plan.images, list(plan.run_s)
        (697, ['mini_iresnet'])
    """

    job: Job
    images: int
    measured_images: int
    decode_s: float
    run_s: dict[str, float]
    estimates: tuple[JobEstimate, ...]
    device: str
    notes: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each place."""
        return [
            {
                "where": one.where,
                "threads": one.threads,
                "hours": one.seconds / 3600.0,
                "images_per_s": one.images_per_s,
                "processes": one.processes,
                "process_mb": one.process_mb,
            }
            for one in self.estimates
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {**plain_fields(self), "estimates": self.rows()}


def plan_job(
    job: Job,
    models: Sequence[AnyPath],
    *,
    images: ImagesLike,
    pipeline: PresetSource | None = None,
    count: int | None = None,
    workers: Sequence[int] = (),
    nodes: Sequence[int] = (),
    node_threads: int | None = None,
    device: Device = CPU,
    threads: int | None = None,
    progress: Progress | None = None,
) -> JobPlan:
    """Measure a few images, and return how long a job takes and in how much memory, here and on clusters.

    The decoding of images and each model are measured by themselves on one thread, then all together on all threads.
    Workers and nodes are taken to have processors like those of this machine. What a cluster costs beside the work was
    measured once (`docs/cluster.md`).

    Args:
        job: ``eval``, ``compare`` or ``calibrate``, whose pass is meant.
        models: ONNX files; one for ``eval`` and ``calibrate``.
        images: a folder, an archive, a URL, arrays, ... (`quantkit.open_source`).
        pipeline: preprocessing: a pipeline, a preset's name, or a file; None for ready arrays.
        count: images of the job; absent, those of the place, and for ``calibrate`` at most 1,000 of them.
        workers: numbers of workers on this machine (``--cluster local:N``) to plan for.
        nodes: numbers of nodes to plan for.
        node_threads: processors of a node; absent, those of this machine.
        device: where the models run, and how many images at a time. A node has one such device.
        threads: workers of this process; as many as there are processors when absent.
        progress: receives the progress.

    Raises:
        UsageError: no such job, or a number of models that it does not take.
        ModelError: a model cannot be read or run.
        ConfigError: the pipeline does not fit a model.
        DeviceError: the device is not there, or does not run a model.
        CalibrationSetError: there are no images.
        ImageError: an image cannot be decoded.

    Example:
        In the folder that ``quantkit demo`` makes:

        >>> import quantkit
        >>> plan = quantkit.plan_job("calibrate", ["mini_iresnet.onnx"], images="images/test", pipeline="digits")
        >>> plan.estimates[0].seconds < 60.0
        True
    """
    paths = _checked(job, models, (*workers, *nodes, node_threads or 1))
    source = open_source(images, own_labels=False)
    pipeline = used_pipeline(None if pipeline is None else load_preset(pipeline), source.array_shape)
    files = [read_classifier(path, allow_quantized=job != "calibrate") for path in paths]
    for file in files:
        file.check(pipeline)
        check_arrays(source.array_shape, file.signature.image, source.root)
    device, threads = device.resolved(), threads or available_cpus()
    total = count or (min(DEFAULT_COUNT, len(source)) if job == "calibrate" else len(source))
    task = as_progress(progress).task("measuring", "steps")
    measurement = _Measurement(source.items, pipeline, device, threads, task)
    rates = measurement.of_pass(files[0]) if job == "calibrate" else measurement.of_scores(files)
    clusters = [_on_workers(number, threads) for number in workers]
    clusters += [_on_nodes(number, node_threads or threads, device) for number in nodes]
    here = JobEstimate("here", threads, total * rates.together_s, 1.0 / rates.together_s, 1, rates.memory_mb(threads))
    estimates = (here, *(_estimate(job, place, rates, total, threads, device) for place in clusters))
    names = [path.stem for path in paths]
    run_s = dict(zip(names, rates.run_s, strict=True))
    notes = _busy(available_cpus())
    return JobPlan(job, total, rates.images, rates.decode_s, run_s, estimates, device.describe(), notes)


def _busy(processors: int) -> tuple[str, ...]:
    """Return a note where other programs use the processors too."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load < _BUSY * processors:
        return ()
    return (f"the machine is busy (load {load:.0f} on {processors} processors), and the rates are those of now",)


def _checked(job: Job, models: Sequence[AnyPath], numbers: Sequence[int]) -> list[Path]:
    if job not in get_args(Job):
        raise UsageError(f"there is no plan for {job!r}", where="job", fix=f"choose one of {', '.join(get_args(Job))}")
    if isinstance(models, str) or not models:
        raise UsageError("takes a list of models", where="models", fix="give the ONNX files")
    if job != "compare" and len(models) > 1:
        raise UsageError(f"{job} takes one model, and {len(models)} were given", where="models", fix="plan one each")
    if any(number < 1 for number in numbers):
        raise UsageError(f"invalid number {min(numbers)}", where="--nodes, --workers", fix="give numbers from 1 up")
    paths = [as_path(model, "models") for model in models]
    if len({path.stem for path in paths}) < len(paths):
        raise UsageError("two models have one name", where="models", fix="give files of different names")
    return paths


@dataclass(frozen=True)
class _Rates:
    """What was measured.

    Attributes:
        images: how many.
        decode_s: one image, one thread.
        run_s: of each model, one image, one thread.
        together_s: one image on all threads, decoded and run.
        threads: how many those were.
        open_mb: memory with the models opened.
        peak_mb: at the end.
    """

    images: int
    decode_s: float
    run_s: tuple[float, ...]
    together_s: float
    threads: int
    open_mb: float
    peak_mb: float

    def memory_mb(self, threads: int) -> float:
        """Return the memory of a process with so many threads."""
        return self.open_mb + threads * (self.peak_mb - self.open_mb) / self.threads


@dataclass(frozen=True)
class _Place:
    """A cluster: how many workers of how many threads; each node has devices of its own."""

    where: str
    workers: int
    threads: int


def _on_workers(number: int, threads: int) -> _Place:
    return _Place(f"local:{number}", number, max(1, threads // number))


def _on_nodes(number: int, threads: int, device: Device) -> _Place:
    where = "1 node" if number == 1 else f"{number} nodes"
    if not device.is_cpu:
        return _Place(where, number, threads)
    each = min(_NODE_THREADS, threads)
    return _Place(where, number * (threads // each), each)


def _estimate(job: Job, place: _Place, rates: _Rates, count: int, threads: int, device: Device) -> JobEstimate:
    """Return how long a cluster takes: as long as its workers, or as its driver where that is longer."""
    slots = place.workers * place.threads
    is_local = place.where.startswith("local")
    # Workers of this machine share its processors; a device is fed by the threads that this process has here.
    used = min(slots, threads) if is_local else slots
    units = used / rates.threads if device.is_cpu or is_local else place.workers
    size = PASS_IMAGES if job == "calibrate" else SCORE_IMAGES
    size = max(1, min(size, count // slots))
    job_s = size * rates.together_s * rates.threads + JOB_S
    driver_s = DRIVER_PASS_JOB_S / size if job == "calibrate" else DRIVER_IMAGE_S * len(rates.run_s)
    image_s = max((rates.together_s + JOB_S / size / rates.threads) / units, driver_s)
    # Where the last jobs end at different times, workers wait for half of one on average.
    seconds = START_S + count * image_s + job_s / 2
    return JobEstimate(place.where, slots, seconds, 1.0 / image_s, place.workers, rates.memory_mb(place.threads))


@dataclass(frozen=True)
class _Measurement:
    """What rates are measured on and with."""

    items: Sequence[ImageItem]
    pipeline: Pipeline
    device: Device
    threads: int
    progress: ProgressCallback

    def of_scores(self, files: Sequence[ClassifierFile]) -> _Rates:
        models = [Classifier(file, self.device) for file in files]
        open_mb = _peak_mb()

        def run(model: Classifier, inputs: Sequence[Float32Array]) -> None:
            for start in range(0, len(inputs), model.device.batch):
                model.scores(np.stack(inputs[start : start + model.device.batch]))

        def together(some: Sequence[ImageItem]) -> None:
            for _ in evaluate(models, some, self.pipeline, threads=self.threads):
                pass

        return self._rates([partial(run, model) for model in models], together, open_mb)

    def of_pass(self, file: ClassifierFile) -> _Rates:
        prepared, fixed = file.prepared().model, file.signature.image.batch
        session = TappedSession(prepared, observed_tensors(prepared).tapped, device=self.device)
        open_mb = _peak_mb()

        def observed(some: Sequence[ImageItem], threads: int, load: Load) -> None:
            for _ in observe(session, some, load, Batching.of(fixed, self.device), threads=threads):
                pass

        def run(inputs: Sequence[Float32Array]) -> None:
            by_item = dict(zip(self.items, inputs, strict=False))
            observed(list(by_item), 1, by_item.__getitem__)

        together = partial(observed, threads=self.threads, load=partial(preprocess, pipeline=self.pipeline))
        return self._rates([run], together, open_mb)

    def _rates(
        self,
        runs: Sequence[Callable[[Sequence[Float32Array]], None]],
        together: Callable[[Sequence[ImageItem]], None],
        open_mb: float,
    ) -> _Rates:
        """Time decoding, each model, and all of it together, on as many images as fit a few seconds."""
        items, threads = self.items, self.threads

        def decode(some: Sequence[ImageItem]) -> list[Float32Array]:
            return [preprocess(item, self.pipeline) for item in some]

        def once(some: Sequence[ImageItem]) -> float:
            """Return the seconds of decoding and running some images."""
            start_s = time.perf_counter()
            inputs = decode(some)
            for run in runs:
                run(inputs)
            return time.perf_counter() - start_s

        once(items[:1])  # code is compiled and read for the first time
        few = _spread(items, max(_FEWEST, min(_MOST, int(_SECONDS / max(once(items[:1]), 1e-6)))))
        inputs = decode(few)
        many = [few[place % len(few)] for place in range(max(len(few), 4 * threads))]
        together(many[:threads])
        works: list[tuple[Callable[[], object], int]] = [(partial(decode, few), len(few))]
        works += [(partial(run, inputs), len(few)) for run in runs]
        works.append((partial(together, many), len(many)))
        seconds = list[float]()
        for work, count in works:
            start_s = time.perf_counter()
            work()
            seconds.append((time.perf_counter() - start_s) / count)
            self.progress(len(seconds), len(works))
        decode_s, *run_s, together_s = seconds
        return _Rates(len(few), decode_s, tuple(run_s), together_s, threads, open_mb, _peak_mb())


def _spread(items: Sequence[ImageItem], count: int) -> list[ImageItem]:
    """Return at most so many images, spread over all."""
    count = min(count, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def _peak_mb() -> float:
    """Return the largest memory that this process has had, in MB; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)
