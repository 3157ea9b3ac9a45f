"""The report in a real browser, where one is installed."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness.evaluation.clips import clip_of_files, find_clips
from likeness.evaluation.previews import clip_of_entry, preview
from likeness.evaluation.report import write_report

from ..conftest import clip_sample, write_mp4, write_picture, write_shards

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"]

# Runs in the page: sorts by the second heading twice and says what stands on top.
SORT = """<script>
const table = [...document.querySelectorAll("table")].find(one => one.textContent.includes("frame by frame"));
const heads = [...table.tHead.rows[0].cells], place = heads.findIndex(one => one.textContent === "similarity");
const first = () => { heads[place].click(); return table.tBodies[0].rows[0].cells[0].textContent; };
document.body.dataset.sorted = [first(), first()].join(" ");
document.body.dataset.videos = [...document.querySelectorAll("video")].length;
</script></body>"""


def make_report(folder: Path, num_clips: int = 3) -> Path:
    clips, entries = [], []
    for number in range(num_clips):
        video = write_mp4(folder / f"{number}.mp4")
        clips.append(clip_of_files(video.name, video, [write_picture(folder / f"{number}.png")], "a <square> & more"))
        similarity = None if number == 1 else number / num_clips
        frames = {"face_similarity": [[0.1, None, 0.5, similarity]]}
        entries.append({"name": video.name, "video": str(video), "references": [], "prompt": "a <square> & more"})
        entries[-1] |= {"similarity": similarity, "per_frame": frames}
    result = {
        "num_clips": num_clips,
        "metrics": {"face_similarity": 0.5, "drift": None},
        "intervals": {"face_similarity": {"low": 0.1, "high": 0.9, "num_clips": 2, "column": "similarity"}},
        "undefined": {"drift": "no clip has a face at its end"},
        "descriptions": {"face_similarity": "mean cosine"},
        "of_metric": {"face_similarity": "face_similarity", "drift": "face_similarity"},
        "features": {"face_similarity": "toy"},
        "notes": ["one clip has no face"],
        "disabled": {"clip_score": "the weights are not there"},
        "failed": [{"name": "x.mp4", "error": "unreadable"}],
        **{name: {} for name in ("protocols", "models", "settings", "timing")},
        "clips": entries,
    }
    path = folder / "report.html"
    write_report(path, result, clips, title="A <title>")
    return path


def browse(page: Path, folder: Path, *arguments: str) -> str:
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000"]
    done = subprocess.run([*command, *arguments, f"file://{page}"], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_a_browser_draws_the_report_and_sorts_its_tables(tmp_path):
    page = make_report(tmp_path)
    page.write_text(page.read_text().replace("</body>", SORT))
    document = browse(page, tmp_path, "--dump-dom")
    assert re.search(r'data-sorted="2\.mp4 0\.mp4"', document)
    assert 'data-videos="3"' in document
    browse(page, tmp_path, "--window-size=1000,1400", f"--screenshot={tmp_path / 'page.png'}")
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    assert pixels.shape == (1400, 1000, 3)
    yellow = (pixels[..., 0] > 200) & (pixels[..., 1] > 200) & (pixels[..., 2] < 90)
    assert yellow.sum() > 100  # the square of the clips: videos are shown


def test_the_page_needs_nothing_else_and_escapes_what_it_is_given(tmp_path):
    text = make_report(tmp_path).read_text()
    assert "http" not in re.sub(r"data:[\w/]+;base64,[\w+/=]+", "", text)
    assert "<square>" not in text
    assert "A &lt;title&gt;" in text
    for shown in ("undefined: no clip has a face at its end", "the weights are not there", "unreadable", "no face"):
        assert shown in text


def test_of_many_clips_the_ends_are_shown_and_all_are_listed(tmp_path):
    text = make_report(tmp_path, 30).read_text()
    assert text.count("<video") == 24
    assert text.count("<td>29.mp4") == 1
    assert text.index("worst first") < text.index("best first")


def test_what_browsers_do_not_play_is_shown_as_what_they_do(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (20, 480, 640, 3), np.uint8)
    large = write_mp4(tmp_path / "large.mp4", frames)
    assert large.stat().st_size > 600_000
    video, _ = preview(clip_of_files("large", large, [], ""))
    assert video.startswith("data:video/mp4;base64,")
    assert len(video) < large.stat().st_size / 2
    assert preview(clip_of_files("gone", tmp_path / "gone.mp4", [], "")) is None


def test_clips_of_shards_are_shown_again_from_their_entries(tmp_path):
    write_shards(tmp_path / "shards", [clip_sample(key, seed=seed) for seed, key in enumerate("abcdef")])
    for clip in find_clips(str(tmp_path / "shards"))[::5]:
        entry = {"name": clip.name, "video": clip.video, "references": list(clip.references), "prompt": ""}
        assert preview(clip_of_entry(entry)) == preview(clip)
        assert preview(clip_of_entry(entry | {"references": []}))[1] == []
    given = find_clips(str(tmp_path / "shards"), str(write_picture(tmp_path / "me.png")))[0]
    assert preview(clip_of_entry(entry | {"references": list(given.references)}))[1] == preview(given)[1]
    assert preview(clip_of_entry(entry | {"video": entry["video"] + "gone"})) is None
