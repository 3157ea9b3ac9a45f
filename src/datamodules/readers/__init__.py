"""The libraries behind `VideoReader`, one module each."""
