"""Denoisers, methods and the parts they share."""
