"""The targets of a model with everything that an optimizer of the Adam family keeps for them."""

from __future__ import annotations

import torch

from bittersweet import ScoreInputs
from bittersweet.model.targets import find_targets


def score_inputs(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[ScoreInputs]:
    """One `ScoreInputs` per target of `find_targets`, in its order, borrowing weight, moments and step.

    What the optimizer does not keep yet is None; a scorer that reads it is then refused by the library.
    """
    betas = {id(p): group["betas"] for group in optimizer.param_groups for p in group["params"]}
    found = []
    for entry in find_targets(model, optimizer).targets:
        parameter = model.get_parameter(entry.path)
        state = optimizer.state.get(parameter, {})
        found.append(
            ScoreInputs(
                parameter,
                exp_avg=state.get("exp_avg"),
                exp_avg_sq=state.get("exp_avg_sq"),
                step=state.get("step"),
                betas=betas[id(parameter)],
                name=entry.name,
                **entry.axes._asdict(),
            )
        )
    return found
