"""`evaluate.py`: metrics over clips and references, whoever made them; comparison of runs; totals of benchmarks."""

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .config import CONF_DIR, command

log = logging.getLogger(__name__)

# Of these groups, what this machine lacks the models for is disabled. Other groups and names are asked for.
TOLERANT_GROUPS = ("default", "all")


@command("evaluate")
def main(config: DictConfig) -> None:
    if config.num_resamples < 1:
        raise ValueError(f"num_resamples={config.num_resamples} must be at least 1")
    if config.compare is not None:
        _compare(config)
    elif config.benchmark is not None and OmegaConf.is_missing(config, "videos"):
        _totals(config)
    elif OmegaConf.is_missing(config, "videos"):
        raise ValueError(
            "videos must name a folder of clips, e.g. one that sample.py wrote, a list (.jsonl) or shards; or give "
            "compare=[RUN,RUN], or benchmark=NAME columns=[TABLE.csv]"
        )
    else:
        _evaluate(config)


def _evaluate(config: DictConfig) -> None:
    from .config import check
    from .datamodules.shards import write_atomically
    from .evaluation.report import write_report
    from .evaluation.session import Session
    from .evaluation.table import print_result, print_totals
    from .evaluation.totals import aggregate, get_benchmark, means_of_result, read_columns
    from .run import quiet_libraries

    quiet_libraries(config.num_threads)
    check(config)
    benchmark = None if config.benchmark is None else get_benchmark(config.benchmark)
    columns = [] if benchmark is None else read_columns(config.columns or (), benchmark)
    session = Session(config, asked_for=_asked_for(config))
    output = Path(config.output)
    result = session.run(output)
    if benchmark is not None:
        result["benchmark"] = aggregate(
            config.benchmark, [means_of_result(result, benchmark, "measured here"), *columns]
        )
    write_atomically(output / "metrics.json", to_json(result))
    write_report(
        output / "report.html",
        result,
        session.measured.clips,
        title=config.title or f"Evaluation of {config.videos}",
        training=None if config.training is None else Path(config.training),
    )
    print_result(result)
    if benchmark is not None:
        print_totals(result["benchmark"])
    known = len(session.measured.clips) - session.measured.num_new
    if known > 0:
        log.info("%d clips were measured before and have not changed", known)
    log.info("metrics.json and report.html in %s", output)


def _compare(config: DictConfig) -> None:
    from .datamodules.shards import write_atomically
    from .evaluation.comparison import compare
    from .evaluation.pairs import read_runs
    from .evaluation.report import write_comparison
    from .evaluation.table import print_comparison

    runs = read_runs([Path(place) for place in config.compare])
    result = compare(runs, num_resamples=config.num_resamples, seed=config.seed)
    output = Path(config.output)
    write_atomically(output / "comparison.json", to_json(result))
    write_comparison(output / "comparison.html", result, runs, title=config.title or "Comparison of runs")
    print_comparison(result)
    log.info("comparison.json and comparison.html in %s", output)


def _totals(config: DictConfig) -> None:
    from .datamodules.shards import write_atomically
    from .evaluation.table import print_totals
    from .evaluation.totals import aggregate, check_something_known, get_benchmark, read_columns

    sources = read_columns(config.columns or (), get_benchmark(config.benchmark))
    totals = aggregate(config.benchmark, sources)
    check_something_known(totals)
    write_atomically(Path(config.output) / "totals.json", to_json(totals))
    print_totals(totals)
    log.info("totals.json in %s", config.output)


def to_json(result: Any) -> bytes:
    """Return strict JSON: what is not a number must be None by now."""
    return json.dumps(result, indent=1, allow_nan=False).encode()


def _asked_for(config: DictConfig) -> set[str]:
    """Return the metrics that the command line asks for by name: without their models, they are an error.

    Who names the analyzer asks for what looks for faces, but for `metrics=all`, which is what there is.
    """
    from hydra.core.hydra_config import HydraConfig

    overrides = [override.lstrip("+~") for override in HydraConfig.get().overrides.task]
    named = {name.partition("=")[0].split(".")[1] for name in overrides if name.startswith("metrics.")}
    choice = next((value.partition("=")[2] for value in overrides if value.startswith("metrics=")), "default")
    groups = choice.strip("[]").split(",")
    tolerated = {
        str(name)
        for group in groups
        if group in TOLERANT_GROUPS and (CONF_DIR / "metrics" / f"{group}.yaml").is_file()
        for name in (config.metrics if group == "all" else OmegaConf.load(CONF_DIR / "metrics" / f"{group}.yaml"))
    }
    if "all" not in groups and any(override.startswith("analyzer=") for override in overrides):
        tolerated -= {str(name) for name, node in config.metrics.items() if node is not None and "analyzer" in node}
    return (named & set(map(str, config.metrics))) | (set(map(str, config.metrics)) - tolerated)


if __name__ == "__main__":
    main()
