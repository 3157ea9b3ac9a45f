"""Wheel, editable install and plain checkout hold the same package."""

import subprocess
import sys
import tomllib
import zipfile

import pytest

from likeness.config import CONF_DIR

from .conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: setuptools leaves build folders where it runs.
    source = tmp_path_factory.mktemp("source") / "likeness"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in listed:
        if (REPOSITORY / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPOSITORY / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_package_list_names_every_folder():
    folders = {path.parent.relative_to(REPOSITORY / "src") for path in (REPOSITORY / "src").rglob("__init__.py")}
    expected = {".".join(["likeness", *folder.parts]) for folder in folders} | {"likeness.conf"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == expected
    modules = {path.parent for path in (REPOSITORY / "src").rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in modules)


def test_wheel_holds_every_module_config_and_weight_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    source = {f"likeness/{path.relative_to(REPOSITORY / 'src')}" for path in (REPOSITORY / "src").rglob("*.py")}
    config = {f"likeness/conf/{path.relative_to(CONF_DIR)}" for path in CONF_DIR.rglob("*.yaml")}
    assert source | config | {"likeness/toy/analyzer.safetensors"} <= names
    top = {name.partition("/")[0] for name in names}
    assert top == {"likeness", f"likeness-{PROJECT['project']['version']}.dist-info"}


def test_installed_wheel_runs_without_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(site), str(wheel)]
    assert subprocess.run(command).returncode == 0
    script = (
        "import sys; sys.path.insert(0, sys.argv.pop())\n"
        "sys.argv = ['likeness-train', 'experiment=concat_id', '--cfg', 'job']\n"
        "import likeness; assert 'site' in list(likeness.__path__)[0]\n"
        "from likeness.train import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script, str(site)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "experiment_name: concat_id" in done.stdout
    assert {path.name for path in (site / "bin").iterdir()} >= set(PROJECT["project"]["scripts"])


@pytest.mark.parametrize("name", ["train", "sample", "evaluate", "prepare", "export"])
def test_root_script_runs_the_checkout_from_anywhere(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / f"{name}.py"), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Powered by Hydra" in done.stdout
    assert len((REPOSITORY / f"{name}.py").read_text().splitlines()) == 4


def test_commands_have_console_scripts():
    assert PROJECT["project"]["scripts"] == {
        f"likeness-{name}": f"likeness.{name}:main" for name in ("train", "sample", "evaluate", "prepare", "export")
    }


def test_dependencies_drag_in_no_cuda_or_torchvision():
    lines = (REPOSITORY / "constraints.txt").read_text().lower()
    for unwanted in ("torchvision", "nvidia", "torchaudio", "triton", "+cpu"):
        assert unwanted not in lines.replace("# ", "")
