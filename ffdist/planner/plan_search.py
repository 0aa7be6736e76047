"""The fastest plan of a network on a cluster.

The plans searched: stages of consecutive blocks, and workers in order along them. Lay the parts of all stages (a part:
one lane of one stage) in a row, stage after stage; each worker takes the next run of parts. So a worker has some lanes
at the end of one stage, whole stages, and some lanes at the beginning of the next. Pipelines are among these plans
(every stage one run), data parallelism (one stage), replicas of any part of the network, and a heavy block shared by
those who have lighter ones beside it. Any device may be the next one in the row, and any may be left idle; devices of
one speed are alike.

Of all cuts, numbers of workers, shares and orders of devices, the plan is found whose `price` is the least: the largest
of what a worker is busy, its link carries, and a shared block's cycle takes (`planner/cost.py`), and all workers' work
over the cores that they share, under the memory limit. The search asks which plans keep to a time T (`PlansWithin`). T
is halved towards the least, then to the found plan's own price until there is none below.

Orders of unequal devices, and shares where workers share cores, are many more. So a narrow search goes first, of the
order from the fastest device to the slowest; what it finds is nearly always the best there is, and the search of all
has only to show that nothing is below. Where they are too many for that, the plan is `bounded`.
"""

from __future__ import annotations

from math import inf, isfinite

from ffdist.planner.cluster import Cluster
from ffdist.planner.partial_plan import CLOSE
from ffdist.planner.plans_within import PlansWithin
from ffdist.planner.price import Price
from ffdist.planner.profile import Profile

COARSE = 1e-3
"""How near the halving comes to the least time, before each found plan's own price is undercut."""
GROWING = (1.01, 1.02, 1.04, 1.08, 1.2, 1.5, *(2.0,) * 12, inf)
"""What the first bound is multiplied by until there is a plan."""
NEAR = 1.25
"""Up to so many times the least time, a bound is asked for at once, and not those below it first."""


class PlanSearch:
    """The search for one number of lanes.

    shared: whether stages may have several workers, and workers several stages.
    """

    def __init__(self, profile: Profile, cluster: Cluster, lanes: int, *, shared: bool = True) -> None:
        self.plans = PlansWithin(profile, cluster, lanes, shared=shared)
        """Those that keep to a time."""
        self.low = 0.0
        """A time that no plan keeps to."""

    @property
    def bounded(self) -> bool:
        """True if plans of the kinds that are searched were left out, as there are too many."""
        return self.plans.bounded

    def least(self, below: float = inf) -> Price | None:
        """The best plan of a price of at most `below`; None where there is none within the memory limit."""
        found = self.near_best(below)
        return found and self.best_from(found)

    def near_best(self, below: float = inf, within: float = COARSE) -> Price | None:
        """A plan that is at most so much slower than the best, as a share of its price."""
        if self.plans.least_seconds() > below * (1 + CLOSE):
            return None
        self.plans.try_all(False)
        if isfinite(self.plans.limit) and not isfinite(below) and self.plans.fitting(self.plans.limit) is None:
            return None
        found = self._halved(below, within)
        if not (self.plans.tries_orders or self.plans.tries_shares):
            return found
        self.plans.try_all(True)
        if found is None:
            return self._halved(below, within)
        self.low = self.plans.least_seconds() * (1 - CLOSE)
        return self._undercut(found, within)

    def best_from(self, found: Price) -> Price:
        """The best plan, from one that `near_best` found."""
        while (better := self.plans.within(found.seconds * (1 - CLOSE))) and better.seconds < found.seconds:
            found = self._undercut(better, COARSE)
        return found

    def _halved(self, below: float, within: float) -> Price | None:
        self.low, found = self.plans.least_seconds() * (1 - CLOSE), None
        if below < self.low * NEAR:
            found = self.plans.within(below)
            return found and self._bisect(found, within)
        for times in GROWING:  # a time too short is soon found to be so: few runs keep to it
            found = self.plans.within(min(self.low * times, below))
            if found or self.low * times >= below:
                break
            self.low *= times
        return found and self._bisect(found, within)

    def _undercut(self, found: Price, within: float) -> Price:
        """A plan so near to the best, from one that very likely is: what is asked first is whether one is below it."""
        step = within
        while found.seconds > self.low * (1 + within) * (1 + CLOSE):
            goal = found.seconds / (1 + step)
            if goal <= self.low:
                goal = found.seconds / (1 + within)
            better = self.plans.within(goal)
            if better is None or better.seconds >= found.seconds:
                self.low, step = goal, within
            else:
                found, step = better, 4 * step
        return found

    def _bisect(self, found: Price, within: float) -> Price:
        """A plan that is so near to the best, from one that is not."""
        while found.seconds > self.low * (1 + within) * (1 + CLOSE):
            middle = (self.low + found.seconds) / 2
            better = self.plans.within(middle)
            if better is None or better.seconds >= found.seconds:
                self.low = middle
            else:
                found = better
        return found
