"""Post-training int8 quantization for ONNX image classifiers, with measured accuracy loss.

The commands of the command line are functions of the same names (`evaluate` is ``quantkit eval``). They accept paths as
strings or path-like objects, and methods, targets and presets as names or values. Percentages are from 0 to 100.
Names are imported on first use, so importing the package is fast.

Example:
    In the folder written by ``quantkit demo``:

    >>> import quantkit
    >>> done = quantkit.calibrate("mini_iresnet.onnx", "calibration.csv", "digits", run="run", method="mse")
    >>> str(done.coverage)
    'int8: 28 of 28 layers, 100 % of multiply-adds'
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantkit import plots as plots
    from quantkit.config.choices import Stage as Stage
    from quantkit.config.method import Auto as Auto
    from quantkit.config.method import Kl as Kl
    from quantkit.config.method import Method as Method
    from quantkit.config.method import MinMax as MinMax
    from quantkit.config.method import Mse as Mse
    from quantkit.config.method import Percentile as Percentile
    from quantkit.config.pipeline import PRESETS as PRESETS
    from quantkit.config.pipeline import CenterCrop as CenterCrop
    from quantkit.config.pipeline import Decode as Decode
    from quantkit.config.pipeline import EvenSides as EvenSides
    from quantkit.config.pipeline import Normalize as Normalize
    from quantkit.config.pipeline import Pad as Pad
    from quantkit.config.pipeline import Pipeline as Pipeline
    from quantkit.config.pipeline import Resize as Resize
    from quantkit.config.pipeline import ToTensor as ToTensor
    from quantkit.config.pipeline import imagenet_pipeline as imagenet_pipeline
    from quantkit.data.build_set import build_calibration_set as build_calibration_set
    from quantkit.data.calibration_set import CalibrationImage as CalibrationImage
    from quantkit.data.calibration_set import CalibrationSet as CalibrationSet
    from quantkit.data.folder import find_images as find_images
    from quantkit.data.folder import find_labelled_images as find_labelled_images
    from quantkit.data.item import ImageItem as ImageItem
    from quantkit.data.preprocess import preprocess as preprocess
    from quantkit.data.source import ImageSource as ImageSource
    from quantkit.data.sources.open import open_source as open_source
    from quantkit.demo.chain import Demo as Demo
    from quantkit.demo.chain import run_demo as run_demo
    from quantkit.engine.device import Device as Device
    from quantkit.engine.placement import DevicePlacement as DevicePlacement
    from quantkit.errors import QuantkitError as QuantkitError
    from quantkit.evaluation.gate import Gate as Gate
    from quantkit.evaluation.gate import GateMode as GateMode
    from quantkit.evaluation.gate import GateVerdict as GateVerdict
    from quantkit.evaluation.gate import parse_gate as parse_gate
    from quantkit.evaluation.paired import Interval as Interval
    from quantkit.evaluation.result import Comparison as Comparison
    from quantkit.evaluation.result import ModelResult as ModelResult
    from quantkit.export.result import Exported as Exported
    from quantkit.export.result import Parity as Parity
    from quantkit.graph.coverage import Coverage as Coverage
    from quantkit.graph.coverage import FloatLayer as FloatLayer
    from quantkit.numerics import Range as Range
    from quantkit.progress import NoProgress as NoProgress
    from quantkit.progress import Progress as Progress
    from quantkit.runs.folder import RunRecord as RunRecord
    from quantkit.runs.location import relink as relink
    from quantkit.search.budget import FloatBudget as FloatBudget
    from quantkit.search.method_selection import MethodResult as MethodResult
    from quantkit.search.method_selection import MethodSelection as MethodSelection
    from quantkit.search.stages import Goal as Goal
    from quantkit.search.stages import Trial as Trial
    from quantkit.search.stages import Verdict as Verdict
    from quantkit.sensitivity.result import LayerSensitivity as LayerSensitivity
    from quantkit.sensitivity.result import Sensitivity as Sensitivity
    from quantkit.stats.bins import signed_edges as signed_edges
    from quantkit.stats.file import Statistics as Statistics
    from quantkit.stats.file import load_statistics as load_statistics
    from quantkit.stats.observed import Observed as Observed
    from quantkit.stats.solve import solve_all as solve_all
    from quantkit.stats.tensor import TensorStatistics as TensorStatistics
    from quantkit.targets import ORT as ORT
    from quantkit.targets import TENSORRT as TENSORRT
    from quantkit.targets import VACC as VACC
    from quantkit.targets import Target as Target
    from quantkit.workflows.backends import Backend as Backend
    from quantkit.workflows.calibrate import Calibration as Calibration
    from quantkit.workflows.calibrate import calibrate as calibrate
    from quantkit.workflows.compare import ModelComparison as ModelComparison
    from quantkit.workflows.compare import compare as compare
    from quantkit.workflows.compared_models import ComparedModel as ComparedModel
    from quantkit.workflows.evaluate import Accuracy as Accuracy
    from quantkit.workflows.evaluate import ModelEvaluation as ModelEvaluation
    from quantkit.workflows.evaluate import evaluate as evaluate
    from quantkit.workflows.export import export as export
    from quantkit.workflows.guess_preprocessing import guess_preprocessing as guess_preprocessing
    from quantkit.workflows.inspect import inspect as inspect
    from quantkit.workflows.model_summary import ModelSummary as ModelSummary
    from quantkit.workflows.plan import JobEstimate as JobEstimate
    from quantkit.workflows.plan import JobPlan as JobPlan
    from quantkit.workflows.plan import plan_job as plan_job
    from quantkit.workflows.preprocessing_guess import PreprocessingGuess as PreprocessingGuess
    from quantkit.workflows.preprocessing_guess import TriedPreprocessing as TriedPreprocessing
    from quantkit.workflows.presets import load_preset as load_preset
    from quantkit.workflows.quantize import Quantized as Quantized
    from quantkit.workflows.quantize import quantize as quantize
    from quantkit.workflows.quantize_task import QuantizeOptions as QuantizeOptions
    from quantkit.workflows.report import report as report
    from quantkit.workflows.sensitivity import sensitivity as sensitivity
    from quantkit.workflows.tune import TuneOptions as TuneOptions
    from quantkit.workflows.tune import Tuning as Tuning
    from quantkit.workflows.tune import tune as tune
    from quantkit.workflows.vacc.backend import VaccBackend as VaccBackend
    from quantkit.workflows.vacc.build_file import VamcOptions as VamcOptions
    from quantkit.workflows.vacc.device_results import DeviceResults as DeviceResults

__version__ = "0.1.0"

_MODULE_OF = {
    "Accuracy": "quantkit.workflows.evaluate",
    "Auto": "quantkit.config.method",
    "Calibration": "quantkit.workflows.calibrate",
    "Backend": "quantkit.workflows.backends",
    "CalibrationImage": "quantkit.data.calibration_set",
    "CalibrationSet": "quantkit.data.calibration_set",
    "CenterCrop": "quantkit.config.pipeline",
    "ComparedModel": "quantkit.workflows.compared_models",
    "Comparison": "quantkit.evaluation.result",
    "Coverage": "quantkit.graph.coverage",
    "Decode": "quantkit.config.pipeline",
    "Demo": "quantkit.demo.chain",
    "ModelComparison": "quantkit.workflows.compare",
    "EvenSides": "quantkit.config.pipeline",
    "Exported": "quantkit.export.result",
    "FloatBudget": "quantkit.search.budget",
    "Gate": "quantkit.evaluation.gate",
    "GateMode": "quantkit.evaluation.gate",
    "GateVerdict": "quantkit.evaluation.gate",
    "parse_gate": "quantkit.evaluation.gate",
    "FloatLayer": "quantkit.graph.coverage",
    "Goal": "quantkit.search.stages",
    "Device": "quantkit.engine.device",
    "DevicePlacement": "quantkit.engine.placement",
    "ImageItem": "quantkit.data.item",
    "ImageSource": "quantkit.data.source",
    "Interval": "quantkit.evaluation.paired",
    "JobEstimate": "quantkit.workflows.plan",
    "JobPlan": "quantkit.workflows.plan",
    "Kl": "quantkit.config.method",
    "LayerSensitivity": "quantkit.sensitivity.result",
    "Method": "quantkit.config.method",
    "MinMax": "quantkit.config.method",
    "ModelEvaluation": "quantkit.workflows.evaluate",
    "ModelResult": "quantkit.evaluation.result",
    "ModelSummary": "quantkit.workflows.model_summary",
    "MethodResult": "quantkit.search.method_selection",
    "MethodSelection": "quantkit.search.method_selection",
    "Mse": "quantkit.config.method",
    "NoProgress": "quantkit.progress",
    "Normalize": "quantkit.config.pipeline",
    "ORT": "quantkit.targets",
    "PRESETS": "quantkit.config.pipeline",
    "Observed": "quantkit.stats.observed",
    "Pad": "quantkit.config.pipeline",
    "Parity": "quantkit.export.result",
    "Percentile": "quantkit.config.method",
    "Pipeline": "quantkit.config.pipeline",
    "PreprocessingGuess": "quantkit.workflows.preprocessing_guess",
    "Progress": "quantkit.progress",
    "QuantizeOptions": "quantkit.workflows.quantize_task",
    "Quantized": "quantkit.workflows.quantize",
    "QuantkitError": "quantkit.errors",
    "Range": "quantkit.numerics",
    "Resize": "quantkit.config.pipeline",
    "RunRecord": "quantkit.runs.folder",
    "Sensitivity": "quantkit.sensitivity.result",
    "Stage": "quantkit.config.choices",
    "Statistics": "quantkit.stats.file",
    "TENSORRT": "quantkit.targets",
    "Target": "quantkit.targets",
    "ToTensor": "quantkit.config.pipeline",
    "TensorStatistics": "quantkit.stats.tensor",
    "Trial": "quantkit.search.stages",
    "TriedPreprocessing": "quantkit.workflows.preprocessing_guess",
    "TuneOptions": "quantkit.workflows.tune",
    "Tuning": "quantkit.workflows.tune",
    "VACC": "quantkit.targets",
    "VaccBackend": "quantkit.workflows.vacc.backend",
    "VamcOptions": "quantkit.workflows.vacc.build_file",
    "DeviceResults": "quantkit.workflows.vacc.device_results",
    "Verdict": "quantkit.search.stages",
    "build_calibration_set": "quantkit.data.build_set",
    "calibrate": "quantkit.workflows.calibrate",
    "compare": "quantkit.workflows.compare",
    "evaluate": "quantkit.workflows.evaluate",
    "export": "quantkit.workflows.export",
    "find_images": "quantkit.data.folder",
    "find_labelled_images": "quantkit.data.folder",
    "guess_preprocessing": "quantkit.workflows.guess_preprocessing",
    "imagenet_pipeline": "quantkit.config.pipeline",
    "inspect": "quantkit.workflows.inspect",
    "load_preset": "quantkit.workflows.presets",
    "load_statistics": "quantkit.stats.file",
    "open_source": "quantkit.data.sources.open",
    "plan_job": "quantkit.workflows.plan",
    "preprocess": "quantkit.data.preprocess",
    "quantize": "quantkit.workflows.quantize",
    "relink": "quantkit.runs.location",
    "report": "quantkit.workflows.report",
    "run_demo": "quantkit.demo.chain",
    "sensitivity": "quantkit.workflows.sensitivity",
    "signed_edges": "quantkit.stats.bins",
    "solve_all": "quantkit.stats.solve",
    "tune": "quantkit.workflows.tune",
}

# Modules of functions: ``quantkit.plots.drift(comparison)``.
_MODULES = ("plots",)

__all__ = ["__version__", *_MODULES, *_MODULE_OF]


class _Package(ModuleType):
    """The package module; its functions take precedence over subpackages of the same name.

    Importing ``quantkit.report`` sets that name to the subpackage; ``quantkit.report`` is the function nevertheless.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULE_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"quantkit.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'quantkit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
