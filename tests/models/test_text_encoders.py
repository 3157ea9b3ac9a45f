import torch
from diffusers import WanPipeline

from likeness.models.text_encoders import T5TextEncoder, UMT5TextEncoder
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


def test_umt5_embeddings_equal_the_wan_pipelines():
    encoder = UMT5TextEncoder(config=TINY, max_length=12)
    pipeline = WanPipeline(encoder.tokenizer, encoder.encoder, vae=None, scheduler=None, transformer=None)
    prompts = ["a", "two  words &amp;amp;\n", "a very long prompt that does not fit", ""]
    expected = pipeline._get_t5_prompt_embeds(prompts, max_sequence_length=12, device=torch.device("cpu"))
    torch.testing.assert_close(encoder(prompts), expected)


def test_umt5_embeddings_are_zero_behind_the_text():
    embeds = UMT5TextEncoder(config=TINY, max_length=12)(["ab"])
    assert (embeds[0, 3:] == 0).all()  # two bytes and the end token
    assert (embeds[0, :3] != 0).any(dim=-1).all()


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
