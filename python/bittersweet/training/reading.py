"""What a scorer reads, and whether training has it."""

from __future__ import annotations

from ..errors import ArgumentError
from ..optimizers.optimizers import WITHOUT_STATE, Optimizers
from ..options.scorers import ScorerCall

__all__ = ["MOMENT_READS", "require_inputs"]

MOMENT_READS = frozenset(("exp_avg", "exp_avg_sq"))
_IN_TRAINING = frozenset(("weight", "exp_avg", "exp_avg_sq", "grad", "step", "bias_correction1"))


def require_inputs(
    call: ScorerCall,
    optimizers: Optimizers,
    given: frozenset[str] = frozenset(),
    *,
    over_ranks: bool = False,
) -> None:
    """Raises ArgumentError if the scorer reads what neither training, these optimizers nor `given` have."""
    foreign = sorted(call.reads - _IN_TRAINING - given)
    if foreign:
        raise ArgumentError(
            f"scorer: '{call.name}' reads {', '.join(foreign)}, which a training loop does not have. Pass "
            "input_norms=Calibrator(model).run(batches).norms for it"
            if foreign == ["input_norm"]
            else f"scorer: '{call.name}' reads {', '.join(foreign)}, which a training loop does not have. "
            "Use make_masks or prune_, which take it as an argument"
        )
    moments = sorted(call.reads & MOMENT_READS)
    if not moments:
        return
    if not optimizers:
        raise ArgumentError(
            f"optimizer: None, and scorer '{call.name}' reads {', '.join(moments)} of the optimizer. Pass "
            "the optimizer (of a Trainer: after create_optimizer()), or choose "
            f"{WITHOUT_STATE}"
        )
    optimizers.require_state(call.reads, call.name, over_ranks=over_ranks)
