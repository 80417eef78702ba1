"""Which replica answers: the one that an adapter belongs to, while it is not much busier than the others. Pure.

Source: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998: rendezvous hashing); Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2018).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from runtime.ids import digest

OVERLOAD = 1.25
"""How much more than its even share a replica takes before an adapter's requests go on to its next one."""


def choose(adapter: str | None, in_flight: Mapping[str, int]) -> str:
    """The replica for a request of `adapter`, None for the base, by how many each has in flight. An adapter stays where its weights and its prompts' beginnings are; the base is everywhere.

    Raises:
        ValueError: there is no replica.
    """
    if not in_flight:
        raise ValueError("no replica to choose from")
    if adapter is None:
        return min(in_flight, key=lambda replica: (in_flight[replica], replica))
    bound = math.ceil(OVERLOAD * (sum(in_flight.values()) + 1) / len(in_flight))
    return next(replica for replica in sorted(in_flight, key=lambda one: digest("replica", adapter, one)) if in_flight[replica] < bound)
