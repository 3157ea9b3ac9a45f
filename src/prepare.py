"""`prepare.py`: raw data in a documented layout to webdataset shards."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from .config import CONF_DIR, command

log = logging.getLogger(__name__)


@command("prepare")
def main(config: DictConfig) -> None:
    if OmegaConf.is_missing(config, "source"):
        layouts = sorted(path.stem for path in (CONF_DIR / "source").glob("*.yaml"))
        raise ValueError(f"source must name the layout of the raw data, source=LAYOUT: {', '.join(layouts)}")
    if OmegaConf.is_missing(config, "output"):
        raise ValueError("output must name the folder of the shards to write, e.g. output=data/my_clips")
    output = Path(config.output)
    if (output / "index.json").is_file():
        raise ValueError(f"{output} holds shards already: give another output, or remove it")

    from hydra.utils import instantiate
    from rich.progress import Progress

    from .config import check
    from .preparation.pipeline import Pipeline
    from .preparation.shards import summarise
    from .run import quiet_libraries

    quiet_libraries()
    check(config)
    with Progress(transient=True) as progress:

        def start_task(description: str, total: int) -> Callable[[], None]:
            task = progress.add_task(description, total=total)
            return lambda: progress.advance(task)

        pipeline = Pipeline(
            cast(dict[str, Any], OmegaConf.to_container(config.stages, resolve=True)),
            output,
            reader=config.reader,
            samples_per_shard=config.samples_per_shard,
            num_workers=config.num_workers,
            start_task=start_task,
        )
        clips = list(instantiate(config.source, _convert_="all"))
        kept, dropped = pipeline.run(clips)
    for line in summarise(kept, dropped):
        log.info(line)
    if not kept:
        raise ValueError(f"none of the {len(clips)} clips could be used: {output}/dropped.jsonl says why")
    log.info("shards and index.json in %s: train with datamodule=shards datamodule.train=%s", output, output)


if __name__ == "__main__":
    main()
