"""Metrics of generated clips, as torchmetrics."""
