"""Logits of the authors' iResNet code, from weights that depend on nothing but the parameters' names.

``iresnet_fingerprints.json`` holds, for each network, the first six logits that https://github.com/iduta/iresnet
(commit babdc4f) gives in float64 for the weights of `weights_from_names` and the input of `fingerprint_input`. It is
written by

    python tests/export/iresnet_fingerprints.py CLONE

where CLONE is a clone of that repository (which imports ``requests``). numpy's ``RandomState`` gives the same numbers
in every version, and float64 leaves no room for the order of sums. Weights repeat a prime number of draws, and images
are small, so that all networks together take seconds.
"""

import importlib
import json
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

FILE = Path(__file__).with_name("iresnet_fingerprints.json")
LOGITS = 6
DRAWS = 4093


def weights_from_names(shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return float64 weights, each drawn by a generator that its name seeds.

    Variances are drawn from U(0.5, 1.5), matrices and kernels from N(0, 2 / fan-in), the weights of batch norms from
    N(1, 0.2), everything else from N(0, 0.2); `DRAWS` numbers each, repeated.
    """
    state = {}
    for name, like in shapes.items():
        generator = np.random.RandomState(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
            continue
        if name.endswith("running_var"):
            draws = generator.uniform(0.5, 1.5, DRAWS)
        elif like.ndim > 1:
            draws = generator.standard_normal(DRAWS) * np.sqrt(2.0 / like[0].numel())
        else:
            draws = 0.2 * generator.standard_normal(DRAWS) + name.endswith("weight")
        state[name] = torch.from_numpy(np.resize(draws, like.shape))
    return state


def fingerprint_input() -> Tensor:
    """Return float64 ``[1, 3, 32, 32]``."""
    return torch.from_numpy(np.random.RandomState(0).standard_normal((1, 3, 32, 32)))


def fingerprint(factory: Callable[[], nn.Module]) -> list[float]:
    """Return the first logits of a network with the weights of `weights_from_names`."""
    with torch.device("meta"):
        network = factory().eval()
    network.load_state_dict(weights_from_names(network.state_dict()), assign=True)
    with torch.inference_mode():
        logits: list[float] = network(fingerprint_input())[0, :LOGITS].tolist()
    return logits


def main(clone: str) -> None:
    from quantkit.export.iresnet import IRESNETS

    sys.path.insert(0, clone)
    logits = {}
    for name in IRESNETS:
        module = importlib.import_module(f"models.{name.rstrip('0123456789')}")
        logits[name] = fingerprint(getattr(module, name))
        print(name, logits[name], flush=True)
    lines = (f' "{name}": {json.dumps([float(f"{one:.13g}") for one in values])}' for name, values in logits.items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1])
