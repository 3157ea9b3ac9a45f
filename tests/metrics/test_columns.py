import copy

import pytest
import torch

from likeness.metrics.columns import ColumnMetric, mean_of_defined, mean_over_parts

from .two_processes import in_two_processes


class Kept(ColumnMetric):
    """Keeps rows of two numbers and a count."""

    def __init__(self) -> None:
        super().__init__()
        self.add_columns(pairs=torch.zeros(0, 2), count=torch.zeros(0, dtype=torch.long))

    def update(self, *values: float) -> None:
        self.append(pairs=torch.tensor([[value, -value] for value in values]), count=torch.tensor([len(values)]))

    def compute(self) -> dict[str, torch.Tensor]:
        return {"pairs": self.column("pairs"), "count": self.column("count")}


def test_rows_stay_in_order_in_few_parts():
    metric = Kept()
    for value in range(1000):
        metric.update(float(value))
    assert metric.column("pairs")[:, 0].tolist() == list(range(1000))
    assert len(metric.pairs) <= 10
    metric.reset()
    assert metric.column("pairs").shape == (0, 2)
    assert metric.column("count").dtype == torch.long


@pytest.mark.parametrize("split", [0, 1, 3])
def test_rows_of_two_processes_are_all_there_even_if_one_has_none(split):
    rows = [(1.0,), (2.0, 3.0), (4.0,)]

    def kept(rank: int) -> dict[str, list]:
        metric = Kept()
        for values in (rows[:split], rows[split:])[rank]:
            metric.update(*values)
        return {name: value.tolist() for name, value in metric.compute().items()}

    for result in in_two_processes(kept):
        assert result["pairs"] == [[value, -value] for value in (1, 2, 3, 4)]
        assert result["count"] == [1, 2, 1]


def test_copy_keeps_its_own_rows():
    metric = Kept()
    metric.update(1.0)
    other = copy.deepcopy(metric)
    other.update(2.0)
    assert len(metric.column("pairs")) == 1
    assert len(other.column("pairs")) == 2


def test_means_leave_out_what_is_not_defined():
    values = torch.tensor([1.0, torch.nan, 3.0, torch.nan])
    assert mean_of_defined(values) == 2
    assert mean_of_defined(values[1:2]).isnan()
    torch.testing.assert_close(
        mean_over_parts(values, [2, 1, 1]), torch.tensor([1, 3, torch.nan], dtype=torch.float64), equal_nan=True
    )
