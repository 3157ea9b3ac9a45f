"""Lightning callbacks: weight averages, sample videos, progress."""
