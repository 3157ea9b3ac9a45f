import itertools

import numpy as np
import pytest
import torch

from likeness.metrics.identity_scores import (
    best_assignment,
    drift_of_thirds,
    drift_slope,
    matching_share,
    person_number,
    rank_among_people,
)

NAN = float("nan")


def rows(*values: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, values))
    table = torch.tensor([[*row, *[NAN] * (longest - len(row))] for row in values])
    return table, torch.tensor(list(map(len, values)))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (2, 2), (3, 3), (3, 5), (5, 5), (5, 6)])
def test_assignment_is_the_best_of_all(height, width):
    rng = np.random.default_rng(height * 10 + width)
    for _ in range(20):
        similarity = rng.normal(size=(height, width))
        columns = best_assignment(similarity)
        assert len(set(columns)) == height
        best = max(similarity[range(height), chosen].sum() for chosen in itertools.permutations(range(width), height))
        assert similarity[range(height), columns].sum() == pytest.approx(best)


def test_assignment_equals_scipys_where_it_is_large():
    optimize = pytest.importorskip("scipy.optimize")
    similarity = np.random.default_rng(0).normal(size=(30, 40))
    assert best_assignment(similarity) == optimize.linear_sum_assignment(-similarity)[1].tolist()


def test_assignment_of_nothing_is_empty():
    assert best_assignment(np.zeros((0, 3))) == []


def test_slope_is_the_change_over_the_clip():
    similarity, counts = rows([1.0, 0.75, 0.5, 0.25, 0.0], [0.2, 0.4], [0.3, NAN, NAN, 0.6], [0.5], [NAN, 0.1, NAN])
    slope = drift_slope(similarity, counts)
    torch.testing.assert_close(slope[:3], torch.tensor([-1.0, 0.2, 0.3], dtype=torch.float64))
    assert slope[3:].isnan().all()


def test_thirds_compare_the_end_with_the_start():
    similarity, counts = rows([0.9, 0.7, 0.5, 0.5, 0.2, 0.4], [0.9, NAN, 0.1], [NAN, 0.5, 0.5], [0.5])
    thirds = drift_of_thirds(similarity, counts)
    torch.testing.assert_close(thirds[:2], torch.tensor([-0.5, -0.8], dtype=torch.float64))
    assert thirds[2:].isnan().all()


def test_frames_without_a_face_do_not_match():
    similarity, counts = rows([0.6, 0.4, NAN, 0.5], [0.9])
    assert matching_share(similarity, counts, 0.5).tolist() == [0.5, 1.0]
    assert matching_share(similarity, counts, None).isnan().all()


def test_rank_counts_people_and_not_pictures():
    axes = torch.eye(3)
    gallery = torch.stack([axes[0], axes[1], axes[1], axes[2], axes[0]])
    people = torch.tensor([1, 2, 2, 3, 1])
    clip = torch.tensor([[0.2, 0.9, 0.3]])
    assert rank_among_people(clip, axes[:1], torch.tensor([1]), gallery, people).tolist() == [3]
    assert rank_among_people(clip, axes[1:2], torch.tensor([2]), gallery, people).tolist() == [1]
    assert rank_among_people(clip * NAN, axes[:1], torch.tensor([1]), gallery, people).isnan().all()


def test_numbers_of_people_are_the_same_everywhere():
    assert person_number("Ada") == 2280366924975148840
    assert person_number("Ada") != person_number("Bob")
