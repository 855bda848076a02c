"""Simulates the int8 model that the card's compiler is expected to build from a run.

This is a model of the compiler (`quantkit.targets.VACC`), as far as its arithmetic is known: no bias correction, and
only options that its build files can express.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from quantkit.graph.qdq.plan import Plan, plan
from quantkit.graph.qdq.write import write_qdq
from quantkit.numerics import Range
from quantkit.runs.folder import RunFolder
from quantkit.runs.inputs import CalibratedRun, calibrated
from quantkit.stats.solve import solve_observed
from quantkit.workflows.vacc.build_file import CompilerOptions

MODEL_OF_THE_COMPILER = (
    "a model of the compiler: Relay's published quantizer with per-channel weights; nothing here ran on a card"
)


@dataclass(frozen=True)
class CompilerSimulator:
    """Writes the simulated int8 model of a run, without another pass over the images.

    Attributes:
        run: the run.
    """

    run: CalibratedRun

    @classmethod
    def of_run(cls, run: Path) -> "CompilerSimulator":
        """Read a run; see `calibrated` for the errors."""
        folder = RunFolder(run)
        return cls(calibrated(folder, folder.read()))

    def plan(self, choices: CompilerOptions) -> Plan:
        """Return the plan of the int8 model.

        Raises:
            UsageError: a layer to skip does not exist.
            ModelError: nothing is left to quantize.
        """
        return plan(self.run.prepared.model, choices.target, choices.left_out)

    def model(self, choices: CompilerOptions) -> ir.Model:
        """Return the int8 model; see `plan` for the errors."""
        made = self.plan(choices)
        return write_qdq(self.run.prepared.model, made, self.ranges(choices, needed=made.observed))

    def ranges(self, choices: CompilerOptions, *, needed: Iterable[str] | None = None) -> dict[str, Range]:
        """Return the ranges of the needed tensors, by default of all that were observed."""
        keep = choices.keep_outliers
        return solve_observed(self.run.statistics, choices.method, choices.target, keep_outliers=keep, needed=needed)

    def write(self, choices: CompilerOptions, path: Path) -> Path:
        """Write the int8 model and return its path; see `plan` for the errors."""
        self.run.prepared.save(self.model(choices), path)
        return path
