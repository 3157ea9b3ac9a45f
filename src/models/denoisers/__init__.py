"""Denoisers as the methods need them: the library's networks, and how references reach them."""
