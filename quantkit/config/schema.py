"""The JSON schema of ``quantkit.yaml``, for validation and completion in editors."""

import re
from inspect import cleandoc
from typing import Any

from pydantic import BaseModel

from quantkit.config.pipeline import Pipeline
from quantkit.config.project import PROJECT_FILE, Project

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
# A single number is accepted for several, which the types of the parsed values do not show.
_SINGLE_NUMBERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("CenterCrop", "size", {"type": "integer", "exclusiveMinimum": 0}),
    ("Normalize", "mean", {"type": "number"}),
    ("Normalize", "std", {"type": "number", "exclusiveMinimum": 0}),
)
_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


def project_schema() -> dict[str, Any]:
    """Return the JSON schema of ``quantkit.yaml`` with the description of every key.

    Example:
        >>> from quantkit.config.schema import project_schema
        >>> project_schema()["properties"]["target"]["anyOf"][0]["enum"]
        ['ort', 'tensorrt', 'vacc']
    """
    schema, pipeline = Project.model_json_schema(), Pipeline.model_json_schema()
    definitions = schema.get("$defs", {}) | pipeline["$defs"]
    for operation, field, single in _SINGLE_NUMBERS:
        fields = definitions[operation]["properties"]
        fields[field] = {"anyOf": [single, fields[field]]}
    schema["properties"]["ops"]["anyOf"][0] = pipeline["properties"]["ops"]
    for name, text in _descriptions(Project).items():
        schema["properties"][name]["description"] = text
    return {
        "$schema": _DRAFT,
        **schema,
        "title": PROJECT_FILE,
        "description": "Project file of quantkit; paths are relative to its folder.",
        "$defs": definitions,
    }


def _descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return the description of each field from the docstring of a model."""
    text = cleandoc(model.__doc__ or "").partition("Attributes:")[2]
    return {name: " ".join(words.split()) for name, words in _ATTRIBUTE.findall(text)}
