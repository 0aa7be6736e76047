"""A run's reports: logs, progress, tables."""
