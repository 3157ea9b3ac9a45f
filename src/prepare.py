"""`prepare.py`: raw data in a documented layout to webdataset shards."""

import logging
from pathlib import Path

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
    from .preparation.shards import summarise, write_shards

    check(config)
    clips = list(instantiate(config.source, _convert_="all"))
    with Progress(transient=True) as progress:
        task = progress.add_task("preparing", total=len(clips))
        kept, dropped = write_shards(
            clips,
            output,
            reader=config.reader,
            samples_per_shard=config.samples_per_shard,
            on_clip=lambda: progress.advance(task),
        )
    for line in summarise(kept, dropped):
        log.info(line)
    if not kept:
        raise ValueError(f"none of the {len(clips)} clips could be used: {output}/dropped.jsonl says why")
    log.info("shards and index.json in %s: train with datamodule=shards datamodule.train=%s", output, output)


if __name__ == "__main__":
    main()
