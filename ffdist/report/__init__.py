"""What a run says of itself: logs, progress, tables."""
