"""Measuring clips: finding them, keeping what was measured, intervals, comparison of runs, the report page."""
