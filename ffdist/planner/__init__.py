"""The search for the fastest plan: blocks and links are measured, plans are priced, searched and simulated.

profile = profile_of(chain, objective, settings, train)       # `planner.cached`: measured once, then read from a cache
cluster = Cluster(devices=4, link=parse_link("1gbit"))
plan = best_plan(profile, cluster)
price(profile, cluster, plan).rate                            # samples a second, at most
simulate(profile, cluster, plan).rate                         # `planner.simulate`: with queues and spread
"""

from __future__ import annotations

from ffdist.planner.cluster import Cluster, NetworkLink, parse_bytes, parse_link
from ffdist.planner.price import Price, price
from ffdist.planner.profile import BlockProfile, Profile, SampleCurve
from ffdist.planner.search import best_plan
from ffdist.renamed import renamed_names

__all__ = [
    "BlockProfile",
    "Cluster",
    "NetworkLink",
    "Price",
    "Profile",
    "SampleCurve",
    "best_plan",
    "parse_bytes",
    "parse_link",
    "price",
]

__getattr__ = renamed_names(__name__, Curve="SampleCurve")
