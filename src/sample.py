"""`sample.py`: prompts and reference images in, clips out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from .config import command
from .inputs import Request, check_prompts, read_picture, read_requests
from .progress import SamplingProgress
from .records import RecordWriter, read_records, recorded_boxes
from .shares import Share, find_share

if TYPE_CHECKING:
    import numpy as np

    from .datamodules.boxes import KeyBoxes, TrackedBoxes
    from .datamodules.conditions import SampleRequest
    from .models.identity.references import PreparedReference, ReferencePreprocessor

log = logging.getLogger(__name__)


@command("sample")
def main(config: DictConfig) -> None:
    if OmegaConf.is_missing(config, "ckpt"):
        raise ValueError(
            "ckpt must name a checkpoint: a .ckpt file or the folder of a run, e.g. ckpt=outputs/concat_id_toy/RUN"
        )
    share = find_share(config.share, os.environ)
    _check_output(share)
    requests = read_requests(config.prompt, config.references, config.inputs, config.boxes)
    lines = share.of(list(enumerate(requests)))
    pictures = {path: read_picture(path) for _, request in lines for path in request.references}
    key_boxes = {line: _on_picture(request, pictures) for line, request in lines if request.boxes is not None}
    if config.show_boxes and not key_boxes:
        log.warning("show_boxes has no effect without boxes")
    preprocess = _build_preprocess(config)

    from .datamodules.conditions import check_boxes
    from .generation import check_sampling, choose_device, load_run
    from .memory import check_memory, place
    from .models.encode_once import encode_once
    from .models.lora import scale_lora
    from .run import quiet_libraries

    quiet_libraries()
    check_memory(config.memory)
    device, dtype = choose_device(config.device, config.dtype, share.local_index)
    wanted = {name: config[name] for name in ("num_frames", "height", "width") if config[name] is not None}
    model, conditions, trained = load_run(config.ckpt, config.paths, config.weights, wanted)
    check_prompts(requests, "text_encoder" in model.encoder_names)
    scale_lora(model, config.lora_scale)
    sampling = {**trained.sampling, **config.sampling}
    check_sampling(model, sampling)
    size = {name: trained.datamodule[name] for name in ("num_frames", "height", "width")}
    boxes = {line: keys.at(size["num_frames"]) for line, keys in key_boxes.items()}
    check_boxes(conditions, list(boxes.values()))
    model.autoencoder.latent_shape(**size)
    place(model, config.memory, device, dtype)
    encode_once(model)

    output = Path(config.output)
    planned = _plan(lines, boxes, config.num_videos, config.seed, sampling, size)
    for clip in planned:
        clip["preprocess"] = None if preprocess is None else preprocess.description
        clip["lora_scale"] = config.lora_scale
    writer, done = RecordWriter(output, share), read_records(output)
    todo = [clip for clip in planned if not _is_done(clip, done.get(clip["video"]), output)]
    if len(todo) < len(planned):
        log.info("%d clips are in %s already", len(planned) - len(todo), output)
    used = {path for clip in todo for path in clip["source_references"]}
    prepared = {path: _prepare(preprocess, picture, path) for path, picture in pictures.items() if str(path) in used}
    batch_size = config.batch_size or (8 if config.memory is None else 1)
    fps = config.fps or trained.fps
    _sample(model, device, conditions, todo, prepared, writer, sampling, size, fps, batch_size)
    if config.show_boxes:
        _show_boxes(planned, writer)
    with writer.merged() as records:
        _write_sheet(output, records)
        log.info("%d clips in %s", len(records), output)


def _check_output(share: Share) -> None:
    from hydra.core.hydra_config import HydraConfig

    if share.count > 1 and not any(override.startswith("output=") for override in HydraConfig.get().overrides.task):
        raise ValueError(f"{share.count} processes share this list: give all of them the same output=FOLDER")


def _on_picture(request: Request, pictures: dict[Path, np.ndarray]) -> KeyBoxes:
    """Return the boxes of `request` in units of its first picture."""
    assert request.boxes is not None
    if not request.references and request.boxes.needs_picture:
        raise ValueError(
            f"{request.boxes.key_boxes.source}: its boxes count in pixels, and no picture is given that these are of: "
            'give references=[FILE], or in the file "size": [width, height]'
        )
    height, width = pictures[request.references[0]].shape[:2] if request.references else (1, 1)
    return request.boxes.on_picture(height, width)


def _build_preprocess(config: DictConfig) -> ReferencePreprocessor | None:
    """Return what cuts faces out of the pictures. Missing models are told here, before anything heavy is imported."""
    from hydra.utils import instantiate

    from .config import check

    check(config)
    if config.preprocess is None:
        for name in ("analyzer", "parser"):
            if config[name] is not None:
                log.warning("%s has no effect without preprocess: give preprocess=concat_id, align or toy", name)
        return None
    return instantiate(config.preprocess, _convert_="all")


def _prepare(preprocess: ReferencePreprocessor | None, picture: np.ndarray, path: Path) -> PreparedReference:
    from .models.identity.references import PreparedReference

    return PreparedReference(picture) if preprocess is None else preprocess(picture, str(path))


def _plan(
    lines: list[tuple[int, Request]],
    boxes: dict[int, TrackedBoxes],
    num_videos: int,
    seed: int,
    sampling: dict[str, Any],
    size: dict[str, int],
) -> list[dict[str, Any]]:
    """Return one record a clip: clip k of the whole list gets seed + k, unless the list fixes the seed of its line."""
    clips = []
    for line, request in lines:
        for number in range(num_videos):
            base = request.seed if request.seed is not None else seed + line * num_videos
            clips.append(
                {
                    "video": f"clips/{line:05d}_{number}.mp4",
                    "prompt": request.prompt or "",
                    "seed": base + number,
                    "source_references": [str(path) for path in request.references],
                    "boxes": boxes[line].record() if line in boxes else None,
                    "sampling": dict(sampling),
                    **size,
                }
            )
    return clips


def _sample(
    model: Any,
    device: Any,
    conditions: Any,
    todo: list[dict[str, Any]],
    prepared: dict[Path, PreparedReference],
    writer: RecordWriter,
    sampling: dict[str, Any],
    size: dict[str, int],
    fps: float,
    batch_size: int,
) -> None:
    from .callbacks.log_samples import reference_pictures
    from .datamodules.conditions import request_batch
    from .generation import num_steps
    from .media import to_frames, write_mp4, write_png
    from .models.draws import Draws

    with SamplingProgress(len(todo), num_steps(model, sampling)) as progress:
        for clips in _batches(todo, batch_size):
            wanted = [_request(clip, prepared) for clip in clips]
            batch = {name: _to(value, device) for name, value in request_batch(conditions, wanted).items()}
            draws = Draws([clip["seed"] for clip in clips], device)
            made = model.generate(batch, draws, on_step=progress.on_step, **size, **sampling)
            for place, (clip, pixel_values) in enumerate(zip(clips, made, strict=True)):
                write_mp4(writer.folder / clip["video"], to_frames(pixel_values), fps)
                clip["references"], clip["fps"] = [], fps
                for number, picture in enumerate(reference_pictures(batch, place)):
                    name = f"references/{Path(clip['video']).stem}_{number}.png"
                    write_png(writer.folder / name, picture)
                    clip["references"].append(name)
                if clip["preprocess"] is not None:
                    _write_unmasked(clip, prepared, writer.folder)
                writer.append(clip)
                progress.clip_done()


def _request(clip: dict[str, Any], prepared: dict[Path, PreparedReference]) -> SampleRequest:
    from .datamodules.conditions import SampleRequest

    pictures = [prepared[Path(path)].crop for path in clip["source_references"]]
    return SampleRequest(clip["prompt"], pictures, recorded_boxes(clip), clip["num_frames"], clip["seed"])


def _batches(clips: list[dict[str, Any]], batch_size: int) -> Iterator[list[dict[str, Any]]]:
    """Yield at most `batch_size` clips at a time, all with the same number of references: only those can be stacked."""

    def num_references(clip: dict[str, Any]) -> int:
        return len(clip["source_references"])

    for _, alike in groupby(sorted(clips, key=num_references), num_references):
        group = list(alike)
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def _write_unmasked(clip: dict[str, Any], prepared: dict[Path, PreparedReference], folder: Path) -> None:
    """Write the aligned crops before the background was blacked, and record what was done to each picture."""
    from .media import write_png

    clip["unmasked_references"], clip["prepared_references"] = [], []
    for number, path in enumerate(clip["source_references"]):
        reference = prepared[Path(path)]
        name = f"references/{Path(clip['video']).stem}_{number}_unmasked.png"
        write_png(folder / name, reference.unmasked)
        clip["unmasked_references"].append(name)
        clip["prepared_references"].append(reference.record)


def _show_boxes(clips: list[dict[str, Any]], writer: RecordWriter) -> None:
    """Write those of `clips` that have boxes once more, with the boxes drawn in, unless that has been done."""
    from .datamodules.drawing import overlaid
    from .datamodules.video import get_reader
    from .media import write_mp4

    known, folder = read_records(writer.folder), writer.folder
    for record in (known[clip["video"]] for clip in clips):
        tracked, overlay = recorded_boxes(record), f"boxes/{Path(record['video']).stem}.mp4"
        if tracked is None or ("overlay" in record and (folder / overlay).is_file()):
            continue
        frames, _ = get_reader("pyav").read_all((folder / record["video"]).read_bytes())
        write_mp4(folder / overlay, overlaid(frames, tracked), record["fps"])
        writer.append({**record, "overlay": overlay})


def _is_done(clip: dict[str, Any], record: dict[str, Any] | None, output: Path) -> bool:
    return (
        record is not None
        and (output / clip["video"]).is_file()
        and all(record.get(name) == value for name, value in clip.items())
    )


def _write_sheet(output: Path, records: dict[str, dict[str, Any]], max_rows: int = 32) -> None:
    from .datamodules.video import get_reader
    from .media import contact_sheet, write_png

    reader, rows = get_reader("pyav"), []
    for record in list(records.values())[:max_rows]:
        references = [read_picture(output / name) for name in record["references"]]
        for name in ("video", "overlay"):
            if name in record:
                rows.append((references, reader.read_all((output / record[name]).read_bytes())[0]))
    if rows:
        write_png(output / "sheet.png", contact_sheet(rows))


def _to(value: Any, device: Any) -> Any:
    return value.to(device) if hasattr(value, "to") else value


if __name__ == "__main__":
    main()
