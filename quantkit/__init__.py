"""Take a trained fp32 image classifier to int8, and know what that costs.

The steps of the command line are functions of the same names: `build_calibration_set`, `calibrate`, `quantize`,
`compare`. Names are imported when they are first used, so importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantkit.config.method import Kl as Kl
    from quantkit.config.method import MinMax as MinMax
    from quantkit.config.method import Mse as Mse
    from quantkit.config.method import Percentile as Percentile
    from quantkit.config.pipeline import PRESETS as PRESETS
    from quantkit.config.pipeline import Pipeline as Pipeline
    from quantkit.config.pipeline import imagenet_pipeline as imagenet_pipeline
    from quantkit.data.build_set import build_calibration_set as build_calibration_set
    from quantkit.data.calibration_set import CalibrationSet as CalibrationSet
    from quantkit.data.item import ImageItem as ImageItem
    from quantkit.data.preprocess import preprocess as preprocess
    from quantkit.data.source import ImageSource as ImageSource
    from quantkit.data.sources.open import open_source as open_source
    from quantkit.demo.chain import run_demo as run_demo
    from quantkit.errors import QuantkitError as QuantkitError
    from quantkit.evaluation.result import Comparison as Comparison
    from quantkit.graph.coverage import Coverage as Coverage
    from quantkit.search.mixed_precision import FloatBudget as FloatBudget
    from quantkit.search.stages import Goal as Goal
    from quantkit.stats.bins import signed_edges as signed_edges
    from quantkit.stats.file import Statistics as Statistics
    from quantkit.stats.file import load_statistics as load_statistics
    from quantkit.stats.solve import solve_all as solve_all
    from quantkit.targets import ORT as ORT
    from quantkit.targets import TENSORRT as TENSORRT
    from quantkit.targets import VACC as VACC
    from quantkit.workflows.calibrate import calibrate as calibrate
    from quantkit.workflows.compare import compare as compare
    from quantkit.workflows.compare import evaluate_models as evaluate_models
    from quantkit.workflows.inspect import inspect as inspect
    from quantkit.workflows.model_summary import ModelSummary as ModelSummary
    from quantkit.workflows.presets import load_preset as load_preset
    from quantkit.workflows.quantize import QuantizeOptions as QuantizeOptions
    from quantkit.workflows.quantize import quantize as quantize
    from quantkit.workflows.sensitivity import sensitivity as sensitivity
    from quantkit.workflows.tune import TuneOptions as TuneOptions
    from quantkit.workflows.tune import tune as tune

__version__ = "0.1.0"

_MODULE_OF = {
    "Comparison": "quantkit.evaluation.result",
    "CalibrationSet": "quantkit.data.calibration_set",
    "Coverage": "quantkit.graph.coverage",
    "FloatBudget": "quantkit.search.mixed_precision",
    "Goal": "quantkit.search.stages",
    "ImageItem": "quantkit.data.item",
    "ImageSource": "quantkit.data.source",
    "Kl": "quantkit.config.method",
    "MinMax": "quantkit.config.method",
    "ModelSummary": "quantkit.workflows.model_summary",
    "Mse": "quantkit.config.method",
    "ORT": "quantkit.targets",
    "PRESETS": "quantkit.config.pipeline",
    "Percentile": "quantkit.config.method",
    "Pipeline": "quantkit.config.pipeline",
    "QuantizeOptions": "quantkit.workflows.quantize",
    "QuantkitError": "quantkit.errors",
    "Statistics": "quantkit.stats.file",
    "TENSORRT": "quantkit.targets",
    "TuneOptions": "quantkit.workflows.tune",
    "VACC": "quantkit.targets",
    "build_calibration_set": "quantkit.data.build_set",
    "calibrate": "quantkit.workflows.calibrate",
    "compare": "quantkit.workflows.compare",
    "evaluate_models": "quantkit.workflows.compare",
    "imagenet_pipeline": "quantkit.config.pipeline",
    "inspect": "quantkit.workflows.inspect",
    "load_preset": "quantkit.workflows.presets",
    "load_statistics": "quantkit.stats.file",
    "open_source": "quantkit.data.sources.open",
    "preprocess": "quantkit.data.preprocess",
    "quantize": "quantkit.workflows.quantize",
    "run_demo": "quantkit.demo.chain",
    "sensitivity": "quantkit.workflows.sensitivity",
    "signed_edges": "quantkit.stats.bins",
    "solve_all": "quantkit.stats.solve",
    "tune": "quantkit.workflows.tune",
}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'quantkit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
