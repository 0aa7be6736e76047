"""Measurements against backpropagation: sides that take turns, a probe of the machine, records."""
