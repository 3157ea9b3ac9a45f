"""`prepare.py`: raw data in a documented layout to webdataset shards, and the check of a data set."""

import logging
import sys
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from .config import CONF_DIR, command

log = logging.getLogger(__name__)


def prepare(config: DictConfig) -> None:
    if config.samples_per_shard < 1:
        raise ValueError(f"samples_per_shard={config.samples_per_shard} must be at least 1")
    if config.num_workers is not None and config.num_workers < 0:
        raise ValueError(f"num_workers={config.num_workers} must be at least 0, or null for one for each CPU")
    if config.check is not None:
        return check_set(config)
    if OmegaConf.is_missing(config, "source"):
        layouts = sorted(path.stem for path in (CONF_DIR / "source").glob("*.yaml"))
        raise ValueError(f"source must name the layout of the raw data, source=LAYOUT: {', '.join(layouts)}")
    if OmegaConf.is_missing(config, "output"):
        raise ValueError("output must name the folder of the shards to write, e.g. output=data/my_clips")
    output = Path(config.output)

    from hydra.utils import instantiate

    from .config import check
    from .preparation.pipeline import Pipeline
    from .preparation.progress import show_progress
    from .preparation.report import write_report
    from .preparation.shards import summarise
    from .run import quiet_libraries

    quiet_libraries()
    check(config)
    with show_progress() as display:
        pipeline = Pipeline(
            cast(dict[str, Any], OmegaConf.to_container(config.stages, resolve=True)),
            output,
            reader=config.reader,
            samples_per_shard=config.samples_per_shard,
            num_workers=config.num_workers,
            source=OmegaConf.to_container(config.source, resolve=True),
            keep_stages=config.keep_stages,
            display=display,
        )
        clips = list(instantiate(config.source, _convert_="all"))
        prepared = pipeline.prepare(clips)
    for line in summarise(prepared.num_kept, prepared.dropped, len(clips)):
        log.info(line)
    report = output / "report.html"
    if prepared.is_new or not report.exists():
        try:
            write_report(report, output, prepared, title=f"{output.name}: prepared clips", reader=config.reader)
        except Exception:  # the shards are written and good
            log.warning("the page %s could not be written", report, exc_info=True)
    else:
        log.info("nothing to do: neither the source nor the settings have changed")
    if not prepared.num_kept:
        raise ValueError(f"none of the {len(clips)} clips could be used: {output}/dropped.jsonl says why")
    log.info("shards and index.json in %s: train with datamodule=shards datamodule.train=%s", output, output)
    if report.exists():
        log.info("what they hold: %s", report)


def check_set(config: DictConfig) -> None:
    """Raise ValueError where the set has problems, which are listed on the screen and in `output`."""
    from .preparation.check import check_shards, table
    from .preparation.progress import show_progress

    with show_progress() as display:
        result = check_shards(
            config.check, reader=config.reader, full=config.full, num_workers=config.num_workers, display=display
        )
    if not OmegaConf.is_missing(config, "output"):
        result.write(Path(config.output) / "check.jsonl")
    for line in table(result):
        log.info(line)
    if result.problems:
        raise ValueError(f"{config.check} has {len(result.problems)} problems in {result.num_samples} samples")
    log.info("%s: %d samples in %d shards, no problem", config.check, result.num_samples, result.num_shards)


def main() -> None:
    given = {argument.partition("=")[0] for argument in sys.argv[1:]}
    if "check" in given and "output" not in given:  # then nothing is written, no log either
        quiet = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra.job_logging.root.handlers=[console]"]
        # In front: Hydra takes no words that follow an option such as --cfg.
        sys.argv[1:1] = [*quiet, "~hydra.job_logging.handlers.file"]
    command("prepare")(prepare)()


if __name__ == "__main__":
    main()
