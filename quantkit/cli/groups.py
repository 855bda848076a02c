"""Groups and displayed defaults of the options in ``--help``, for all commands."""

from collections.abc import Iterable
from operator import itemgetter
from typing import Any

INPUT, METHOD, TARGET, OUTPUT, RESOURCES = "Input", "Method", "Target", "Output", "Resources"

_OPTIONS: dict[str, str] = {
    INPUT: "model run set images skip-damaged labels names exclude count seed unlabelled preset exif output input "
    "limit shard merge datalist drift-images size checkpoint weights random-weights num-classes arg input-size "
    "input-name output-name reference reference-arg results text text-run skip-broken",
    METHOD: "method fraction per-channel activations weight-bits power-of-two skip bias-correction keep-outliers "
    "until-stable by max-drop min-agreement max-float max-skips rewrite disable skips tolerance exporter skip-conv "
    "skip-matmul weight-scale calibrate-chunk-by overflow-adaptive cluster-mode data-transport-mode softmax "
    "check-preprocessing",
    TARGET: "target dialect calibration-folder dtype opset workspace name suffix vdsp runtime breakdown "
    "require-coverage to instances processes",
    OUTPUT: "out json csv markdown html junit explain top fail-if fail-if-proven fail-unless-proven latency "
    "materialize link move write-fp32 notes schema",
    RESOURCES: "device provider-option batch cluster nodes node-threads threads workers time fresh",
}
_PANEL_OF = {name: panel for panel, names in _OPTIONS.items() for name in names.split()}
_PLACE_OF = {name: place for place, name in enumerate(_PANEL_OF, 1)}

# Defaults shown for options that declare none; the `show_default` of a command takes precedence.
_DEFAULTS = {
    "activations": "uint8 for ort, else int8",
    "arg": "none",
    "calibrate-chunk-by": "the compiler's own",
    "calibration-folder": "calibration in the run folder",
    "checkpoint": "none",
    "cluster": "none, this process",
    "cluster-mode": "the compiler's own",
    "count": "1000, or all if there are fewer",
    "csv": "not written",
    "data-transport-mode": "the compiler's own",
    "datalist": "none",
    "device": "cpu",
    "dialect": "that of quantkit.yaml, or compile",
    "disable": "none",
    "exclude": "none",
    "exif": "that of the preset",
    "fail-if": "no condition",
    "fail-if-proven": "no condition",
    "fail-unless-proven": "no condition",
    "fraction": "0.99999",
    "html": "not written",
    "images": "that of quantkit.yaml, or of the run",
    "input": "none",
    "input-size": "the network's own",
    "json": "not written",
    "junit": "not written",
    "labels": "found by folder and file names",
    "limit": "all images",
    "markdown": "not written",
    "materialize": "not written",
    "max-skips": "any number; 3 for vacc",
    "method": "that of quantkit.yaml, or auto",
    "min-agreement": "any",
    "model": "that of quantkit.yaml",
    "name": "the model's file name",
    "names": "those of quantkit.yaml, or none",
    "num-classes": "the network's own",
    "opset": "18; 11 for vacc",
    "out": "in the run folder",
    "output": "found by name, shape and graph",
    "per-channel": "the target's own",
    "power-of-two": "the target's own",
    "preset": "that of the run, or of quantkit.yaml",
    "provider-option": "none",
    "reference": "none",
    "reference-arg": "none",
    "require-coverage": "no requirement",
    "results": "none",
    "run": "that of quantkit.yaml, or the only one under runs/",
    "seed": "0",
    "set": "that of quantkit.yaml",
    "shard": "all images",
    "size": "224",
    "skip": "none, or that of quantkit.yaml",
    "skip-conv": "none",
    "skip-matmul": "none",
    "suffix": "that of the images",
    "target": "that of quantkit.yaml, or ort",
    "text": "none",
    "text-run": "the only one",
    "threads": "all processors",
    "time": "no limit",
    "top": "all layers",
    "until-stable": "all images",
    "vdsp": "not written",
    "weight-bits": "8",
    "weight-scale": "the compiler's own",
    "weights": "none",
    "workers": "all processors",
    "write-fp32": "in the run folder",
}


def arrange(options: Iterable[Any]) -> list[Any]:
    """Assign the options of a command to their groups, with the default that ``--help`` shows for each.

    Returns:
        The options in the order of their groups here, which is the same for all commands; arguments first.
    """
    arranged = []
    for option in options:
        name = "" if option.param_type_name != "option" or option.name == "help" else _long_name(option)
        arranged.append((_PLACE_OF.get(name, 0), option))
        if not name:
            continue
        if option.rich_help_panel is None:
            option.rich_help_panel = _PANEL_OF.get(name)
        if option.default is None and not option.required and not isinstance(option.show_default, str):
            option.show_default = _DEFAULTS.get(name, option.show_default)
    return [option for _, option in sorted(arranged, key=itemgetter(0))]


def _long_name(option: Any) -> str:
    names: list[str] = [one.removeprefix("--") for one in option.opts if one.startswith("--")]
    return names[0]
