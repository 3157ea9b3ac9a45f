"""Checkpoints on disk: our own, and published formats, one file each."""
