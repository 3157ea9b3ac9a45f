"""`sample.py`: prompts and reference images in, clips out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from .config import command
from .inputs import Request, read_picture, read_requests

if TYPE_CHECKING:
    import numpy as np

    from .models.identity.references import PreparedReference, ReferencePreprocessor

log = logging.getLogger(__name__)


@command("sample")
def main(config: DictConfig) -> None:
    if OmegaConf.is_missing(config, "ckpt"):
        raise ValueError(
            "ckpt must name a checkpoint: a .ckpt file or the folder of a run, e.g. ckpt=outputs/concat_id_toy/RUN"
        )
    requests = read_requests(config.prompt, config.references, config.inputs)
    pictures = {path: read_picture(path) for request in requests for path in request.references}
    preprocess = _build_preprocess(config)

    from .datamodules.shards import write_atomically
    from .generation import check_sampling, choose_device, load_run
    from .run import quiet_libraries

    quiet_libraries()
    device, dtype = choose_device(config.device, config.dtype)
    model, conditions, trained = load_run(config.ckpt, config.paths, config.weights)
    sampling = {**trained.sampling, **config.sampling}
    check_sampling(model, sampling)
    size = {name: config[name] or trained.datamodule[name] for name in ("num_frames", "height", "width")}
    model.autoencoder.latent_shape(**size)
    model.to(device)
    if model.denoiser.dtype != dtype:
        model.denoiser.to(dtype)

    output = Path(config.output)
    todo = _plan(requests, config.num_videos, config.seed, sampling, size)
    for clip in todo:
        clip["preprocess"] = None if preprocess is None else preprocess.description
    done = _read_records(output)
    if done:
        # A kill may have cut the last line: what is appended to it would be lost as well.
        lines = "".join(json.dumps(record) + "\n" for record in done.values())
        write_atomically(output / "samples.jsonl", lines.encode())
    todo = [clip for clip in todo if not _is_done(clip, done.get(clip["video"]), output)]
    if len(done) and len(todo) < len(requests) * config.num_videos:
        log.info("%d clips are in %s already", len(requests) * config.num_videos - len(todo), output)
    used = {path for clip in todo for path in clip["source_references"]}
    prepared = {path: _prepare(preprocess, picture, path) for path, picture in pictures.items() if str(path) in used}
    _sample(model, conditions, todo, prepared, output, sampling, size, config.fps or trained.fps, config.batch_size)
    _write_sheet(output)
    log.info("%d clips in %s", len(_read_records(output)), output)


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
    requests: list[Request], num_videos: int, seed: int, sampling: dict[str, Any], size: dict[str, int]
) -> list[dict[str, Any]]:
    """Return one record a clip: clip k of the run gets seed + k, unless the list fixes the seed of its line."""
    clips = []
    for line, request in enumerate(requests):
        for number in range(num_videos):
            base = request.seed if request.seed is not None else seed + line * num_videos
            clips.append(
                {
                    "video": f"clips/{line:05d}_{number}.mp4",
                    "prompt": request.prompt,
                    "seed": base + number,
                    "source_references": [str(path) for path in request.references],
                    "sampling": dict(sampling),
                    **size,
                }
            )
    return clips


def _sample(
    model: Any,
    conditions: Any,
    todo: list[dict[str, Any]],
    prepared: dict[Path, PreparedReference],
    output: Path,
    sampling: dict[str, Any],
    size: dict[str, int],
    fps: float,
    batch_size: int,
) -> None:
    from rich.progress import Progress

    from .callbacks.log_samples import reference_pictures
    from .datamodules.conditions import SampleRequest, request_batch
    from .media import to_frames, write_mp4, write_png
    from .models.draws import Draws

    with Progress(transient=True) as progress:
        task = progress.add_task("sampling", total=len(todo))
        for start in range(0, len(todo), batch_size):
            clips = todo[start : start + batch_size]
            wanted = [
                SampleRequest(clip["prompt"], [prepared[Path(path)].crop for path in clip["source_references"]])
                for clip in clips
            ]
            batch = {name: _to(value, model.device) for name, value in request_batch(conditions, wanted).items()}
            made = model.generate(batch, Draws([clip["seed"] for clip in clips], model.device), **size, **sampling)
            for place, (clip, pixel_values) in enumerate(zip(clips, made, strict=True)):
                write_mp4(output / clip["video"], to_frames(pixel_values), fps)
                clip["references"], clip["fps"] = [], fps
                for number, picture in enumerate(reference_pictures(batch, place)):
                    name = f"references/{Path(clip['video']).stem}_{number}.png"
                    write_png(output / name, picture)
                    clip["references"].append(name)
                if clip["preprocess"] is not None:
                    _write_unmasked(clip, prepared, output)
                with open(output / "samples.jsonl", "a") as stream:
                    stream.write(json.dumps(clip) + "\n")
                progress.advance(task)


def _write_unmasked(clip: dict[str, Any], prepared: dict[Path, PreparedReference], output: Path) -> None:
    """Write the aligned crops before the background was blacked, and record what was done to each picture."""
    from .media import write_png

    clip["unmasked_references"], clip["prepared_references"] = [], []
    for number, path in enumerate(clip["source_references"]):
        reference = prepared[Path(path)]
        name = f"references/{Path(clip['video']).stem}_{number}_unmasked.png"
        write_png(output / name, reference.unmasked)
        clip["unmasked_references"].append(name)
        clip["prepared_references"].append(reference.record)


def _read_records(output: Path) -> dict[str, dict[str, Any]]:
    """Return what `samples.jsonl` says of each clip. The last line counts; one that a kill cut is passed over."""
    path, records = output / "samples.jsonl", {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        records[record["video"]] = record
    return records


def _is_done(clip: dict[str, Any], record: dict[str, Any] | None, output: Path) -> bool:
    return (
        record is not None
        and (output / clip["video"]).is_file()
        and all(record.get(name) == value for name, value in clip.items())
    )


def _write_sheet(output: Path, max_rows: int = 32) -> None:
    from .datamodules.video import get_reader
    from .media import contact_sheet, write_png

    reader, rows = get_reader("pyav"), []
    for record in list(_read_records(output).values())[:max_rows]:
        data = (output / record["video"]).read_bytes()
        frames = reader.read(data, range(reader.probe(data).num_frames))
        rows.append(([read_picture(output / name) for name in record["references"]], frames))
    write_png(output / "sheet.png", contact_sheet(rows))


def _to(value: Any, device: Any) -> Any:
    return value.to(device) if hasattr(value, "to") else value


if __name__ == "__main__":
    main()
