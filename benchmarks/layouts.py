"""Every source layout, from a tiny sample of it to shards and a training step, by the commands that users type.

    python benchmarks/layouts.py [--consisid FOLDER_OF_THE_DEMO_SET]

The samples are made of drawn people. ConsisID's own demo clip is used where its folder is given, else a made tree.
Where a layout's method is not here yet, Concat-ID's tiny twin takes the step, on batches as that method cuts them.
"""

import argparse
import json
import pickle
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import REPOSITORY, report
from PIL import Image

from likeness.media import encode_mp4
from likeness.toy.clips import ToyClip, draw_clip
from likeness.toy.people import make_person

NUM_CLIPS, NUM_FRAMES, SIZE = 2, 60, (96, 128)
CONDITIONS = {"svd_xtend": "first_frame", "tracklet2video_stage1": "tracklets"}


@dataclass
class Layout:
    """A layout: the arguments of prepare.py that read it, the datamodule of the method that trains on it, and the
    experiment whose step is taken.
    """

    name: str
    source: list[str]
    datamodule: str = "shards"
    num_frames: int = 9
    experiment: str = "concat_id"


def drawn(number: int) -> ToyClip:
    rng = np.random.default_rng(number)
    height, width = SIZE
    return draw_clip([make_person(rng)], rng, num_frames=NUM_FRAMES, height=height, width=width, fps=30.0)


def video(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_mp4(drawn(number).frames, 30))
    return path


def picture(path: Path, number: int, frame: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn(number).frames[frame]).save(path)
    return path


def lines(path: Path, entries: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in entries) + "\n")
    return path


def concat_id(folder: Path) -> Iterator[Layout]:
    entries = []
    for number in range(NUM_CLIPS):
        clip = video(folder / "videos" / f"{number}.mp4", number)
        lines(folder / "labels" / f"{number}.txt", ["a person"])
        face = picture(folder / "images" / str(number) / "face.png", number)
        entries.append({"video_path": str(clip), "caption": "a person", "image_path": f"{face}@@{face}"})
    (folder / "train.json").write_text(json.dumps(entries))
    yield Layout("Concat-ID JSON", ["concat_id_json", f"source.file={folder}/train.json"])
    yield Layout("Concat-ID folders", ["concat_id_folder", f"source.folder={folder}"])
    prompts = lines(folder / "list.txt", [f"a person@@{entry['image_path'].split('@@')[0]}" for entry in entries])
    yield Layout("Concat-ID list", ["concat_id_list", f"source.file={prompts}", f"source.videos={folder}/videos"])


def consisid(folder: Path, demo: Path | None) -> Iterator[Layout]:
    if demo is None:
        write_consisid_tree(folder)
        demo = folder
    listed = demo / "total_train_data.txt"
    yield Layout("ConsisID tree", ["consisid", f"source.file={listed}"], "consisid", num_frames=17)


def write_consisid_tree(folder: Path) -> None:
    captions = [{"path": f"{n}.mp4", "cap": "a person", "fps": 30.0, "duration": 2.0} for n in range(NUM_CLIPS)]
    lines(folder / "total_train_data.txt", ["set/videos,set/captions.json,set"])
    lines(folder / "set" / "captions.json", [json.dumps(captions)])
    for number in range(NUM_CLIPS):
        clip = drawn(number)
        video(folder / "set" / "videos" / f"{number}.mp4", number)
        boxes = {}
        for frame in range(NUM_FRAMES):
            x1, y1, x2, y2 = map(float, clip.boxes[frame][0])
            item = {"confidence": 0.95, "box": {"x1": x1, "y1": y1, "x2": x2, "y2": y2}, "new_track_id": 1}
            boxes[str(frame)] = {kind: [item] for kind in ("face", "head", "person")}
            mask = folder / "set" / "track_masks_data" / str(number) / "tracking_mask_results"
            for place, kind in ((1, "face"), (3, "person")):
                path = mask / str(place) / f"annotated_frame_{frame:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(((clip.masks[kind][frame] > 0) * place).astype(np.uint16)).save(path)
        lines(folder / "set" / "refine_bbox_jsons" / f"{number}.json", [json.dumps(boxes)])
        every = list(range(NUM_FRAMES))
        for name, content in {
            "corresponding_data": {"1": {"face": 1, "head": 2, "person": 3}},
            "control_sam2_frame": {"1": {"face": 0, "head": 0, "person": 0}},
            "valid_frame": {"1": {"face": every, "head": every, "person": every}},
        }.items():
            lines(folder / "set" / "track_masks_data" / str(number) / f"{name}.json", [json.dumps(content)])


