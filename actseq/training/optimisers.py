"""The optimisers of a group of parameters: AdamW, and Muon for the matrices of stacked layers where it is asked for."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from actseq.config import TrainingConfig

SMALLEST_MATRIX = 16
"""A matrix with fewer rows or columns than this learns by AdamW."""


def optimisers_of(
    module: nn.Module, parameters: Iterable[nn.Parameter], config: TrainingConfig
) -> dict[str, torch.optim.Optimizer]:
    """The optimisers of a group of parameters, by name: `adamw`, and `muon` where there is something for it.

    Muon replaces the momentum of a matrix by the nearest matrix with orthogonal rows or columns, so that a step moves
    all directions equally. The step is scaled to the size that a step of AdamW has.

    Args:
        module: what the parameters are part of.
        parameters: the group.
        config: settings of the optimisers.

    Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks (2024); Liu et al., Muon is Scalable
    for LLM Training (2025), section 2.2, for the scale.
    """
    every = list(parameters)
    stacked = {id(matrix) for matrix in _stacked_matrices(module)} if config.muon_rate is not None else set()
    matrices = [parameter for parameter in every if id(parameter) in stacked]
    others = [parameter for parameter in every if id(parameter) not in stacked]
    rate, decay = config.learning_rate, config.weight_decay
    found: dict[str, torch.optim.Optimizer] = {}
    if others:
        found["adamw"] = torch.optim.AdamW(others, lr=rate, betas=config.betas, weight_decay=decay, fused=True)
    if matrices:
        found["muon"] = torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    return found


def _stacked_matrices(module: nn.Module) -> Iterable[nn.Parameter]:
    """Weights of two dimensions below a list of modules: those between a network's first and last layer."""
    for name, parameter in module.named_parameters():
        inside = any(part.isdecimal() for part in name.split(".")[:-2])
        if inside and parameter.ndim == 2 and min(parameter.shape) >= SMALLEST_MATRIX:
            yield parameter
