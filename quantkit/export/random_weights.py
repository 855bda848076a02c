"""Random weights with activations as in a trained network, to test structure and speed, not accuracy."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_BATCHES = 2
_BATCH = 4


def give_random_weights(network: nn.Module, input_size: tuple[int, int, int], seed: int) -> None:
    """Draw parameters with trivial initial values, and collect the statistics of batch norms, in place.

    An initialized network has batch norms without an effect (weight 1, bias 0, mean 0, variance 1) and possibly
    branches with near-zero scale or a zero classifier; its activations vanish or explode with the depth. Here the
    weights of batch norms are drawn from U(0.5, 1.5), the biases from N(0, 0.2), layer scales from U(0.1, 1), zero
    matrices from N(0, 1 / fan-in), and the running mean and variance are those of random images, so that the
    activations of each layer have the usual size.

    Args:
        network: an initialized network; it is in evaluation mode afterwards.
        input_size: ``(C, H, W)``.
        seed: random seed.
    """
    generator = torch.Generator().manual_seed(seed)
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    with torch.no_grad():
        for norm in norms:
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5, generator=generator)
                norm.bias.normal_(0.0, 0.2, generator=generator)
        for name, parameter in network.named_parameters():
            if name.endswith("layer_scale"):
                parameter.uniform_(0.1, 1.0, generator=generator)
            elif parameter.ndim > 1 and not parameter.any():
                parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over the batches
            norm.train()
        for _ in range(_BATCHES if norms else 0):
            network(torch.randn((_BATCH, *input_size), generator=generator))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    network.eval()
