"""Where the configuration lies, what its roots may hold, and how a wrong name is refused."""

import difflib
import functools
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, BooleanNode, DictConfig, FloatNode, OmegaConf, StringNode

PACKAGE_DIR = Path(__file__).parent
CONF_DIR = PACKAGE_DIR / "conf" if (PACKAGE_DIR / "conf").is_dir() else PACKAGE_DIR.parent / "conf"


@dataclass
class PathsConfig:
    """`conf/paths`: where things are read and written."""

    data_dir: str = MISSING
    weights_dir: str = MISSING
    output_root: str = MISSING
    output_dir: str | None = MISSING


@dataclass
class BackboneConfig:
    """`conf/backbone`: a denoiser with its frozen companions.

    `weights`: the folder they come from, `download`: how to get it. Of the encoders, those that the method reads.
    """

    weights: str | None = None
    download: str | None = None
    denoiser: Any = MISSING
    autoencoder: Any = MISSING
    text_encoder: Any = None
    image_encoder: Any = None


@dataclass
class TrainConfig:
    """Root of `train.yaml`."""

    experiment_name: str = MISSING
    run_name: str = MISSING
    seed: int = 42
    ckpt: str | None = None
    init_from: str | None = None
    init_weights: str = "ema"
    continues: str | None = None  # set by experiments: the one whose run this one is meant to start from
    fps: float = MISSING
    num_threads: int | None = None
    optimized_metric: str | None = None
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    model: Any = MISSING
    datamodule: Any = MISSING
    sampling: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    trainer: Any = MISSING
    analyzer: Any = None
    paths: PathsConfig = field(default_factory=PathsConfig)


@dataclass
class SampleConfig:
    """Root of `sample.yaml`."""

    ckpt: str = MISSING
    output: str = MISSING
    prompt: str | None = None
    references: list[str] = field(default_factory=list)
    inputs: str | None = None
    boxes: str | None = None
    show_boxes: bool = False
    num_videos: int = 1
    batch_size: int | None = None
    memory: str | None = None
    share: str = "auto"
    seed: int = 42
    weights: str = "ema"
    lora_scale: float = 1.0
    sampling: dict[str, Any] = field(default_factory=dict)
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: float | None = None
    device: str = "auto"
    dtype: str = "auto"
    analyzer: Any = None
    parser: Any = None
    preprocess: Any = None
    paths: PathsConfig = field(default_factory=PathsConfig)


@dataclass
class EvaluateConfig:
    """Root of `evaluate.yaml`."""

    videos: str = MISSING
    output: str = MISSING
    references: str | None = None
    prompts: str | None = None
    real: str | None = None
    save_real: str | None = None
    compare: list[str] | None = None
    benchmark: str | None = None
    columns: list[str] | None = None
    num_resamples: int = 1000
    num_threads: int | None = None
    seed: int = 0
    training: str | None = None
    title: str | None = None
    analyzer: Any = MISSING
    metrics: dict[str, Any] = field(default_factory=dict)
    paths: PathsConfig = field(default_factory=PathsConfig)


@dataclass
class PrepareConfig:
    """Root of `prepare.yaml`."""

    source: Any = MISSING
    output: str = MISSING
    reader: str = "pyav"
    samples_per_shard: int = 500
    num_workers: int | None = None
    keep_stages: bool = False
    check: str | None = None
    full: bool = False
    analyzer: Any = None
    parser: Any = None
    preprocess: Any = None
    stages: dict[str, Any] = field(default_factory=dict)
    paths: PathsConfig = field(default_factory=PathsConfig)


# Root of `export.yaml`. A mapping, since `from` is a keyword of Python, which no dataclass can hold.
EXPORT_CONFIG = OmegaConf.create(
    {
        "from": StringNode(MISSING, is_optional=False),
        "to": StringNode(MISSING, is_optional=False),
        "format": StringNode(None),
        "weights": StringNode(None),
        "dtype": StringNode(None),
        "variant": StringNode(None),
        "base": StringNode(None),
        "vae": StringNode(None),
        "merge_lora": BooleanNode(False, is_optional=False),
        "lora_scale": FloatNode(1.0, is_optional=False),
        "max_shard_size": StringNode(MISSING, is_optional=False),
        "paths": PathsConfig,
    },
    flags={"struct": True},
)

