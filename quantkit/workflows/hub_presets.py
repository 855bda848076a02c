"""``quantkit preset``: preset files with the preprocessing of models from public hubs."""

import json
from pathlib import Path
from typing import Any

from quantkit.config.arguments import AnyPath, as_path
from quantkit.config.hub_presets import HubPreset, preset_of_hugging_face, preset_of_timm
from quantkit.config.pipeline import Pipeline
from quantkit.config.text import read_text
from quantkit.errors import ConfigError, UsageError


def preset_from_hugging_face(path: AnyPath) -> HubPreset:
    """Return the preprocessing of a ``preprocessor_config.json`` of Hugging Face.

    Raises:
        ConfigError: the file cannot be read, or its preprocessing cannot be expressed as operations.
    """
    file = as_path(path, "path")
    return preset_of_hugging_face(_read_json(file), file)


def preset_from_timm(path: AnyPath) -> HubPreset:
    """Return the preprocessing of a ``config.json`` of a timm model.

    Raises:
        ConfigError: the file cannot be read, or its preprocessing cannot be expressed as operations.
    """
    file = as_path(path, "path")
    return preset_of_timm(_read_json(file), file)


def preset_from_torchvision(network: str, weights: str = "DEFAULT") -> Pipeline:
    """Return the preprocessing of published torchvision weights; needs ``quantkit[torch]``.

    Args:
        network: a torchvision classifier, such as ``resnet50``.
        weights: a member of its weights enum, or ``DEFAULT``.

    Raises:
        UsageError: torchvision is not installed, or there is no such network or weights.
    """
    try:
        from quantkit.export.build import pretrained_pipeline
    except ModuleNotFoundError as error:
        raise UsageError(f"torchvision presets need {error.name}", fix="pip install 'quantkit[torch]'") from error
    return pretrained_pipeline(network, weights)


def preset_text(pipeline: Pipeline, source: str) -> str:
    """Return the text of a preset file: YAML with ``ops``, one operation per line."""
    lines = [f"# Preprocessing of {' '.join(source.split())}.", "ops:"]
    for op in pipeline.ops:
        values = {"op": op.op, **op.model_dump(mode="json", exclude_defaults=True)}
        lines.append("- {" + ", ".join(f"{name}: {_yaml(value)}" for name, value in values.items()) + "}")
    return "\n".join(lines) + "\n"


def _yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON ({' '.join(str(error).split())[:200]})", where=path) from error
    if not isinstance(content, dict):
        raise ConfigError("is not a JSON object", where=path)
    return content
