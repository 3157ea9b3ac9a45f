"""Diffusion mathematics as small pure functions on tensors."""
