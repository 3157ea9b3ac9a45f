"""Learning-rate schedules that the libraries do not have, as factories for the `lr_schedule` of a method."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

FINETUNE_STEPS, FINETUNE_SHARE = 100, 0.05


def sat_factor(update: int, num_training_steps: int, warmup: float, finetune: bool) -> float:
    """Return the share of the base rate at `update` (from 1).

    Linear warm-up over `warmup` * n updates, then linear decay from there to zero at n. Fine-tuning holds the first 100
    updates at 5 % of the base rate or less. Source: SwissArmyTransformer, `AnnealingLR`, as Concat-ID uses it.
    """
    warmup_steps = int(warmup * num_training_steps)
    if finetune and update <= FINETUNE_STEPS:
        return min(FINETUNE_SHARE, update / max(warmup_steps, 1))
    if update <= warmup_steps:
        return update / warmup_steps
    return max(num_training_steps - (update - warmup_steps), 0) / num_training_steps


def sat_linear_schedule(
    optimizer: Optimizer, *, num_training_steps: int, warmup: float = 0.01, finetune: bool = True
) -> LambdaLR:
    """Return Concat-ID's schedule (see `sat_factor`) for `optimizer`."""
    return LambdaLR(optimizer, lambda step: sat_factor(step + 1, num_training_steps, warmup, finetune))


def warmup_linear_factor(
    update: int, num_training_steps: int, max_warmup_steps: int, warmup: float, start_factor: float
) -> float:
    """Return the share of the base rate at `update` (from 0).

    Rises linearly from `start_factor` to 1 over min(`max_warmup_steps`, `warmup` * n) updates, then falls linearly to 0
    at n.
    """
    warmup_steps = min(max_warmup_steps, int(warmup * num_training_steps))
    if update < warmup_steps:
        return start_factor + (1 - start_factor) * update / warmup_steps
    return max(num_training_steps - update, 0) / max(num_training_steps - warmup_steps, 1)


def warmup_linear_schedule(
    optimizer: Optimizer,
    *,
    num_training_steps: int,
    max_warmup_steps: int = 1000,
    warmup: float = 0.05,
    start_factor: float = 0.01,
) -> LambdaLR:
    """Return the schedule of Concat-ID's Wan variant (see `warmup_linear_factor`) for `optimizer`."""

    def factor(step: int) -> float:
        return warmup_linear_factor(step, num_training_steps, max_warmup_steps, warmup, start_factor)

    return LambdaLR(optimizer, factor)
