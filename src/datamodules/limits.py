"""What a picture, video or sample may declare before its memory is taken. A few bytes can promise anything."""

MAX_PIXELS = 64 * 2**20  # a frame or a picture: 8192 x 8192
MAX_BYTES = 4 * 2**30  # the frames of one clip, decoded: 161 frames of 4K
MAX_FRAMES = 1_000_000  # a video: nine hours at 30 frames a second
MAX_SAMPLE_BYTES = 2**31  # a sample with all members, or a file of one; while it is decoded, it is there several times