def webvid(folder: Path) -> Iterator[Layout]:
    entries = [
        {"text": "a person", "file": video(folder / "videos" / f"{n}.mp4", n).name, "time": "2", "fps": 30.0}
        for n in range(NUM_CLIPS)
    ]
    listed = lines(folder / "webvid.jsonl", entries)
    source = ["webvid", f"source.file={listed}", f"source.folder={folder}/videos"]
    yield Layout("WebVid JSON lines", source, "consisti2v")


def frames(folder: Path) -> Iterator[Layout]:
    for number in range(NUM_CLIPS):
        clip, sequence = drawn(number), folder / f"sequence{number}"
        rows = []
        for frame, (pixels, boxes) in enumerate(zip(clip.frames[:20], clip.boxes, strict=False), 1):
            path = sequence / "img1" / f"{frame:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, quality=95)
            x1, y1, x2, y2 = map(float, boxes[0])
            rows.append(f"{frame},1,{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f},1,1,1.0")
        lines(sequence / "gt" / "gt.txt", rows)
        lines(sequence / "seqinfo.ini", ["[Sequence]", "frameRate=30"])
        shutil.copytree(sequence / "img1", folder / "plain" / f"{number}")
    yield Layout(
        "SVD folders of frames",
        ["frame_folders", f"source.folder={folder}/plain", "source.fps=30"],
        "svd_xtend",
        experiment="svd_xtend",
    )
    source = ["mot", f"source.folder={folder}"]
    yield Layout("SVD tracklets (MOT)", source, "svd_xtend", experiment="tracklet2video_stage1")


def celeb_basis(folder: Path) -> Iterator[Layout]:
    faces = [str(picture(folder / f"{n}.png", n)) for n in range(NUM_CLIPS)]
    (folder / "ffhq.pickle").write_bytes(pickle.dumps(faces))
    source = ["celeb_basis", f"source.pictures={folder}/ffhq.pickle"]
    yield Layout("Celeb Basis ffhq.pickle", source, "celeb_basis", num_frames=1)


def plain(folder: Path) -> Iterator[Layout]:
    for number in range(NUM_CLIPS):
        video(folder / "clips" / f"{number}.mp4", number)
        lines(folder / "clips" / f"{number}.txt", ["a person"])
    yield Layout("folder of videos with .txt", ["video_folder", f"source.folder={folder}/clips"])
    rows = ["path,caption", *(f"clips/{number}.mp4,a person" for number in range(NUM_CLIPS))]
    yield Layout("CSV of path,caption", ["table", f"source.file={lines(folder / 'clips.csv', rows)}"])


def run(name: str, *arguments: str) -> tuple[int, str, float]:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, f"{name}.py", *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    return done.returncode, done.stderr.strip()[-300:], time.perf_counter() - start


def check(layout: Layout, folder: Path) -> dict:
    name = re.sub(r"\W+", "_", layout.name)
    shards = folder / "shards" / name
    code, error, prepare_s = run("prepare", f"source={layout.source[0]}", *layout.source[1:], f"output={shards}")
    index = json.loads((shards / "index.json").read_text()) if not code else {"shards": []}
    settings = [
        f"experiment={layout.experiment}",
        "debug=tiny",
        f"datamodule={layout.datamodule}",
        f"datamodule.train={shards}",
    ]
    settings += [f"datamodule.num_frames={layout.num_frames}", "datamodule.batch_size=1", "trainer.max_steps=1"]
    if layout.experiment in CONDITIONS:
        settings.append(f"conditions={CONDITIONS[layout.experiment]}")
    elif layout.datamodule not in ("shards", "consisid"):
        target = "likeness.datamodules.conditions.ReferenceImages"
        settings.append(f"+datamodule.conditions.references={{_target_: {target}, height: 64, width: 64}}")
    settings += [f"paths.output_root={folder / 'runs'}", f"run_name={name}"]
    if not code:
        code, error, _ = run("train", *settings, "trainer.val_check_interval=null", "hydra.job.chdir=false")
    return {
        "layout": layout.name,
        "samples": sum(entry["num_samples"] for entry in index["shards"]),
        "cut as for": layout.datamodule,
        "step of": layout.experiment,
        "trains a step": "yes" if not code else error,
        "prepare_s": prepare_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--consisid", type=Path, help="the folder that holds total_train_data.txt")
    demo = parser.parse_args().consisid
    folder = REPOSITORY / "data" / "layouts"
    shutil.rmtree(folder, ignore_errors=True)
    layouts = [
        *concat_id(folder / "concat_id"),
        *consisid(folder / "consisid", demo and demo.resolve()),
        *webvid(folder / "webvid"),
        *frames(folder / "frames"),
        *celeb_basis(folder / "faces"),
        *plain(folder / "plain"),
    ]
    report("layouts", [check(layout, folder) for layout in layouts], consisid="demo set" if demo else "made")


if __name__ == "__main__":
    main()
