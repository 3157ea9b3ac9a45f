"""Every experiment composes and takes a step; every wrong setting is refused by name."""

import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from likeness.config import CONF_DIR, SCHEMAS, check, nearest

from .commands import call
from .conftest import REPOSITORY

EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))
GROUPS = sorted(
    (path.parent.name, path.stem)
    for path in CONF_DIR.glob("*/*.yaml")
    if path.parent.name not in ("experiment", "debug", "source")
)


def compose_train(*overrides: str):
    from hydra.core.config_store import ConfigStore

    for name, root in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=root)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", overrides=[*overrides, "paths.output_dir=out", "run_name=test"])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_names_only_settings_that_exist(experiment):
    config = compose_train(
        f"experiment={experiment}", "+datamodule.train=x" if experiment.endswith("toy") else "datamodule.train=x"
    )
    assert config.experiment_name == experiment
    if not experiment.endswith("toy"):
        check(config)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_takes_steps_with_debug_tiny(experiment, capfd, tmp_path, toy_settings):
    outcome = call(
        capfd,
        "train",
        f"experiment={experiment}",
        "debug=tiny",
        *toy_settings,
        f"paths.output_root={tmp_path}",
        "run_name=x",
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
        "callbacks.log_samples.num_clips=1",
    )
    assert outcome.code == 0, outcome.error
    assert (tmp_path / "x" / "metrics.csv").is_file()
    assert (tmp_path / "x" / "config.yaml").is_file()
    assert list((tmp_path / "x" / "samples").rglob("*.mp4")), outcome.log


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["logger=tensorboard"], "tensorboard/events.out.tfevents.*"),
        pytest.param(["logger=wandb", "logger.wandb.offline=true"], "wandb/offline-run-*", marks=pytest.mark.slow),
    ],
)
def test_other_loggers_write_beside_the_csv_file(capfd, tmp_path, toy_settings, arguments, file):
    outcome = call(
        capfd,
        "train",
        "experiment=concat_id",
        "debug=tiny",
        *toy_settings,
        *arguments,
        f"paths.output_root={tmp_path}",
        "run_name=x",
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
    )
    assert outcome.code == 0, outcome.error
    assert list((tmp_path / "x").glob(file))
    assert (tmp_path / "x" / "metrics.csv").is_file()
    # The next job of a sweep, in the same process, must not go on with this one's run.
    assert "wandb" not in sys.modules or sys.modules["wandb"].run is None


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_file_holds_no_target_and_says_how_to_run_it(experiment):
    text = (CONF_DIR / "experiment" / f"{experiment}.yaml").read_text()
    assert text.startswith("# @package _global_\n# python train.py experiment=")


