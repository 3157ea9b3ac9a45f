"""Faces as ConsisID's and Celeb Basis' evaluations measure them, against numbers of the original implementations."""

import re

import numpy as np
import torch
import torch.nn.functional as F

from likeness.metrics.celeb_basis_identity import CelebBasisIdentity, compare_embeddings
from likeness.metrics.face_similarity import FaceSimilarity
from likeness.models.identity.analyzer import Face
from likeness.models.identity.curricularface import CurricularFace
from likeness.models.identity.sphere20 import Sphere20

from .golden import Case, fill


class GivenFaces:
    """Analyzer and embedder whose pictures say which of the `embeddings` they show, from 1; 0 for no face."""

    name = "given"

    def __init__(self, embeddings: np.ndarray):
        self.embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        self.embedding_dim = embeddings.shape[1]

    def __call__(self, image, keypoints=None):
        number = int((image[..., 0] + 256 * image[..., 1].astype(int)).min())  # a grey border leaves 0 as it is
        if keypoints is not None:
            return self.embeddings[number - 1][None].repeat(len(keypoints), axis=0)
        return [Face(np.zeros(4), np.zeros((5, 2)), 1.0, self.embeddings[number - 1])] if number else []


def picture(number: int) -> np.ndarray:
    return np.broadcast_to(np.array([number % 256, number // 256, 0], np.uint8), (4, 4, 3))


def numbers(text: str) -> list[float]:
    """The decimal numbers in what a manifest says of its inputs, in their order."""
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


def unit(name: str, shape: list[int], seed: int) -> np.ndarray:
    return fill(name, tuple(shape), seed) * np.float32(np.sqrt(np.prod(shape[1:])))


def check_face_metrics(case: Case) -> None:
    entries = {entry["name"]: entry for entry in case.inputs}
    reference = unit("input.ref_embedding", entries["reference embedding"]["shape"], case.seed)
    shape, found = entries["frame embeddings"]["shape"], entries["face found"]["values"]
    noise, first, last = numbers(entries["frame embeddings"]["make"])
    weights = np.linspace(first, last, shape[0], dtype=np.float32)[:, None]
    embeddings = noise * unit("input.frame_embeddings", shape, case.seed) + weights * reference
    metric = FaceSimilarity(
        analyzer=GivenFaces(np.concatenate([reference, embeddings])), convention="consisid", num_frames=shape[0]
    )
    frames = np.stack([picture(place + 2 if seen else 0) for place, seen in enumerate(found)])
    metric.update(frames, [picture(1)])
    per_frame = metric.per_frame()[0][0]
    rtol = float(case.tolerance["scalars"].split()[-1])
    np.testing.assert_allclose(metric.compute()["face_similarity"], case.scalars["facesim"], rtol=rtol)
    np.testing.assert_array_equal(~per_frame.isnan(), found)
    scores = per_frame[torch.tensor(found)]
    np.testing.assert_allclose(scores.clamp_min(0), case.scalars["facesim_per_found_frame"], rtol=rtol)
    assert int((scores < 0).sum()) == case.scalars["negative_cosines_clamped"]
    metric.reset()
    metric.update(np.stack([picture(0)] * shape[0]), [picture(1)])
    assert metric.compute()["face_similarity"] == case.scalars["no_face_at_all"]


OFFSETS = {"fill": 0.0, "one_plus_fill": 1.0, "quarter_plus_fill": 0.25}


@torch.no_grad()
def check_curricularface(case: Case) -> None:
    network = CurricularFace(
        units=case.config["units"],
        widths=case.config["widths"],
        embedding_dim=case.config["embedding"],
        input_size=case.config["input"],
    ).eval()
    state = {}
    for name, shape, rule in case.state_dict:
        value = fill(name, tuple(shape), case.seed)
        value = 1 + np.abs(value) if rule == "one_plus_abs_fill" else OFFSETS[rule] + value
        state[name] = torch.from_numpy(value)
    names = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
    assert names == state.keys()
    network.load_state_dict(state, strict=False)
    assert sum(parameter.numel() for parameter in network.parameters()) == case.scalars["n_params"]
    stages, end = [], 0
    for count in case.config["units"]:
        end += count
        network.body[end - 1].register_forward_hook(lambda module, inputs, output: stages.append(output))
    faces = torch.from_numpy(unit("input.face", case.inputs[0]["shape"], case.seed))
    embeddings = network(faces)
    case.check(F.normalize(embeddings, dim=1), "embedding_normalised")
    assert [list(stage.shape) for stage in stages] == case.scalars["mid_shapes"]
    for name in [name for name in case.expected if name.startswith("mid_")]:
        part = stages[int(name.removeprefix("mid_"))][0, : case.expected[name].shape[0]]
        case.check(part / part.norm(), name)
    tolerance = {key: case.tolerance[key] for key in ("rtol", "atol")}
    np.testing.assert_allclose(embeddings.norm(dim=1), case.scalars["norm"], **tolerance)
    cosine = F.cosine_similarity(embeddings[0], embeddings[1], dim=0)
    np.testing.assert_allclose(cosine, case.scalars["cosine_of_the_two"], **tolerance)


@torch.no_grad()
def check_celeb_basis_metrics(case: Case) -> None:
    dim, tolerance = case.config["dim"], {key: case.tolerance[key] for key in ("rtol", "atol")}
    shapes = {name: tuple(entry["shape"]) for name, entry in case.inputs.items()}

    def raw(name: str) -> torch.Tensor:
        return torch.from_numpy(fill(name, shapes[name], case.seed)) * dim**0.5

    sources = F.normalize(raw("input.source_features"), dim=1)
    (share,) = numbers(case.inputs["input.generated_features"]["make"])
    generated = F.normalize(raw("input.generated_features") + share * dim**0.5 * sources[0], dim=1)
    scores = compare_embeddings(sources, generated)
    case.check(scores["cosine"], "cos_matrix")
    expected = case.scalars
    np.testing.assert_allclose(scores["cosine"].mean(), expected["cos_sim_mean"], **tolerance)
    np.testing.assert_allclose(scores["mse"], expected["mse_dist"], **tolerance)
    np.testing.assert_allclose(scores["l2"], expected["l2_dist"], **tolerance)
    if len(sources) == 1:
        check_public_metric(torch.cat([sources, generated]).numpy(), expected, tolerance)

    network, state = Sphere20().eval(), {}
    for name, shape in case.sphere20_state_dict:
        slope = 0.25 if len(shape) == 1 and name.endswith(".weight") else 0.0
        state[name] = torch.from_numpy(fill(name, tuple(shape), case.seed)) + slope
    network.load_state_dict(state)
    shape = shapes["input.face112"]
    (share,) = numbers(case.inputs["input.face112"]["make"])
    scale = np.float32(share * np.sqrt(np.prod(shape[1:])))
    faces = torch.from_numpy((fill("input.face112", shape, case.seed) * scale).clip(-1, 1))
    case.check(network(faces), "sphere20_features")


def check_public_metric(embeddings: np.ndarray, expected: dict, tolerance: dict) -> None:
    given = GivenFaces(embeddings)
    metric = CelebBasisIdentity(analyzer=given, embedder=given)
    metric.update([picture(number) for number in range(2, len(embeddings) + 1)], [picture(1)])
    result = metric.compute()
    np.testing.assert_allclose(result["celeb_basis_identity"], expected["cos_sim_mean"], **tolerance)
    np.testing.assert_allclose(result["celeb_basis_mse"], expected["mse_dist"], **tolerance)
    np.testing.assert_allclose(result["celeb_basis_l2"], expected["l2_dist"], **tolerance)


CONSISID_KINDS = {"face_metrics": check_face_metrics, "curricularface_ir101": check_curricularface}
CELEB_BASIS_KINDS = {"metrics": check_celeb_basis_metrics}
