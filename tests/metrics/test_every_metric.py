"""What every metric of the package must do, found by looking for them: `cases` has a case of each."""

import importlib
import inspect
import pkgutil
import warnings

import pytest
import torch
from torchmetrics import Metric

import likeness.metrics
from likeness.evaluation.result import COLUMN_OF
from likeness.metrics.clip_score import AestheticLayers
from likeness.metrics.model_files import MODEL_FILES

from .cases import CASES, measured, measured_metric
from .tiny_models import write_clip, write_dino
from .two_processes import in_two_processes

torch.set_num_threads(1)


def metrics_of_the_package() -> set[type[Metric]]:
    modules = [
        importlib.import_module(f"likeness.metrics.{one.name}")
        for one in pkgutil.iter_modules(likeness.metrics.__path__)
    ]
    found = [one for module in modules for _, one in inspect.getmembers(module, inspect.isclass)]
    return {
        one
        for one in found
        if issubclass(one, Metric) and one.__module__.startswith("likeness.metrics") and not inspect.isabstract(one)
    }


@pytest.fixture(scope="module")
def weights_dir(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("weights")
    write_clip(folder)
    write_clip(folder, "clip_vit_l14", projection_dim=768)
    write_dino(folder)
    torch.manual_seed(2)
    layers = AestheticLayers()
    torch.nn.init.constant_(layers.layers["7"].bias, 5.0)  # a rating that people give
    torch.save(layers.state_dict(), folder / MODEL_FILES["laion_aesthetic"].path)
    return str(folder)


def shares(num_clips: int) -> dict[str, tuple[list[int], list[int]]]:
    """Return which clips each of two processes measures."""
    places = list(range(num_clips))
    return {"alternating": (places[::2], places[1::2]), "uneven": (places[2:], places[:2]), "one idle": ([], places)}


@pytest.fixture(scope="module")
def shared(weights_dir) -> list[dict]:
    """What each of two processes has of every metric, for each way to share the clips: by metric and way."""
    for case in CASES.values():
        measured(case, weights_dir, range(len(case.clips())))  # what is built once is built before the processes part

    def measure(rank: int) -> dict:
        warnings.simplefilter("ignore")  # torchmetrics warns of a process without clips
        return {
            (metric, way): measured(case, weights_dir, parts[rank])
            for metric, case in CASES.items()
            for way, parts in shares(len(case.clips())).items()
        }

    return in_two_processes(measure)


def test_every_metric_has_a_case():
    assert metrics_of_the_package() == CASES.keys()


@pytest.mark.parametrize("metric", CASES, ids=lambda metric: metric.__name__)
def test_two_processes_get_what_one_gets_however_they_share_the_clips(metric, weights_dir, shared):
    case = CASES[metric]
    whole = measured(case, weights_dir, range(len(case.clips())))
    part = measured(case, weights_dir, range(1, len(case.clips())))
    assert any(value == value and value != part[name] for name, value in whole.items())  # the clips are not all alike
    for rank in range(2):
        for way in shares(len(case.clips())):
            found = shared[rank][metric, way]
            assert found == pytest.approx(whole, rel=1e-6, abs=1e-6, nan_ok=True), f"{way}, process {rank}"


@pytest.mark.parametrize("metric", CASES, ids=lambda metric: metric.__name__)
def test_values_are_the_means_over_clips_that_their_intervals_are_of(metric, weights_dir):
    case = CASES[metric]
    measured = measured_metric(case, weights_dir, range(len(case.clips())))
    columns, values = measured.per_clip(), measured.compute()
    weights = measured.clip_weights() if hasattr(measured, "clip_weights") else {}
    for name, value in values.items():
        column = columns.get(name, columns.get(COLUMN_OF.get(name)))
        if column is not None:
            known = ~column.isnan()
            weight = weights.get(name, weights.get(COLUMN_OF.get(name), torch.ones(len(column))))
            expected = (column[known].double() * weight[known]).sum() / weight[known].sum()
            assert value.item() == pytest.approx(expected.item(), abs=1e-6, nan_ok=True), name
