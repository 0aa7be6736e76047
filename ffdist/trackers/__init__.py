"""Trackers, which keep a run's metrics beside its own folder: an observer each, by its name in `ffdist.known.TRACKERS`.

Each gets the numbers of every epoch under the names of `ffdist.pipeline.scalars`, with the step (batches learned from),
and goes on with the run that it has begun when a run of ffdist is resumed.
"""