SCHEMAS: dict[str, Any] = {
    "train": TrainConfig,
    "sample": SampleConfig,
    "evaluate": EvaluateConfig,
    "prepare": PrepareConfig,
    "export": EXPORT_CONFIG,
}


def command(name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of a composed config the command `name`, which reads `conf/NAME.yaml` and the command line.

    What a user got wrong ends in one message and exit code 1; anything else in a traceback. HYDRA_FULL_ERROR=1 shows
    both.
    """

    def decorate(run: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(run)
        def main() -> None:
            import hydra
            from hydra.core.config_store import ConfigStore

            # `--help` copies Hydra's sources a hundred times, and this store with them. It never changes later, and the
            # copies were two thirds of the time.
            ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]
            _store_schemas()
            wants_traceback = os.environ.get("HYDRA_FULL_ERROR")
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then lets exceptions through to the lines below
            try:
                hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=name)(run)()
            except Exception as error:
                message = None if wants_traceback == "1" else explain(error, name)
                if message is None:
                    raise
                sys.stderr.write(f"error: {message}\n")
                sys.exit(1)
            finally:
                os.environ.pop("HYDRA_FULL_ERROR")
                if wants_traceback is not None:
                    os.environ["HYDRA_FULL_ERROR"] = wants_traceback

        return main

    return decorate


def compose_config(name: str, overrides: Sequence[str], config_dir: str | None = None) -> DictConfig:
    """Return the config of the command `name` as the words `overrides` would make it. `config_dir`: `--config-dir`.

    May be called from within another command.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    _store_schemas()
    search = [] if config_dir is None else [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"]
    hydra = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            return compose(name, overrides=[*overrides, *search])
    finally:
        GlobalHydra.instance().hydra = hydra


def _store_schemas() -> None:
    from hydra.core.config_store import ConfigStore

    for schema, root in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{schema}_schema", node=_open_sampling(OmegaConf.structured(root)))


def explain(error: BaseException, command_name: str) -> str | None:
    """Return what to tell the user about `error`, or None where it is not the user's doing."""
    from hydra.errors import CompactHydraException, InstantiationException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return explain(error.__cause__, command_name) or str(error)
    if isinstance(error, MissingConfigException):
        return _with_nearest_option(error)
    if isinstance(error, OmegaConfBaseException):
        missing = re.search(r"Missing mandatory value: (\S+)", str(error))
        return f"{missing.group(1)} must be given" if missing else str(error)
    if isinstance(error, NotADirectoryError):
        return f"{error.filename} lies below a file: give another folder for what is written, output=FOLDER"
    if isinstance(error, CompactHydraException):
        return _with_nearest_key(f"{error}\n{error.__cause__ or ''}".strip(), command_name)
    if type(error).__name__ == "MisconfigurationException" or is_raised_here(error):
        return str(error)
    return None


def check(config: DictConfig) -> None:
    """Refuse every key that its target does not take, and every required value that is missing.

    Raises ValueError naming the key and the nearest valid one. Imports what the config names.
    """
    for path, node in _targets(config):
        parameters = inspect.signature(locate(node["_target_"], path)).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            continue
        for key in node:
            if not str(key).startswith("_") and key not in parameters:
                raise ValueError(f"{path}.{key} is not a setting of {node['_target_']}{nearest(str(key), parameters)}")
    missing = OmegaConf.missing_keys(config)
    if missing:
        raise ValueError(f"{', '.join(sorted(missing))} must be given")


def locate(target: str, path: str) -> Any:
    """Return the object that a `_target_` at config `path` names. Raises ValueError where there is none."""
    parts = target.split(".")
    for split in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError as error:
            if not ".".join(parts[:split]).startswith(error.name or "?"):
                raise ValueError(
                    f"{path}._target_={target} needs the package {error.name}, which is not installed"
                ) from error
            continue
        try:
            return functools.reduce(getattr, parts[split:], found)
        except AttributeError as error:
            raise ValueError(f"{path}._target_={target} does not exist: {error}") from error
    raise ValueError(f"{path}._target_={target} does not exist")


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return `: did you mean X?` or, where nothing is close, the list of what is allowed."""
    by_lower_case = {str(candidate).lower(): str(candidate) for candidate in sorted(candidates, key=str)}
    # In a short name, one swap of letters is already half of it.
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.5 if len(name) < 6 else 0.6)
    return (
        f": did you mean {by_lower_case[close[0]]}?" if close else f": allowed are {', '.join(by_lower_case.values())}"
    )


def _open_sampling(node: DictConfig) -> DictConfig:
    """Let any key in below `sampling`: the method's `sample` says what is allowed (`check_sampling`)."""
    if "sampling" in node:
        OmegaConf.set_struct(node.sampling, False)
    return node


def _targets(node: Any, path: str = "") -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Yield (path, node) for every node with a `_target_`.

    Interpolations are not followed: what they point to is visited itself.
    """
    if isinstance(node, DictConfig):
        if node._is_none() or node._is_missing():
            return
        if "_target_" in node:
            yield path, node
        for key in map(str, node):
            if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
                yield from _targets(node[key], f"{path}.{key}" if path else key)
    elif OmegaConf.is_list(node):
        for index, value in enumerate(node):
            yield from _targets(value, f"{path}[{index}]")


def is_raised_here(error: BaseException) -> bool:
    """True for a ValueError that this package raised itself: those say what is wrong and what to change."""
    if not isinstance(error, ValueError) or error.__traceback__ is None:
        return False
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return Path(trace.tb_frame.f_code.co_filename).is_relative_to(PACKAGE_DIR)


def _with_nearest_option(error: Any) -> str:
    text, missing = str(error), (error.missing_cfg_file or "").rpartition("/")[2]
    options = error.options or []
    return text.split("\n")[0] + nearest(missing, options) if options else text


def _with_nearest_key(message: str, command_name: str) -> str:
    """Return Hydra's complaint about an unknown key with the nearest valid one, or how to add an unlisted one."""
    found = re.search(r"Could not override '([^']+)'", message) or re.search(r"full_key: (\S+)", message)
    if found is None or not re.search(r"is not in struct|not in '\w+'", message):
        return re.sub(r"\n(Error merging|\s*(full_key|reference_type|object_type)).*", "", message)
    *parents, key = found.group(1).split(".")
    listed, settings = _known_keys(command_name, parents)
    while not listed and parents:
        *parents, key = parents
        listed, settings = _known_keys(command_name, parents)
        if key in listed:
            path = ".".join([*parents, key])
            options = ", ".join(sorted(f"{key}={file.stem}" for file in (CONF_DIR / key).glob("*.yaml")))
            whole = options or f"it whole, as '{path}={{KEY: VALUE, ...}}'"
            return f"{found.group(1)}: {path} is null here, give {whole}"
    if key in settings:
        return (
            f"{found.group(1)} is not in the configuration, but its target takes it: give it as +{found.group(1)}=VALUE"
        )
    where = ".".join(parents) or f"{command_name}.yaml"
    return f"{found.group(1)}: {where} has no key {key}{nearest(key, {*listed, *settings} - {'_target_', '_partial_'})}"


def _known_keys(command_name: str, parents: list[str]) -> tuple[list[str], list[str]]:
    """Return the keys below `parents` in the config that the command line selects, and the settings of its target."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    if not parents:
        return [str(key) for key in OmegaConf.structured(SCHEMAS[command_name])], []
    groups = [a for a in sys.argv[1:] if re.fullmatch(r"[\w/]+=[\w-]+", a) and (CONF_DIR / a.split("=")[0]).is_dir()]
    for overrides in (groups, []):
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
                node: Any = compose(command_name, overrides=overrides)
            for parent in parents:
                node = node[parent]
            if node is None:
                break
            settings = inspect.signature(locate(node["_target_"], "")).parameters if "_target_" in node else ()
            return [str(key) for key in node], list(settings)
        except Exception:  # a group of the user's own --config-dir, or a parent that does not exist either
            continue
    return [], []