@pytest.mark.parametrize(("group", "option"), GROUPS)
def test_every_option_of_every_group_is_valid(group, option):
    text = OmegaConf.load(CONF_DIR / group / f"{option}.yaml")
    assert OmegaConf.is_config(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment=concat_id_tyo"], "did you mean concat_id_toy?"),
        (["debug=tyni"], "did you mean tiny?"),
        (["backbone=cogvideox_5"], "did you mean cogvideox_5b?"),
        (["datamodule=shard"], "did you mean shards?"),
        (["traner.max_steps=3"], "train.yaml has no key traner: did you mean trainer?"),
        (["trainer.max_step=3"], "trainer has no key max_step: did you mean max_steps?"),
        (["model.optimizer.Lr=3"], "model.optimizer has no key Lr: did you mean lr?"),
        (["callbacks.emma.decay=0.9"], "callbacks has no key emma: did you mean ema?"),
        (["model.lora.rank=3"], "model.lora is null here, give lora=attention, lora=svd,"),
        (
            ["callbacks.log_samples.time_budget_s.max=3"],
            "time_budget_s is null here, give it whole, as 'callbacks.log_samples.time_budget_s={KEY: VALUE, ...}'",
        ),
        (["callbacks.progress.log_every_s=3"], "give it as +callbacks.progress.log_every_s=VALUE"),
        (["+callbacks.progress.log_evry_s=3"], "callbacks.progress.log_evry_s is not a setting of"),
        (["+model.guidence_scale=3"], "model.guidence_scale is not a setting of likeness.models.concat_id.ConcatID"),
        (["+datamodule.batchsize=3"], "did you mean batch_size?"),
        (
            ["sampling.guidence_scale=3"],
            "sampling.guidence_scale is not a setting of ConcatID.sample: did you mean guidance_scale?",
        ),
        (
            ["model._target_=likeness.models.concat_id.ConcatD"],
            "model._target_=likeness.models.concat_id.ConcatD does not exist",
        ),
        (["optimized_metrics=val/loss"], "did you mean optimized_metric?"),
        (
            ["model=concat_id_wan", "model.process.shfit=3"],
            "model.process has no key shfit: did you mean shift?",
        ),
        (["seed=many"], "Value 'many' of type 'str' could not be converted to Integer"),
    ],
)
def test_misspelt_setting_is_refused_with_the_nearest(capfd, tmp_path, toy_settings, arguments, message):
    base = [] if arguments[0].startswith("datamodule=") else toy_settings
    outcome = call(capfd, "train", *base, f"paths.output_root={tmp_path}", *arguments)
    assert outcome.code == 1
    assert message in outcome.error
    assert "Traceback" not in outcome.error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimised_metric: val/loss", "did you mean optimized_metric?"),
        ("model: {reference_dropuot: 0.5}", "model.reference_dropuot is not a setting of"),
        ("trainer: {max_step: 5}", "trainer.max_step is not a setting of lightning.Trainer: did you mean max_steps?"),
        ("callbacks: {log_samples: {every: 5}}", "callbacks.log_samples.every is not a setting"),
        ("datamodule: {conditions: {references: {hight: 5}}}", "did you mean height?"),
        ("backbone: {denoisr: 5}", "did you mean denoiser?"),
    ],
)
def test_misspelt_key_in_a_users_experiment_is_refused(capfd, tmp_path, toy_settings, text, message):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    outcome = call(
        capfd,
        "train",
        "--config-dir",
        str(tmp_path),
        "experiment=mine",
        *toy_settings,
        f"paths.output_root={tmp_path}/out",
    )
    assert outcome.code == 1
    assert message in outcome.error
    assert "Traceback" not in outcome.error


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (
            ["experiment=concat_id", "datamodule.train=x"],
            ["hf download zai-org/CogVideoX-5b", "backbone.weights=", "debug=tiny"],
        ),
        (
            ["experiment=concat_id", "debug=tiny", "datamodule=shards"],
            ["datamodule.train must name the training shards", "prepare.py"],
        ),
        (
            ["experiment=concat_id", "debug=tiny", "datamodule=shards", "datamodule.train=gone"],
            ["datamodule.train=gone does not exist"],
        ),
        (["trainer.accelerator=gpu"], ["trainer.accelerator=gpu", "sees no GPU", "trainer.accelerator=cpu"]),
        (["ckpt=gone"], ["there is no checkpoint at gone"]),
        (
            ["datamodule.num_frames=48", "backbone=cogvideox_5b_tiny"],
            ["num_frames=48", "45 or 49", "datamodule.num_frames"],
        ),
        (
            ["backbone=wan21_1_3b_tiny", "datamodule.num_frames=9"],
            ["CogVideoXPlacement cannot place references in a ReferenceWanTransformer", "model=concat_id_wan for Wan"],
        ),
        (["experiment=concat_id_wan", "datamodule.train=x"], ["hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers"]),
        (["datamodule.reader=opencv"], ["reader='opencv' is not one of pyav, decord"]),
        (["datamodule.batch_size=100"], ["24 samples, too few for one batch of 100"]),
    ],
)
def test_what_cannot_run_is_refused_with_what_to_do(capfd, tmp_path, toy_settings, arguments, messages):
    import torch

    if "trainer.accelerator=gpu" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    base = (
        []
        if any(argument.startswith(("experiment=concat_id", "datamodule=")) for argument in arguments)
        else toy_settings
    )
    outcome = call(capfd, "train", *base, f"paths.output_root={tmp_path}", *arguments)
    assert outcome.code == 1
    for message in messages:
        assert message in outcome.error
    assert "Traceback" not in outcome.error


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_commands_compose_without_importing_anything_heavy(name):
    script = (
        f"import sys; sys.argv = ['{name}.py', '--help']\n"
        f"from likeness.{name} import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'diffusers', 'transformers', 'wandb', 'webdataset', 'av', 'scipy'} & "
        "set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_import_of_the_package_imports_nothing_but_the_standard_library():
    script = (
        "import sys; before = set(sys.modules); import likeness\n"
        "print({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "{'likeness'}", done.stdout


def test_nearest_lists_what_is_allowed_where_nothing_is_close():
    assert nearest("zzz", ["alpha", "beta"]) == ": allowed are alpha, beta"
    assert nearest("alpah", ["alpha", "beta"]) == ": did you mean alpha?"
