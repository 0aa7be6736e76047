"""Makes `harness` importable from every folder of tests, and keeps hypothesis free of time limits."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("ffdist", deadline=None, derandomize=True)
settings.load_profile("ffdist")
