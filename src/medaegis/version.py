"""The version, by itself: what needs it imports nothing else."""

__version__ = "0.1.0"
