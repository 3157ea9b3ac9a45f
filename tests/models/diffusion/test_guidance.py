import torch

from likeness.models.diffusion.guidance import guide


def test_scale_one_is_the_conditional_and_zero_the_unconditional():
    unconditional, conditional = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
    assert torch.equal(guide(unconditional, conditional, 1.0), conditional)
    assert torch.equal(guide(unconditional, conditional, 0.0), unconditional)
    assert guide(unconditional, conditional, 2.0).tolist() == [5.0, 8.0]
