"""Which plan is fastest: blocks and links are measured, plans are priced, searched and simulated.

profile = profile_of(chain, objective, settings, device=CPU)      # measured once, then read from the user's cache
cluster = Cluster(devices=4, link=parse_link("1gbit"))
plan = best_plan(profile, cluster)
price(profile, cluster, plan).rate, simulate(profile, cluster, plan).rate     # samples a second
"""

from __future__ import annotations

from ffdist.planner.cluster import Cluster, NetworkLink, parse_bytes, parse_link
from ffdist.planner.price import Price, price
from ffdist.planner.profile import BlockProfile, Curve, Profile
from ffdist.planner.search import best_plan

__all__ = [
    "BlockProfile",
    "Cluster",
    "Curve",
    "NetworkLink",
    "Price",
    "Profile",
    "best_plan",
    "parse_bytes",
    "parse_link",
    "price",
]
