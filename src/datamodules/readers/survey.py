"""What must be known of a file before a library other than PyAV decodes it: each shows some files wrong, silently."""

from dataclasses import dataclass

from ..samples import BadSample
from .packets import open_video, turn


@dataclass(frozen=True)
class Survey:
    """`num_frames`, `fps`, `codec` of a video. `turned`: its matrix asks for a turn; `mirrored`: for a mirror image.

    `open_groups`: some frame is shown before the key frame that it follows. `has_recovery_points`: a decoder that
    starts at some key frame gives partial pictures for a while. `num_streams`: of video.
    """

    num_frames: int
    fps: float
    codec: str
    turned: bool
    mirrored: bool
    open_groups: bool
    has_recovery_points: bool
    num_streams: int
    stream_index: int


def survey(data: bytes, reader: str) -> Survey:
    """Return what `data` holds, decoding one frame. Raises BadSample where only PyAV counts its frames rightly."""
    with open_video(data) as video:
        packets = list(video.packets())
        if not packets:
            raise BadSample("unreadable video", "no frame could be decoded")
        reason = video.why_untimed(packets)
        if reason is not None:
            raise refusal(reason, reader)
        frame = next((frame for packet in packets for frame in video.decoder.decode(packet)), None)
        how = None if frame is None else turn(frame)
        return Survey(
            num_frames=len(packets),
            fps=video.fps,
            codec=video.decoder.codec.canonical_name,
            turned=how is not None,
            mirrored=how is not None and sum(how) % 2 == 1,
            open_groups=_has_open_groups(packets),
            has_recovery_points=any(packet.is_keyframe and not video.is_entry(packet) for packet in packets),
            num_streams=len(video.container.streams.video),
            stream_index=video.stream.index,
        )


def refusal(reason: str, reader: str) -> BadSample:
    """Return the error for a file that `reader` does not show, or shows wrong."""
    return BadSample(f"not for {reader}", f"{reason}, with which {reader} cannot be trusted: use reader=pyav")


def _has_open_groups(packets: list) -> bool:
    key_time = packets[0].pts
    for packet in packets:
        key_time = packet.pts if packet.is_keyframe else key_time
        if packet.pts < key_time:
            return True
    return False
