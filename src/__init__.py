"""Likeness trains, samples and evaluates identity-preserving and image-conditioned video generation."""
