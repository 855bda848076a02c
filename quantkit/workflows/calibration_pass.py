"""The observation pass of a calibration: checkpoint, convergence and statistics."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnxruntime

from quantkit import __version__
from quantkit.config.method import (
    Auto,
    Method,
    MinMax,
    Percentile,
    method_json,
    method_name,
)
from quantkit.engine.batches import Batching, Load
from quantkit.engine.cluster.observe import PassWork, observe_on_cluster
from quantkit.engine.cluster.work import share_images, share_model
from quantkit.engine.observe import Chunk, complete, observe
from quantkit.engine.placement import DevicePlacement
from quantkit.engine.tap import TappedSession
from quantkit.errors import StatisticsError
from quantkit.files import sha256_json
from quantkit.numerics import Range
from quantkit.progress import ProgressCallback, resumed_task
from quantkit.runs.folder import RunFolder
from quantkit.stats.convergence import ConvergencePoint, movement
from quantkit.stats.file import Provenance, Statistics, load_statistics, save_statistics, sorted_images
from quantkit.stats.observed import Observed
from quantkit.stats.solve import solve_observed
from quantkit.targets import Target
from quantkit.workflows.calibration_inputs import CalibrationInputs
from quantkit.workflows.execution import Execution


class CalibrationPass:
    """One pass over a set: its checkpoint and its results.

    Attributes:
        placement: execution providers of the model; None before the pass.
        resumed: number of images of an interrupted pass that is resumed.
    """

    def __init__(
        self,
        inputs: CalibrationInputs,
        folder: RunFolder,
        method: Method | Auto,
        target: Target,
        execution: Execution,
        load: Load,
        *,
        keep_outliers: bool,
    ) -> None:
        self._subject, self._chosen, self._pipeline, self._folder = inputs.model, inputs.set, inputs.pipeline, folder
        self._images, self._target, self._keep_outliers = inputs.images, target, keep_outliers
        self._execution, self._progress, self._load_image = execution, execution.progress, load
        self.placement: DevicePlacement | None = None
        self.resumed = 0
        # Convergence is tracked for the method in use, and for the two that are cheap to solve.
        watched = Percentile() if isinstance(method, Auto) else method  # which one it will be is not known yet
        self._methods: dict[str, Method] = {"minmax": MinMax(), "percentile": Percentile()}
        self._methods[method_name(watched)] = watched
        self._wanted = method_name(watched)
        # What the ranges of each method depend on besides the statistics.
        self._solved_for = {
            name: sha256_json([method_json(one), asdict(target), keep_outliers]) for name, one in self._methods.items()
        }
        self._ranges: dict[str, dict[str, Range]] = {}
        self._points: list[ConvergencePoint] = []
        self._provenance = Provenance(
            model_sha256=self._subject.record.key,
            pipeline_sha256=sha256_json(self._pipeline.model_dump(mode="json")),
            quantkit=__version__,
            onnxruntime=onnxruntime.__version__,
            device=execution.device.describe(),
        )

    def finished(self, until_stable: float | None) -> Statistics | None:
        """Return the statistics of the run folder if this pass would compute the same, else None."""
        loaded = self._load(self._folder.statistics)
        if loaded is None or loaded.tensors.keys() != set(self._subject.observed.wanted):
            return None
        points = [point.only(self._tracked_alike(loaded)) for point in loaded.convergence]
        whole = len(loaded.images) == len(self._chosen)
        return loaded if whole or self._is_stable(points, len(loaded.images), until_stable) else None

    def run(self, until_stable: float | None, fresh: bool) -> Statistics:
        """Observe all images, or stop when the ranges are stable."""
        begun = None if fresh else self._load(self._folder.partial)
        if begun is not None:
            self._resume(begun)
        count = resumed_task(
            self._progress,
            "calibrating",
            "images",
            done=self.resumed,
            total=len(self._chosen),
            source=self._folder.partial,
        )
        chunks = self._chunks(None if begun is None else self._tapped(begun), count)
        statistics = begun
        for chunk in chunks:
            statistics = self._take(chunk)
            if self._is_stable(self._points, chunk.images, until_stable):
                break
            if chunk.images < len(self._chosen):
                checkpoint = {"ranges": _ranges_to_json(self._ranges), "solved_for": self._solved_for}
                save_statistics(replace(statistics, checkpoint=checkpoint), self._folder.partial)
        assert statistics is not None
        statistics = replace(statistics, checkpoint={"solved_for": self._solved_for})
        save_statistics(statistics, self._folder.statistics)
        self._folder.partial.unlink(missing_ok=True)
        return statistics

    def _resume(self, begun: Statistics) -> None:
        """Take over the convergence so far of the methods that were tracked with the same options."""
        same = self._tracked_alike(begun)
        ranges = _ranges_from_json(begun.checkpoint.get("ranges", {}))
        self._ranges = {name: solved for name, solved in ranges.items() if name in same}
        self._points = [point.only(same) for point in begun.convergence]
        self.resumed = len(begun.images)

    def _tracked_alike(self, statistics: Statistics) -> set[str]:
        """Return the methods whose convergence was tracked with the same options, target and outliers as now."""
        before = statistics.checkpoint.get("solved_for", {})
        return {name for name, solved_for in self._solved_for.items() if before.get(name) == solved_for}

    def _chunks(self, begun: Observed | None, count: ProgressCallback) -> Iterator[Chunk]:
        """Observe the images that are left, here or on the workers of a cluster."""
        tapped, file, device = self._subject.observed.tapped, self._subject.file, self._execution.device
        batching = Batching.of(file.signature.image.batch, device)
        images, total = self._chosen.items, len(self._chosen)
        if self._execution.engine is not None:
            shared = share_images(self._images, self._pipeline)
            model = share_model(self._execution.engine, file.path, file.signature)
            work = PassWork(model, tuple(tapped), shared, device, batching)
            keys = [(image.name, image.sha256) for image in self._chosen.images]
            return observe_on_cluster(
                self._execution.engine, work, keys, before=begun, progress=lambda done: count(done, total)
            )
        session = TappedSession(self._subject.prepared.model, tapped, device=device)
        self.placement = session.placement
        return observe(
            session,
            images,
            self._load_image,
            batching,
            threads=self._execution.threads,
            before=begun,
            progress=lambda done: count(done, total),
        )

    def _take(self, chunk: Chunk) -> Statistics:
        observed = complete(chunk.observed(), self._subject.observed)
        if chunk.at_convergence_point:
            ranges = self._solve(observed)
            if self._ranges or self._points:
                moved = {name: movement(self._ranges[name], ranges[name]) for name in ranges if name in self._ranges}
                point = ConvergencePoint(
                    chunk.images,
                    {name: share for name, (share, _) in moved.items()},
                    {name: tensor for name, (_, tensor) in moved.items()},
                )
                self._points.append(point)
                if moved:
                    self._progress.message(_movement_text(point))
            self._ranges = ranges
        images, extremes = sorted_images(self._digests(chunk.images), observed.extremes)
        return Statistics(observed.tensors, extremes, self._provenance, images, convergence=list(self._points))

    def _tapped(self, begun: Statistics) -> Observed:
        """Return the observations of the tapped tensors, with the images in the order of the pass."""
        tapped, names = self._subject.observed.tapped, list(begun.tensors)
        rows = np.argsort(np.argsort(self._digests(len(begun.images))))
        columns = [names.index(name) for name in tapped]
        return Observed({name: begun.tensors[name] for name in tapped}, begun.extremes[rows][:, columns])

    def _digests(self, images: int) -> list[str]:
        return [str(image.sha256) for image in self._chosen.images[:images]]

    def _solve(self, observed: Observed) -> dict[str, dict[str, Range]]:
        return {
            name: solve_observed(observed, method, self._target, keep_outliers=self._keep_outliers)
            for name, method in self._methods.items()
        }

    def _is_stable(self, points: Sequence[ConvergencePoint], images: int, until_stable: float | None) -> bool:
        """Return whether the ranges of the method hardly moved up to the last of so many images."""
        if until_stable is None or not points or points[-1].images != images:
            return False
        return 100.0 * points[-1].movement.get(self._wanted, math.inf) <= until_stable

    def _load(self, path: Path) -> Statistics | None:
        """Return the statistics of a file, if they are a checkpoint of this pass."""
        try:
            loaded = load_statistics(path)
        except StatisticsError:
            return None
        beginning = sorted(self._digests(len(loaded.images)))
        return loaded if loaded.provenance == self._provenance and list(loaded.images) == beginning else None


def _ranges_to_json(ranges: dict[str, dict[str, Range]]) -> dict[str, dict[str, list[float]]]:
    """Return the ranges of the last convergence point, from which an interrupted pass resumes."""
    return {method: {name: [one.lo, one.hi] for name, one in solved.items()} for method, solved in ranges.items()}


def _ranges_from_json(value: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, Range]]:
    return {method: {name: Range(*ends) for name, ends in solved.items()} for method, solved in value.items()}


def _movement_text(point: ConvergencePoint) -> str:
    moved = ", ".join(f"{name} {share:.2%}" for name, share in point.movement.items())
    return f"largest change of a range since the last check at {point.images} images: {moved}"
