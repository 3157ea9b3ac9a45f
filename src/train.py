"""`train.py`: fit a method, with validation, samples, checkpoints and exact resume."""

import logging
import signal
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from .config import command
from .preflight import check_machine, check_sources, check_start

log = logging.getLogger(__name__)


@command("train")
def main(config: DictConfig) -> float | None:
    check_sources(config)
    check_start(config)
    check_machine(config)

    from hydra.utils import instantiate
    from lightning import seed_everything
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from .callbacks.run_record import RunRecord
    from .config import check
    from .generation import check_sampling
    from .loggers import end_runs
    from .run import quiet_libraries, resume_path

    quiet_libraries(config.num_threads)
    check(config)
    ckpt_path = resume_path(config.ckpt, Path(config.paths.output_dir))
    seed_everything(config.seed, workers=True, verbose=False)
    datamodule = instantiate(config.datamodule, _convert_="all")
    model = instantiate(config.model, _convert_="all")
    check_sampling(model, config.sampling)
    if ckpt_path is None:
        _choose_weights(model, config)
    callbacks = list(instantiate(config.callbacks, _convert_="all").values())
    loggers = list(instantiate(config.logger, _convert_="all").values())
    trainer = instantiate(config.trainer, _convert_="all", callbacks=[RunRecord(config), *callbacks], logger=loggers)
    log.info("run folder: %s", config.paths.output_dir)
    try:
        trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
    except SIGTERMException:
        # Lightning's own exit has code 0, as if the run were done: whoever started it must be told that it is not.
        words = "terminated at step %d: run_name=%s ckpt=last goes on from the last checkpoint"
        log.warning(words, trainer.global_step, config.run_name)
        sys.exit(128 + signal.SIGTERM)
    finally:
        end_runs(loggers, failed=sys.exc_info()[0] is not None)
        if report := datamodule.skip_report():
            log.warning(report)
    if config.optimized_metric is None:
        return None
    if config.optimized_metric not in trainer.callback_metrics:
        raise ValueError(
            f"optimized_metric={config.optimized_metric} was not logged; logged were "
            f"{', '.join(sorted(trainer.callback_metrics))}"
        )
    return float(trainer.callback_metrics[config.optimized_metric])


def _choose_weights(model: Any, config: DictConfig) -> None:
    """Start from `init_from`, or from what the model was built with; say so where a later stage starts like that."""
    from .checkpoints.lightning import load_initial_weights

    if config.init_from is not None:
        load_initial_weights(model, config.init_from, config.init_weights)
    elif config.continues is not None:
        log.warning(
            "%s starts from the weights of the backbone, not from a run of %s: to go on from one, give init_from=RUN",
            config.experiment_name,
            config.continues,
        )


if __name__ == "__main__":
    main()
