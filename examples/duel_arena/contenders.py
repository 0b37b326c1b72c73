"""The contenders: two voices, a few topics, and not one token billed. What they say is in `script.json`.

The same duel always gets the same answers, so one that was cut short can simply be heard again.
"""

import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio


@dataclass(frozen=True)
class Contender:
    """`pace` is how long this one takes for a word, against the other; `breath` how many words' time a stop lasts.

    `improvisations` answer what is no topic, and quote the {question}.
    """

    corner: str
    name: str
    motto: str
    pace: float
    breath: float
    openings: list[str]
    closings: list[str]
    improvisations: list[str]


@dataclass(frozen=True)
class Topic:
    """A question, and what the red and the blue corner have to say about it."""

    id: str
    question: str
    red: str
    blue: str


_script: dict[str, Any] = json.loads(Path(__file__).with_name("script.json").read_text(encoding="utf-8"))

CONTENDERS = {contender["corner"]: Contender(**contender) for contender in _script["contenders"]}
TOPICS = {topic["id"]: Topic(**topic) for topic in _script["topics"]}


def answers(seed: str, question: str, topic: Topic | None) -> dict[str, str]:
    """Return what each corner answers. The seed picks the words."""
    arguments = {"red": topic.red, "blue": topic.blue} if topic else {}
    return {
        corner: _answer(contender, random.Random(f"{seed}/{corner}"), question, arguments.get(corner))
        for corner, contender in CONTENDERS.items()
    }


async def speak(texts: dict[str, str], pace: float) -> AsyncIterator[tuple[str, str]]:
    """Yield (corner, word), both corners at once, each at its own tempo. `pace` is seconds per word; 0: no waiting."""
    words = [(moment, corner, word) for corner in texts for moment, word in _timed(CONTENDERS[corner], texts[corner])]
    now = 0.0
    for moment, corner, word in sorted(words, key=lambda spoken: spoken[0]):
        if pace > 0:
            await anyio.sleep((moment - now) * pace)
        now = moment
        yield corner, word


def _answer(contender: Contender, chance: random.Random, question: str, argument: str | None) -> str:
    opening, closing = chance.choice(contender.openings), chance.choice(contender.closings)
    if argument is None:
        quoted = question if question[-1] in ".!?…" else f"{question}?"
        argument = chance.choice(contender.improvisations).replace("{question}", quoted)
    return f"{opening} {argument} {closing}"


def _timed(contender: Contender, text: str) -> list[tuple[float, str]]:
    """Return each word with the moment it is said at, in words' time."""
    moment = 0.0
    timed = []
    for word in text.split():
        timed.append((moment, word))
        moment += contender.pace * (0.6 + len(word) / 12)
        if word[-1] in ".!?…":
            moment += contender.breath
        elif word[-1] in ",:;”":
            moment += contender.breath / 3
    return timed
