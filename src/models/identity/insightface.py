"""The face stack for photographs: insightface's detector and ArcFace recogniser behind the `FaceAnalyzer` interface.

The model packs are for non-commercial research only and are never downloaded here.
"""

from pathlib import Path

import numpy as np

from ...metrics.model_files import MODEL_FILES, MissingModel
from .analyzer import Face


class InsightFaceAnalyzer:
    """SCRFD detection at `det_size` pixels and ArcFace embeddings (512) of the pack `root/models/pack`.

    `pack`: antelopev2 (as Concat-ID), buffalo_l... `det_threshold`: least face score in (0, 1). `providers`: of
    onnxruntime, best first. `num_threads`: of each model, 0 for one for each core. Raises MissingModel, a ValueError,
    where insightface or the pack is missing, with what to do.
    """

    embedding_dim = 512

    def __init__(
        self,
        *,
        root: str,
        pack: str = "antelopev2",
        det_size: int = 640,
        det_threshold: float = 0.5,
        providers: tuple[str, ...] = ("CPUExecutionProvider",),
        num_threads: int = 0,
    ):
        folder = Path(root) / "models" / pack
        if not any(folder.glob("*.onnx")):
            licence = MODEL_FILES["insightface_antelopev2"].licence
            raise MissingModel(
                f"analyzer=insightface needs the model pack {pack} as {folder}/*.onnx: unpack {pack}.zip of the "
                f"insightface releases on GitHub there (licence: {licence}), or set paths.weights_dir to the folder "
                f"that holds insightface/models/{pack}, or analyzer.root; for drawn people use analyzer=toy"
            )
        try:
            import onnxruntime
            from insightface.app import FaceAnalysis
        except ImportError as error:
            raise MissingModel(
                f"analyzer=insightface needs the extra `faces`: pip install 'likeness[faces]' ({error})"
            ) from error
        self.name, self.det_size = f"insightface/{pack}", det_size
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        self._analysis = FaceAnalysis(
            pack,
            root=root,
            allowed_modules=["detection", "recognition"],
            providers=list(providers),
            sess_options=options,
        )
        self._analysis.prepare(
            ctx_id=0 if "CUDAExecutionProvider" in providers else -1,
            det_thresh=det_threshold,
            det_size=(det_size, det_size),
        )

    def __call__(self, image: np.ndarray) -> list[Face]:
        found = self._analysis.get(np.ascontiguousarray(image[..., ::-1]))  # insightface takes BGR
        faces = [
            Face(
                box=face.bbox,
                keypoints=face.kps,
                score=float(face.det_score),
                embedding=face.normed_embedding.astype(np.float32),
            )
            for face in found
        ]
        return sorted(faces, key=lambda face: -face.area)
