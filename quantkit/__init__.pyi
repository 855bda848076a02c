"""The public names, for type checkers and for `quantkit.__init__`, which imports each on first use."""

from quantkit import plots as plots
from quantkit.config.choices import Stage as Stage
from quantkit.config.method import (
    Auto as Auto,
)
from quantkit.config.method import (
    Kl as Kl,
)
from quantkit.config.method import (
    Method as Method,
)
from quantkit.config.method import (
    MinMax as MinMax,
)
from quantkit.config.method import (
    Mse as Mse,
)
from quantkit.config.method import (
    Percentile as Percentile,
)
from quantkit.config.pipeline import (
    PRESETS as PRESETS,
)
from quantkit.config.pipeline import (
    CenterCrop as CenterCrop,
)
from quantkit.config.pipeline import (
    Decode as Decode,
)
from quantkit.config.pipeline import (
    EvenSides as EvenSides,
)
from quantkit.config.pipeline import (
    Normalize as Normalize,
)
from quantkit.config.pipeline import (
    Pad as Pad,
)
from quantkit.config.pipeline import (
    Pipeline as Pipeline,
)
from quantkit.config.pipeline import (
    Resize as Resize,
)
from quantkit.config.pipeline import (
    ToTensor as ToTensor,
)
from quantkit.config.pipeline import (
    imagenet_pipeline as imagenet_pipeline,
)
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
from quantkit.evaluation.gate import (
    Gate as Gate,
)
from quantkit.evaluation.gate import (
    GateMode as GateMode,
)
from quantkit.evaluation.gate import (
    GateVerdict as GateVerdict,
)
from quantkit.evaluation.gate import (
    parse_gate as parse_gate,
)
from quantkit.evaluation.paired import Interval as Interval
from quantkit.evaluation.preprocessing_search import (
    TriedPreprocessing as TriedPreprocessing,
)
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
from quantkit.vendors.vacc.write import VamcOptions as VamcOptions
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
from quantkit.workflows.preprocessing_guess import (
    PreprocessingGuess as PreprocessingGuess,
)
from quantkit.workflows.presets import load_preset as load_preset
from quantkit.workflows.quantize import Quantized as Quantized
from quantkit.workflows.quantize import quantize as quantize
from quantkit.workflows.quantize_task import QuantizeOptions as QuantizeOptions
from quantkit.workflows.relink import relink as relink
from quantkit.workflows.report import report as report
from quantkit.workflows.sensitivity import sensitivity as sensitivity
from quantkit.workflows.tune import TuneOptions as TuneOptions
from quantkit.workflows.tune import Tuning as Tuning
from quantkit.workflows.tune import tune as tune
from quantkit.workflows.vacc.backend import VaccBackend as VaccBackend
from quantkit.workflows.vacc.device_results import DeviceResults as DeviceResults

__all__: list[str]
__version__: str
_MODULES: tuple[str, ...]
_MODULE_OF: dict[str, str]
