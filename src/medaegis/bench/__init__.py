"""Experiments as data: metrics, the evaluation format on disk, plots and the report."""
