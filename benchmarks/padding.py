"""What batches of equal shapes waste: on clips of three aspects, three lengths and one to three references.

    python benchmarks/padding.py

`padding` is the share of tokens that carry nothing: frames repeated to fill the shortest length. A batch that pads its
clips to the largest of them, as loaders without buckets do, is planned on the same clips for comparison. `budget used`
is the share of the token budget that batches fill.
"""

import numpy as np
from common import report

from likeness.datamodules.buckets import Bucket, Buckets
from likeness.datamodules.frames import StridedFrames
from likeness.datamodules.plan import Part, StreamPlan

BUCKETS = Buckets(sizes=[[480, 720], [720, 480], [576, 576]], lengths=[49, 25, 13], token_budget=80_000)


def clips(count: int) -> dict[str, np.ndarray]:
    """Return clips of three aspects and lengths around the buckets', with 1 to 3 references."""
    rng = np.random.default_rng(0)
    sizes = np.array([[720, 1280], [1280, 720], [1080, 1080]])[rng.choice(3, count, p=[0.6, 0.25, 0.15])]
    lengths = rng.choice([13, 25, 49], count, p=[0.2, 0.3, 0.5]) + rng.integers(-3, 12, count)
    references = rng.integers(1, 4, count)
    return {
        "num_frames": lengths,
        "fps": np.full(count, 8.0),
        "height": sizes[:, 0],
        "width": sizes[:, 1],
        "references": references,
    }


def tokens(frames: np.ndarray, size: np.ndarray, references: np.ndarray) -> np.ndarray:
    temporal, rows, columns = BUCKETS.strides
    latent_frames = 1 + (frames - 1) // temporal + references
    return latent_frames * (size[:, 0] // rows) * (size[:, 1] // columns) + BUCKETS.text_tokens


def bucketed(table: dict[str, np.ndarray], epochs: int) -> dict:
    shapes = np.column_stack([BUCKETS.shapes(table, StridedFrames()), table["references"]])
    found, bucket_of = np.unique(shapes, axis=0, return_inverse=True)
    sizes = tuple(BUCKETS.batch_size(Bucket(*map(int, row))) for row in found)
    plan = StreamPlan((Part((500,) * (len(bucket_of) // 500)),), bucket_of.reshape(-1), sizes, 0, 1000)
    spent = tokens(shapes[:, 0], shapes[:, 1:3], shapes[:, 3])
    useful = tokens(np.minimum(shapes[:, 0], table["num_frames"]), shapes[:, 1:3], shapes[:, 3])
    used = [spent[planned[i][0]].sum() for planned in map(plan.epoch, range(epochs)) for i in range(len(planned))]
    return {
        "loader": "buckets, a token budget",
        "padding": float(1 - useful.sum() / spent.sum()),
        "batches": len(used) // epochs,
        "budget used": float(np.mean(used) / BUCKETS.token_budget),
    }


def padded(table: dict[str, np.ndarray], batch_size: int = 4) -> dict:
    """Return the same for batches of neighbours that are padded to the longest and to the most references."""
    order = np.random.default_rng(0).permutation(len(table["num_frames"]))
    batches = order[: len(order) // batch_size * batch_size].reshape(-1, batch_size)
    shapes = BUCKETS.shapes(table, StridedFrames())
    useful = tokens(shapes[:, 0], shapes[:, 1:3], table["references"])[batches]
    largest = [
        column[batches].max(axis=1) for column in (shapes[:, 0], shapes[:, 1], shapes[:, 2], table["references"])
    ]
    spent = tokens(largest[0], np.column_stack(largest[1:3]), largest[3]) * batch_size
    return {
        "loader": f"batches of {batch_size}, padded to the largest",
        "padding": float(1 - useful.sum() / spent.sum()),
        "batches": len(batches),
        "budget used": float(np.mean(spent) / BUCKETS.token_budget),
    }


if __name__ == "__main__":
    table = clips(20_000)
    report("padding", [bucketed(table, epochs=3), padded(table)], clips=20_000, token_budget=BUCKETS.token_budget)
