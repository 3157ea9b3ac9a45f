import torch

from likeness.models.text_encoders import T5TextEncoder
from likeness.toy.backbone import ToyTextEncoder

TINY = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 384}


def test_t5_pads_and_truncates_to_its_length():
    encoder = T5TextEncoder(config=TINY, max_length=12)
    embeds = encoder(["a", "a very long prompt that does not fit"])
    assert embeds.shape == (2, 12, 16)
    assert not embeds.requires_grad


def test_t5_prompts_do_not_depend_on_their_batch():
    encoder = T5TextEncoder(config=TINY, max_length=12)
    torch.testing.assert_close(encoder(["one", "two"])[1:], encoder(["two"]))


def test_toy_encoder_tells_word_order_apart():
    encoder = ToyTextEncoder(embed_dim=16, max_length=6)
    first, second = encoder(["red shirt blue wall", "blue shirt red wall"])
    assert not torch.allclose(first, second)


def test_toy_encoder_is_the_same_in_every_process():
    value = ToyTextEncoder(embed_dim=16, max_length=6)(["teal"])[0, 0, :3]
    torch.testing.assert_close(value, torch.tensor(EXPECTED), atol=1e-5, rtol=0)


def test_toy_encoder_pads_with_zeros_and_cuts():
    embeds = ToyTextEncoder(embed_dim=16, max_length=3)(["one", "one two three four"])
    assert (embeds[0, 1:] == 0).all()
    assert embeds.shape == (2, 3, 16)


EXPECTED = [2.012683, 0.483628, -0.874358]
