"""Who runs the stages, and where a run is kept."""

from ffdist import posix  # noqa: F401 - it says which systems have what the others import
