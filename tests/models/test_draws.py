import torch

from likeness.models.draws import Draws, mix


def test_same_seed_and_name_give_the_same_numbers_in_any_order():
    first, second = Draws([1, 2]), Draws([1, 2])
    noise = first.normal("noise", (3,))
    second.uniform("timesteps")
    second.normal("other", (5,))
    assert torch.equal(second.normal("noise", (3,)), noise)


def test_names_are_independent():
    draws = Draws([1])
    assert not torch.equal(draws.normal("a", (8,)), draws.normal("b", (8,)))


def test_a_sample_does_not_depend_on_its_batch():
    together, alone = Draws([10, 11, 12]), Draws([11])
    assert torch.equal(together.normal("noise", (4,))[1:2], alone.normal("noise", (4,)))


def test_steps_and_ranks_draw_different_numbers():
    keys = [(42, 0, epoch, batch, rank) for epoch in range(3) for batch in range(3) for rank in range(3)]
    numbers = torch.stack([Draws.of_step(*key, num_samples=2).uniform("timesteps") for key in keys])
    assert len(torch.unique(numbers)) == numbers.numel()


def test_mixing_depends_on_order():
    assert mix(1, 2) != mix(2, 1)
    assert 0 <= mix(-1, 2**70) < 2**63


def test_normal_numbers_are_normal():
    values = Draws(range(100)).normal("noise", (1000,))
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
