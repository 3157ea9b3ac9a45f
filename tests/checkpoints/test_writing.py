import mmap

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

from likeness.checkpoints.lazy import LazyTensor
from likeness.checkpoints.sat import transformer_to_sat, vae_from_sat, vae_to_sat
from likeness.checkpoints.sources import read_source
from likeness.checkpoints.writing import save_torch_file, whole_folder, write_network, write_sat

from .tiny import loaded, same, tiny_transformer, tiny_vae, write_sat_vae
from .tiny import write_sat as write_published_sat


@pytest.fixture(scope="module")
def model():
    return tiny_transformer()


def sat_content(path, key="module"):
    return torch.load(path, weights_only=True)[key]


def test_sat_to_diffusers_to_sat_is_bit_identical(tmp_path, model):
    published = write_published_sat(tmp_path / "sat", model)
    write_network(tmp_path / "diffusers", read_source(published), None, "20KB")
    write_sat(tmp_path / "back", read_source(tmp_path / "diffusers"), None)
    name = "1/mp_rank_00_model_states.pt"
    assert same(sat_content(tmp_path / "back" / name), sat_content(published / name))
    assert (tmp_path / "back" / "latest").read_text() == "1"
    assert same(loaded(read_source(tmp_path / "back")), model.state_dict())


@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_diffusers_to_sat_to_diffusers_is_bit_identical(tmp_path, model, dtype, shard_size):
    before = tiny_transformer().to(dtype)
    before.save_pretrained(tmp_path / "first")
    write_sat(tmp_path / "sat", read_source(tmp_path / "first"), None)
    write_network(tmp_path / "second", read_source(tmp_path / "sat"), None, shard_size)
    assert (tmp_path / "second" / "diffusion_pytorch_model.safetensors.index.json").is_file() == (shard_size == "20KB")
    after = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "second", torch_dtype=dtype)
    assert same(after.state_dict(), before.state_dict())


def test_weights_are_cast_on_the_way(tmp_path, model):
    source = read_source(write_published_sat(tmp_path / "sat", model))
    expected = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    write_network(tmp_path / "d", source, torch.bfloat16, "5GB")
    assert same(loaded(read_source(tmp_path / "d")), expected)
    write_sat(tmp_path / "s", source, torch.bfloat16)
    assert same(sat_content(tmp_path / "s" / "1" / "mp_rank_00_model_states.pt"), transformer_to_sat(expected))


def test_vae_goes_both_ways_bit_identical(tmp_path):
    vae = tiny_vae()
    published = write_sat_vae(tmp_path / "3d-vae.pt", vae)
    write_network(tmp_path / "vae", read_source(published), None, "5GB")
    stock = AutoencoderKLCogVideoX.from_pretrained(tmp_path / "vae")
    assert same(stock.state_dict(), vae.state_dict())
    assert stock.config.scaling_factor == 0.7
    (tmp_path / "back").mkdir()
    write_sat(tmp_path / "back", read_source(tmp_path / "vae"), None)
    before = {name: tensor for name, tensor in sat_content(published, "state_dict").items() if "loss" not in name}
    assert same(sat_content(tmp_path / "back" / "3d-vae.pt", "state_dict"), before)
    assert same(vae_from_sat(vae_to_sat(vae.state_dict())), vae.state_dict())


def test_file_for_torch_load_is_written_one_tensor_at_a_time(tmp_path):
    alive = []

    def tensor(index):
        def load():
            alive.append(index)
            return torch.full((1000,), float(index), dtype=torch.bfloat16)

        return LazyTensor(torch.empty(1000, dtype=torch.bfloat16, device="meta"), load)

    tensors = {str(index): tensor(index) for index in range(5)}
    save_torch_file(tmp_path / "a.pt", "module", tensors)
    assert alive == [0, 1, 2, 3, 4]
    for options in (mmap.MAP_PRIVATE, None):
        content = torch.load(tmp_path / "a.pt", weights_only=True, mmap=options is not None)["module"]
        assert [int(value[7]) for value in content.values()] == [0, 1, 2, 3, 4]


def test_target_that_exists_is_refused_and_kept(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("x")
    with pytest.raises(ValueError, match=r"to=.*a exists"), whole_folder(tmp_path / "a", 1):
        pass
    assert (tmp_path / "a" / "mine").read_text() == "x"


def test_folder_that_cannot_be_finished_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").write_text("x")
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"), whole_folder(tmp_path / "a", 1) as folder:
        fail(folder)
    with (
        pytest.raises(ValueError, match=r"needs 1000000000\.0 GB.*nothing was written"),
        whole_folder(tmp_path / "a", 10**18),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_network_that_sat_cannot_hold_is_refused(tmp_path):
    tiny_transformer(use_rotary_positional_embeddings=True, use_learned_positional_embeddings=True).save_pretrained(
        tmp_path / "learned"
    )
    with pytest.raises(
        ValueError, match=r"format=sat holds .* with rotary positions, not .*learned: patch_embed is not"
    ):
        write_sat(tmp_path / "sat", read_source(tmp_path / "learned"), None)
