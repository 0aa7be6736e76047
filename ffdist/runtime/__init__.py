"""Launchers that run the stages, and the folder of a run."""

from ffdist import posix  # noqa: F401 - it says which systems have what the others import
