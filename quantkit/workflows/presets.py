"""Preprocessing by name or from a file: a preset, a YAML file with ``ops``, a vamc build file, a vdsp_params.json."""

import codecs
import os
import re
from pathlib import Path

from quantkit.config.arguments import path_or
from quantkit.config.nearest import nearest
from quantkit.config.pipeline import PRESETS, Pipeline
from quantkit.config.project import parse_pipeline
from quantkit.errors import ConfigError
from quantkit.files import reason
from quantkit.runs.folder import RunRecord
from quantkit.vendors.vacc.preset import VendorPreset, preset_of_build_file, preset_of_vdsp

PresetSource = Pipeline | str | os.PathLike[str]

# Larger than any hand-written settings file.
_MAX_BYTES = 1 << 18
_FILE_SUFFIXES = (".yaml", ".yml", ".json")
# Top-level keys of vamc build files in either dialect.
_BUILD_FILE_KEY = re.compile(r"^(name|frontend|backend|graph|model|engine|dataset|workspace)\s*:", re.MULTILINE)
_OPS_KEY = re.compile(r"^[{\s]*[\"']?ops[\"']?\s*:", re.MULTILINE)
_VDSP_KEY = re.compile(r"\"OpType\"\s*:")


def load_preset(source: PresetSource) -> Pipeline:
    """Return the preprocessing of a preset.

    Args:
        source: name of a preset (a key of `quantkit.PRESETS`); path of a YAML file with ``ops``, of a vamc build file
            of either dialect, or of a ``vdsp_params.json``; or a pipeline, which is returned.

    Raises:
        ConfigError: there is no such preset, or the file contains no valid pipeline.
        VendorFileError: a vendor file is damaged.

    Example:
        >>> import quantkit
        >>> quantkit.load_preset("vacc").output_size
        (224, 224)
    """
    path_or(Pipeline, source, "pipeline")
    return source if isinstance(source, Pipeline) else _read(source).pipeline


def preprocessing_of(given: PresetSource | None, record: RunRecord | None) -> Pipeline | None:
    """Return the preprocessing given, else that of a run, else None.

    Args:
        given: see `load_preset`.
        record: of the run that models are evaluated in.

    Raises:
        ConfigError: see `load_preset`.
        VendorFileError: see `load_preset`.
    """
    if given is not None:
        return load_preset(given)
    return None if record is None else record.pipeline


def preset_notes(source: PresetSource | None) -> tuple[str, ...]:
    """Return what was inferred to read a preset from a vendor file.

    Raises:
        ConfigError: see `load_preset`.
        VendorFileError: see `load_preset`.
    """
    if source is None or isinstance(source, Pipeline):
        return ()
    return tuple(f"{os.fspath(source)}: {note}" for note in _read(source).notes)


def is_preset_file(source: str) -> bool:
    """Return whether a preset is a file, not a name."""
    return source not in PRESETS and (source.lower().endswith(_FILE_SUFFIXES) or Path(source).is_file())


def _read(source: str | os.PathLike[str]) -> VendorPreset:
    name = os.fspath(source)
    if name in PRESETS and isinstance(source, str):
        return VendorPreset(PRESETS[name], ())
    if isinstance(source, str) and not is_preset_file(name):
        guess = nearest(name, PRESETS)
        raise ConfigError(
            f"there is no preset {name!r}",
            where="--preset",
            fix=f"{'' if guess is None else f'did you mean {guess}? '}choose one of {', '.join(PRESETS)}, or a file "
            "(.yaml, .json)",
        )
    return _read_file(Path(source))


def _read_file(path: Path) -> VendorPreset:
    content = _read_bytes(path)
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if utf16 else "utf-8-sig", errors="replace").replace("\r\n", "\n")
    has_ops = _OPS_KEY.search(text) is not None
    if _VDSP_KEY.search(text) or (path.suffix.lower() == ".json" and not has_ops):
        return preset_of_vdsp(path)
    if _BUILD_FILE_KEY.search(text) and not has_ops:
        return preset_of_build_file(path)
    return VendorPreset(parse_pipeline(read_text(path), path), ())


def read_text(path: Path) -> str:
    """Return the text of a settings file.

    Raises:
        ConfigError: the file cannot be read, is far too large, or is not UTF-8.
    """
    try:
        return _read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", where=path) from error


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError("too large for a settings file", where=path)
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError("there is no such file", where=path) from None
    except OSError as error:
        raise ConfigError(f"cannot be read ({reason(error)})", where=path) from error
