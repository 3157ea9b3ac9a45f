"""Every layout can be named on the command line, with all of its settings."""

import inspect

import pytest
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from likeness.config import CONF_DIR

LAYOUTS = sorted((CONF_DIR / "source").glob("*.yaml"))


@pytest.mark.parametrize("path", LAYOUTS, ids=lambda path: path.stem)
def test_the_settings_of_a_layout_are_those_of_its_class(path):
    config = OmegaConf.load(path)
    given = {
        name: None if OmegaConf.is_missing(config, name) else config[name] for name in config if name != "_target_"
    }
    parameters = inspect.signature(get_object(config._target_)).parameters
    assert list(given) == list(parameters)
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty or given[name] is None:
            continue
        plain = OmegaConf.to_container(given[name]) if OmegaConf.is_config(given[name]) else given[name]
        default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        assert plain in (default, {} if default is None else default)


def test_joint_builds_its_sources(tmp_path):
    (tmp_path / "webvid.jsonl").write_text('{"text": "x", "file": "a.mp4"}\n')
    config = OmegaConf.load(CONF_DIR / "source" / "joint.yaml")
    config.sources.webvid.update(file=str(tmp_path / "webvid.jsonl"), folder=str(tmp_path))
    config.sources.pexels = None
    (clip,) = instantiate(config, _convert_="all")
    assert clip.video == tmp_path / "a.mp4"
