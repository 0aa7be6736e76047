"""Snapshots: a file per block, committed by a manifest."""

from ffdist.snapshot.chosen import FINAL, as_snapshot, use_snapshot
from ffdist.snapshot.manifest import Manifest, committed, read_manifest
from ffdist.snapshot.mirror import pulled
from ffdist.snapshot.newest import latest, newest, set_aside, whole
from ffdist.snapshot.store import SnapshotStore

__all__ = [
    "FINAL",
    "Manifest",
    "SnapshotStore",
    "as_snapshot",
    "committed",
    "latest",
    "newest",
    "pulled",
    "read_manifest",
    "set_aside",
    "use_snapshot",
    "whole",
]
