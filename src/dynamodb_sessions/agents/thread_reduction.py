"""What has to stay of a thread when checkpoints are removed, so that the remaining ones can still be rebuilt.

It is pure: it looks at checkpoints, and makes no calls. A remaining checkpoint may need two things of a removed one: a
value that it has not changed since, and, for a channel that is rebuilt from what tasks wrote (LangGraph's
`DeltaChannel`), the writes of every checkpoint back to the latest one that has the channel's value.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

from dynamodb_sessions.agents.thread_items import Place, Saved, order_of, value_frames


@dataclass(slots=True)
class Reduction:
    """What is to be done to the checkpoints of a thread."""

    rewritten: list[Saved] = field(default_factory=list)
    """Removed, but for what others need."""
    chained: set[Place] = field(default_factory=set)
    """Those of the rewritten whose writes are needed too."""
    unlinked: list[Saved] = field(default_factory=list)
    """Remaining ones that have lost their parent, as they are to be stored."""
    deleted: set[Place] = field(default_factory=set)


def reduce(
    checkpoints: Iterable[Saved], remaining: Collection[Place], rebuilt: Callable[[Saved], Collection[str]]
) -> Reduction:
    """Return what is to be done so that of these checkpoints, all of a thread, only some can still be found.

    `rebuilt` says which channels of a checkpoint are rebuilt from what tasks wrote before it.
    """
    by_place = {saved.place: saved for saved in checkpoints}
    values: dict[Place, set[str]] = defaultdict(set)
    chain: set[Place] = set()
    walked: set[tuple[Place, frozenset[str]]] = set()
    for place in remaining:
        saved = by_place[place]
        for channel, order in saved.elsewhere().items():
            values[saved.ns, order].add(channel)
        missing = set(rebuilt(saved))
        before = _before(saved, by_place)
        while missing and before is not None and (before.place, frozenset(missing)) not in walked:
            walked.add((before.place, frozenset(missing)))
            chain.add(before.place)
            elsewhere = before.elsewhere()
            for channel in missing & elsewhere.keys():
                values[before.ns, elsewhere[channel]].add(channel)
            seeds = missing & (before.values().keys() | elsewhere.keys())
            values[before.place] |= seeds
            missing -= seeds
            before = _before(before, by_place)
    result = Reduction()
    for place, saved in by_place.items():
        if place in remaining:
            if saved.parent is not None and (saved.ns, order_of(saved.parent)) not in remaining:
                chained = saved.parent if (saved.ns, order_of(saved.parent)) in chain else None
                result.unlinked.append(replace(saved, parent=None, chained=chained))
        elif place in chain or values.get(place):
            result.rewritten.append(_removed(saved, values[place], chain))
            if place in chain:
                result.chained.add(place)
        else:
            result.deleted.add(place)
    return result


def _before(saved: Saved, by_place: dict[Place, Saved]) -> Saved | None:
    return None if saved.before is None else by_place.get((saved.ns, order_of(saved.before)))


def _removed(saved: Saved, needed: set[str], chain: set[Place]) -> Saved:
    """Return what stays of a checkpoint that nobody is to find any more."""
    before = saved.before
    frames = value_frames(
        {channel: value for channel, value in saved.values().items() if channel in needed},
        {channel: order for channel, order in saved.elsewhere().items() if channel in needed},
    )
    is_linked = before is not None and saved.place in chain and (saved.ns, order_of(before)) in chain
    return replace(
        saved,
        parent=None,
        chained=before if is_linked else None,
        frames=frames,
        run_owner=None,
        created_at=None,
    )
