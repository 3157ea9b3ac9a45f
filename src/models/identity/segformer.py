"""Face parsing with a SegFormer of transformers: `jonathandinu/face-parsing`, trained on CelebAMask-HQ."""

from pathlib import Path

import numpy as np

DOWNLOAD = "hf download jonathandinu/face-parsing --local-dir"
NUM_LABELS = 19
INPUT_SIZE = 512
# Of ImageNet, as the model's image processor has them.
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


class SegFormerFaceParser:
    """`FaceParser` with the 19 labels of CelebAMask-HQ: 0 background, 1 skin, 2 nose ... 13 hair, 17 neck, 18 cloth.

    `folder`: the model as transformers saves it; `device`: a torch device. Raises ValueError where the folder is
    missing, with how to get it, and where it holds a model with other labels.
    """

    def __init__(self, *, folder: str, device: str = "cpu"):
        if not (Path(folder) / "config.json").is_file():
            raise ValueError(
                f"parser=segformer needs the face parsing model in {folder}. Get it with\n  {DOWNLOAD} {folder}\n"
                "or point to a copy with parser.folder=FOLDER, or leave the background as it is with parser=none"
            )
        # Here, so that a missing folder is told before seconds of imports.
        from transformers import SegformerForSemanticSegmentation

        from ..loading import load_frozen

        self.name = f"segformer/{Path(folder).name}"
        self.model = load_frozen(SegformerForSemanticSegmentation, pretrained=folder).to(device)
        if self.model.config.num_labels != NUM_LABELS:
            raise ValueError(
                f"{folder} tells {self.model.config.num_labels} labels apart, face parsing has {NUM_LABELS}: "
                "parser.folder must hold jonathandinu/face-parsing"
            )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        import torch
        import torch.nn.functional as F

        with torch.inference_mode():
            logits = self.model(pixel_values=torch.from_numpy(network_input(image)).to(self.model.device)).logits
            # Upsampled first, then compared: the borders between labels are smooth.
            logits = F.interpolate(logits.float(), image.shape[:2], mode="bilinear", align_corners=False)
            return logits[0].argmax(0).byte().cpu().numpy()


def network_input(image: np.ndarray) -> np.ndarray:
    """Return `image` (h w 3, uint8 RGB) as (1 3 512 512) float32: what transformers' image processor makes of it."""
    from PIL import Image

    resized = Image.fromarray(image).resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BILINEAR)
    return ((np.asarray(resized, np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)[None]
