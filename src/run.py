"""What the commands share: quiet libraries, threads, where to resume."""

import logging
import os
import warnings
from pathlib import Path

log = logging.getLogger(__name__)


def quiet_libraries(num_threads: int | None = None) -> None:
    """Silence notes that no user can act on, keep hub lookups off, and set the number of CPU threads."""
    import torch

    os.environ.setdefault(
        "HF_HUB_OFFLINE", "1"
    )  # a missing local file then fails at once instead of after half a minute of retries
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    for name in ("lightning.pytorch", "lightning.fabric", "diffusers", "transformers"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # in the main process there is nothing to wait for: clips are kept in memory
        ".*module.s. in eval mode at the start of training.*",  # the frozen parts, on purpose
        ".*Total length of `list` across ranks is zero.*",  # no validation set
        ".*`srun` command is available.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message)


def resume_path(ckpt: str | None, output_dir: Path) -> Path | None:
    """Return the checkpoint to continue from. `ckpt`: a file, the folder of a run, or `last` for this run's own folder.

    `last` starts from scratch where the run has no checkpoint yet, so that a job that SLURM starts again needs no other
    command line.
    """
    from .checkpoints.lightning import find_checkpoint

    if ckpt is None:
        return None
    if ckpt != "last":
        path = find_checkpoint(ckpt)
    elif not any((output_dir / "checkpoints").glob("*.ckpt")):
        log.info("ckpt=last: no checkpoint in %s yet, starting from scratch", output_dir)
        return None
    else:
        path = find_checkpoint(output_dir)
    log.info("resuming from %s", path)
    return path
