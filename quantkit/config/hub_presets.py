"""Preprocessing of models from public hubs: Hugging Face preprocessor configs, timm's pretrained configs, torchvision.

The operations are those of the libraries: the image processors of transformers, ``create_transform`` of timm, and
``ImageClassification`` of torchvision.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantkit.config.pipeline import CenterCrop, Decode, Interpolation, Normalize, Pipeline, Resize, ToTensor
from quantkit.errors import ConfigError

# Numbers of pillow's filters, as preprocessor_config.json names them.
_RESAMPLE: dict[int, Interpolation] = {
    0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming",
}  # fmt: skip
# Processors that resize the shorter side to a single number; all others resize both sides to it.
_SHORTER_SIDE = ("ConvNext", "CLIP", "MobileNetV1", "MobileNetV2", "Bit", "MobileViT")
# Processors with special rules to resize or scale.
_REFUSED = ("Levit", "PoolFormer")
# From this size on ConvNext squashes instead of cropping.
_CONVNEXT_SQUASHED = 384
_CONVNEXT_CROP = 224 / 256
_TIMM_CROP = 0.875


@dataclass(frozen=True)
class HubPreset:
    """A preset from a hub's config.

    Attributes:
        pipeline: the preprocessing.
        notes: what was inferred.
    """

    pipeline: Pipeline
    notes: tuple[str, ...]


def preset_of_hugging_face(config: Mapping[str, Any], where: object) -> HubPreset:
    """Return the preprocessing of a ``preprocessor_config.json`` of Hugging Face.

    Args:
        config: the content of the file.
        where: the file, for messages.

    Raises:
        ConfigError: a key is missing or has the wrong type, or the processor cannot be expressed as operations.

    Example:
        >>> config = {"image_processor_type": "ViTImageProcessor", "size": 224, "image_mean": [0.5], "image_std": [0.5]}
        >>> preset_of_hugging_face(config, "preprocessor_config.json").pipeline.output_size
        (224, 224)
    """
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    notes = [] if kind else ["no image_processor_type: a single number of size is used for both sides"]
    if refused := [name for name in _REFUSED if kind.startswith(name)]:
        raise ConfigError(f"{refused[0]} resizes by a special rule", where=where, fix="write a preset with ops")
    if config.get("rescale_offset"):
        raise ConfigError("rescale_offset cannot be expressed", where=where, fix="write a preset with ops")
    bgr = bool(config.get("do_flip_channel_order"))
    ops: list[Any] = [Decode(mode="BGR" if bgr else "RGB")]
    filter_ = _interpolation(config, where, notes)
    if config.get("do_resize", True):
        ops += _resized(config, kind, filter_, where)
    if config.get("do_center_crop") and not any(isinstance(op, CenterCrop) for op in ops):
        height, width = _both_sides(config.get("crop_size"), "crop_size", where)
        ops.append(CenterCrop(size=(height, width)))
    rescaled = config.get("do_rescale", True)
    factor = _number(config.get("rescale_factor", 1 / 255), "rescale_factor", where)
    divisor = 1.0 if not rescaled else 255.0 if math.isclose(255 * factor, 1.0, rel_tol=1e-6) else 1.0 / factor
    ops.append(ToTensor(divisor=divisor))
    if config.get("do_normalize", True):
        mean, std = (_channels(config.get(name), name, where) for name in ("image_mean", "image_std"))
        # The means of a flipped image are in the channel order of the model.
        ops.append(Normalize(mean=mean, std=std))
    return HubPreset(Pipeline(ops=tuple(ops)), tuple(notes))


def preset_of_timm(config: Mapping[str, Any], where: object) -> HubPreset:
    """Return the preprocessing of a timm ``config.json``, or of its ``pretrained_cfg`` alone.

    Args:
        config: the content of the file.
        where: the file, for messages.

    Raises:
        ConfigError: a key is missing or has the wrong type, or the crop mode cannot be expressed.

    Example:
        >>> config = {"input_size": [3, 224, 224], "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.5] * 3}
        >>> preset_of_timm(config, "config.json").pipeline.ops[1].size
        248
    """
    given = config.get("pretrained_cfg", config)
    if not isinstance(given, Mapping):
        raise ConfigError("pretrained_cfg: must be a mapping", where=where)
    size = given.get("input_size")
    if not (isinstance(size, list | tuple) and len(size) == 3 and all(isinstance(side, int) for side in size)):
        raise ConfigError("input_size: must be [channels, height, width]", where=where, fix="give timm's config.json")
    channels, height, width = size
    notes = []
    for key, default in (("crop_pct", _TIMM_CROP), ("interpolation", "bilinear")):
        if given.get(key) is None:
            notes.append(f"no {key}: {default}, the default of timm")
    crop = _number(given.get("crop_pct") or _TIMM_CROP, "crop_pct", where)
    name = given.get("interpolation") or "bilinear"
    if name not in _RESAMPLE.values():
        raise ConfigError(f"interpolation: {name!r} cannot be expressed", where=where)
    mode = given.get("crop_mode") or "center"
    scaled = math.floor(height / crop), math.floor(width / crop)
    ops: list[Any] = [Decode(mode="L" if channels == 1 else "RGB")]
    if mode == "squash":
        ops.append(Resize(size=scaled, interpolation=name))
    elif mode == "center":
        if height != width:
            raise ConfigError("input_size: must be square for crop_mode center", where=where)
        ops.append(Resize(size=scaled[0], interpolation=name))
    else:
        raise ConfigError(f"crop_mode: {mode!r} cannot be expressed", where=where, fix="write a preset with ops")
    ops += [CenterCrop(size=(height, width)), ToTensor()]
    mean, std = (_channels(given.get(key), key, where) for key in ("mean", "std"))
    ops.append(Normalize(mean=mean, std=std))
    return HubPreset(Pipeline(ops=tuple(ops)), tuple(notes))


def pipeline_of_torchvision(transform: object, where: object) -> Pipeline:
    """Return the preprocessing of a torchvision ``ImageClassification``, as ``weights.transforms()`` gives it.

    Args:
        transform: has ``resize_size``, ``crop_size``, ``interpolation``, ``mean`` and ``std``.
        where: the network, for messages.

    Raises:
        ConfigError: it is another kind of transform, or has values that cannot be expressed as operations.
    """
    try:
        resize, crop = (list(getattr(transform, name)) for name in ("resize_size", "crop_size"))
        mean, std = (tuple(map(float, getattr(transform, name))) for name in ("mean", "std"))
        name = getattr(transform, "interpolation").value  # noqa: B009 the type of torchvision is not imported here
        antialias = getattr(transform, "antialias", True)
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{type(transform).__name__} is no transform of a classifier ({error})",
            where=where,
            fix="write a preset with ops",
        ) from error
    if name not in _RESAMPLE.values() or len(resize) != 1 or len(crop) not in (1, 2) or not antialias:
        fault = f"resize {resize} by {name}{'' if antialias else ' without antialiasing'}, then crop {crop}"
        raise ConfigError(f"{fault} cannot be expressed", where=where, fix="write a preset with ops")
    return Pipeline(
        ops=(
            Decode(),
            Resize(size=resize[0], interpolation=name),
            CenterCrop(size=(crop[0], crop[-1])),
            ToTensor(),
            Normalize(mean=mean, std=std),
        )
    )


def _interpolation(config: Mapping[str, Any], where: object, notes: list[str]) -> Interpolation:
    number = config.get("resample")
    if number is None:
        notes.append("no resample: bilinear, the default of most image processors")
        return "bilinear"
    if not isinstance(number, int) or number not in _RESAMPLE:
        raise ConfigError(f"resample: {number!r} is not a filter of pillow (0 to 5)", where=where)
    return _RESAMPLE[number]


def _resized(config: Mapping[str, Any], kind: str, filter_: Interpolation, where: object) -> list[Any]:
    size = config.get("size")
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        shorter: int | None = _whole(size["shortest_edge"], "size.shortest_edge", where)
    elif isinstance(size, int) and kind.startswith(_SHORTER_SIDE):
        shorter = _whole(size, "size", where)
    else:
        shorter = None
    if shorter is None:
        return [Resize(size=_both_sides(size, "size", where), interpolation=filter_)]
    if not kind.startswith("ConvNext"):
        return [Resize(size=shorter, interpolation=filter_)]
    if shorter >= _CONVNEXT_SQUASHED:
        return [Resize(size=(shorter, shorter), interpolation=filter_)]
    crop = _number(config.get("crop_pct") or _CONVNEXT_CROP, "crop_pct", where)
    return [Resize(size=int(shorter / crop), interpolation=filter_), CenterCrop(size=(shorter, shorter))]


def _both_sides(value: object, key: str, where: object) -> tuple[int, int]:
    if isinstance(value, Mapping) and {"height", "width"} <= set(value):
        return _whole(value["height"], f"{key}.height", where), _whole(value["width"], f"{key}.width", where)
    side = _whole(value, key, where)
    return side, side


def _whole(value: object, key: str, where: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ConfigError(f"{key}: must be a size in pixels, not {value!r:.40}", where=where)


def _number(value: object, key: str, where: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0:
        return float(value)
    raise ConfigError(f"{key}: must be a number above 0, not {value!r:.40}", where=where)


def _channels(value: object, key: str, where: object) -> tuple[float, ...]:
    if isinstance(value, list | tuple) and value and all(isinstance(one, int | float) for one in value):
        return tuple(float(one) for one in value)
    raise ConfigError(f"{key}: must be a list of numbers, one per channel, not {value!r:.40}", where=where)
