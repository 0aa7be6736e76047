"""Snapshots: a file per block, committed by a manifest."""

from ffdist.snapshot.manifest import Manifest, latest, read_manifest
from ffdist.snapshot.store import SnapshotStore

__all__ = ["Manifest", "SnapshotStore", "latest", "read_manifest"]
