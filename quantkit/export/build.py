"""Builds networks by name: an iResNet, a torchvision classifier, or ``module:factory``."""

import contextlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torchvision
from torch import nn

from quantkit.config.hub_presets import pipeline_of_torchvision
from quantkit.config.nearest import nearest
from quantkit.config.pipeline import Pipeline
from quantkit.errors import CheckpointError, ModelError, UsageError
from quantkit.export.iresnet import IRESNETS, PAPER_IRESNETS
from quantkit.export.translate import first_line

ImageSize = tuple[int, int, int]

# These have auxiliary classifiers, which are optional in a checkpoint.
_WITH_AUXILIARY = ("googlenet", "inception_v3")


def build_network(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network with its initial weights.

    Args:
        name: an iResNet (``iresnet50``; ``iresnet50-paper`` for the paper's form), a torchvision classifier
            (``resnet50``), or ``module:factory``, where the factory is a callable that returns an `nn.Module`.
        arguments: keyword arguments of the factory.

    Raises:
        UsageError: there is no such network, or its factory does not accept the arguments.
        ModelError: the factory fails, or does not return a network.
    """
    factory = _factory(name)
    try:
        network = factory(**arguments)
    except TypeError as error:
        raise UsageError(f"its factory does not accept these arguments ({error})", where=name) from error
    except Exception as error:  # the user's own code
        raise ModelError(f"its factory failed ({first_line(error)})", where=name) from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"its factory returned a {type(network).__name__}, not an nn.Module", where=name)
    return network


def build_pretrained(name: str, weights: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, Pipeline]:
    """Build a torchvision classifier with published weights, downloaded unless torch has cached them.

    Args:
        name: name of the classifier.
        weights: ``DEFAULT``, or another member of its weights enum, with or without the enum's name.
        arguments: keyword arguments of the factory.

    Returns:
        The network, and the preprocessing of the weights.

    Raises:
        UsageError: there is no such torchvision classifier, or no such weights.
        CheckpointError: the weights cannot be downloaded.
    """
    found = _find_weights(name, weights)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            # torchvision's loading, below, does not check that the file has only weights; this does.
            found.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except Exception as error:  # of urllib, pickle or zipfile
        raise CheckpointError(
            f"cannot load the published weights ({first_line(error)})",
            where=found,
            fix=f"download {found.url} and give the file as --checkpoint",
        ) from error
    return build_network(name, {**arguments, "weights": found, "progress": False}), pipeline_of_torchvision(
        found.transforms(), name
    )


def describe_network(name: str) -> str:
    """Return the name with its origin, for messages: ``quantkit's iresnet50 in torch``."""
    if ":" in name:
        return f"{name} in torch"
    return f"{'torchvision' if name in _classifiers() else 'quantkit'}'s {name} in torch"


def input_size_of(name: str) -> ImageSize:
    """Return the usual input size ``(C, H, W)`` of a network: torchvision's crop, else 3 x 224 x 224."""
    if name not in _classifiers():
        return 3, 224, 224
    side = torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
    return 3, side, side


def arguments_for_checkpoint(name: str, keys: Iterable[str]) -> dict[str, Any]:
    """Return the arguments of the torchvision factory that match a checkpoint."""
    if name not in _WITH_AUXILIARY:
        return {}
    auxiliary = any(re.search(r"(^|\.)(aux\d|AuxLogits)\.", key) for key in keys)
    return {"aux_logits": auxiliary, "init_weights": False}


def _factory(name: str) -> Callable[..., Any]:
    if ":" in name:
        return _import(name)
    for iresnets in (IRESNETS, PAPER_IRESNETS):
        if name in iresnets:
            return iresnets[name]
    if name in _classifiers():
        return partial(torchvision.models.get_model, name)
    near = nearest(name, (*IRESNETS, *PAPER_IRESNETS, *_classifiers()))
    fix = f"did you mean {near}?" if near else "give an iResNet, a torchvision classifier, or module:factory"
    raise UsageError(f"there is no network {name!r}", fix=fix)


def _import(name: str) -> Callable[..., Any]:
    try:
        found = pkgutil.resolve_name(name)
    except ModuleNotFoundError as error:
        wrong = error.name is None or f"{name.partition(':')[0]}.".startswith(f"{error.name}.")
        fix = "write it as package.module:factory, with its folder on PYTHONPATH" if wrong else f"install {error.name}"
        raise UsageError(f"cannot be imported ({error})", where=name, fix=fix) from error
    except (AttributeError, ValueError) as error:
        raise UsageError(
            f"cannot be imported ({error})", where=name, fix="write it as package.module:factory"
        ) from error
    except Exception as error:  # the user's own code
        raise ModelError(f"cannot be imported ({first_line(error)})", where=name) from error
    if isinstance(found, nn.Module):
        return lambda: found
    if not callable(found):
        raise UsageError(f"is of type {type(found).__name__}, not a function that returns a network", where=name)
    return found  # type: ignore[no-any-return]


def _classifiers() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)  # type: ignore[no-any-return]


def _find_weights(name: str, weights: str) -> Any:
    if name not in _classifiers():
        raise UsageError(
            f"{name} is not a torchvision classifier, so it has no published weights",
            where="--weights",
            fix="name one, such as resnet50; export takes other networks with --checkpoint",
        )
    enum = torchvision.models.get_model_weights(name)
    prefix, _, member = weights.rpartition(".")
    if member not in enum.__members__ or prefix not in ("", enum.__name__):
        raise UsageError(
            f"{name} has no weights {weights!r}", where="--weights", fix=f"choose one of {', '.join(enum.__members__)}"
        )
    return enum[member]


def pretrained_pipeline(name: str, weights: str) -> Pipeline:
    """Return the preprocessing of published torchvision weights, without downloading them.

    Raises:
        UsageError: there is no such network or weights.
    """
    return pipeline_of_torchvision(_find_weights(name, weights).transforms(), name)
