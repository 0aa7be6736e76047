"""A plan of who computes which block for which part of each batch: a value that is made once, saved, and read again.

A batch is cut into lanes. A stage is some consecutive blocks, and the workers that compute them, each for a range of
lanes, or each for whole batches in turn. Pipeline, data parallelism and anything between are plans, and no plan changes
a bit of what is learned:

    conv1 @ 0 | conv2 conv3 @ 1                        a pipeline of two workers
    conv1..conv3 @ 0:0-1, 1:2-3                        two replicas, each with two of four lanes
    conv1 @ 0 | conv2 @ 0:0, 1:1-3 | conv3 @ 1         a heavy block shared by two workers
    conv1..conv3 @ 0, 1 by batch                       two workers that take batches in turn, and hand on the weights
    "stem conv" conv2 @ 1 | conv3 @ 0                  a name with blanks; workers may have any numbers
"""

from ffdist.plan.plan import Plan, read_plan
from ffdist.plan.stage import EVERY_BATCH, PlanStage, Share, spread

__all__ = ["EVERY_BATCH", "Plan", "PlanStage", "Share", "read_plan", "spread"]
