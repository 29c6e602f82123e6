"""
Live figures: turns and tokens of a run that goes on, counted from its log as that grows.

They are shown and nothing else: nothing is decided by them, and what a run took
is on record by its whole output.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import Any

import jmespath

from reconciler.core.adapter import Streamed
from reconciler.core.figures import LiveFigures
from reconciler.core.patterns import Streak, lines_of
from reconciler.dispatch.conditions import may_hold, required_literals
from reconciler.dispatch.framing import MOST_EVENT, Framer, OutputEvent
from reconciler.dispatch.logs import LogFolder, StreamName
from reconciler.dispatch.output import ask_rule, read_number

_MOST_TURNS = 1000
"""Turns whose figures may still change."""

_PIECE = 255 * 1024
"""Bytes that are looked at for refusals at once."""
_LONGEST_START = 2000
"""Bytes that are kept of an incomplete line: its beginning is enough."""
_LONGEST_NAME = 200
"""Characters of the name of a turn."""
_TOKENS = ("input_tokens", "output_tokens", "cached_tokens")


class FigureCounter:
    """Counts the turns and tokens of one run; after a restart, anew from the beginning of its log."""

    def __init__(self, rules: Streamed, logs: LogFolder, run_id: str) -> None:
        self._rules = rules
        self._logs = logs
        self._run_id = run_id
        self._offset = 0
        self._literals = required_literals(jmespath.compile(rules.turn).parsed)
        self._framer = Framer(self._take, partial(may_hold, self._literals))
        self._turns: dict[str, Mapping[str, int]] = {}
        """Tokens of the last turns, by their names."""
        self._settled = dict.fromkeys(_TOKENS, 0)
        """Tokens of the turns before these."""
        self._settled_turns = 0

    def count_on(self) -> bool:
        """
        Count what came since the last call, at most `MOST_EVENT` bytes; return whether there may be more.

        For a thread, but soon over: it keeps a process from ending. Raises OSError.
        """
        with self._logs.open(self._run_id, "out") as log:
            log.seek(self._offset)
            data = log.read(MOST_EVENT)
        is_full = len(data) == MOST_EVENT
        whole = data[: data.rfind(b"\n") + 1] or (data if is_full else b"")  # no event is so long
        self._offset += len(whole)
        before = self.figures
        self._framer.read(BytesIO(whole))
        if self.figures != before:
            self._logs.write_figures(self._run_id, self.figures)
        return is_full

    @property
    def figures(self) -> LiveFigures:
        """What was counted so far; None for what the rules do not tell."""
        totals: dict[str, Any] = {
            name: self._settled[name] + sum(turn[name] for turn in self._turns.values())
            for name in _TOKENS
            if getattr(self._rules, name) is not None
        }
        return LiveFigures(turns=self._settled_turns + len(self._turns), **totals)

    def _take(
        self, events: Sequence[OutputEvent], lines: Sequence[str] | None = None, *, is_spliced: bool = False
    ) -> None:
        del is_spliced  # what is shown decides nothing
        for at, event in enumerate(events):
            if lines is None or may_hold(self._literals, lines[at]):
                self._count(event)

    def _count(self, event: OutputEvent) -> None:
        turn = ask_rule(self._rules.turn, event)
        if not isinstance(turn, str) or not 0 < len(turn) <= _LONGEST_NAME:
            return
        self._turns[turn] = {name: self._tokens(name, event) for name in _TOKENS}
        if len(self._turns) > _MOST_TURNS:
            self._settle(next(iter(self._turns)))

    def _tokens(self, name: str, event: OutputEvent) -> int:
        return int(read_number(ask_rule(getattr(self._rules, name), event)))

    def _settle(self, turn: str) -> None:
        for name, count in self._turns.pop(turn).items():
            self._settled[name] += count
        self._settled_turns += 1


class RefusalCounter:
    """Counts the lines in a row that say that a CLI only waits to call its model again (`give_up`)."""

    def __init__(self, pattern: str, logs: LogFolder, run_id: str, begin: Mapping[StreamName, int]) -> None:
        """Begin; `begin` are the bytes of each stream that are not looked at."""
        self._logs = logs
        self._run_id = run_id
        self._offsets = dict(begin)
        self._rests = dict.fromkeys(begin, b"")
        """Incomplete last lines."""
        self._streaks = {stream: Streak(pattern) for stream in begin}
        self.longest = 0
        """Most of such lines in a row so far."""

    def count_on(self) -> bool:
        """
        Count what came since the last call; return whether there may be more.

        For a thread. Raises OSError.
        """
        return sum(map(self._count, tuple(self._offsets))) > 0

    def _count(self, stream: StreamName) -> bool:
        with self._logs.open(self._run_id, stream) as log:
            log.seek(self._offsets[stream])
            data = log.read(_PIECE)
        self._offsets[stream] += len(data)
        whole, _, rest = (self._rests[stream] + data).rpartition(b"\n")
        self._rests[stream] = rest[:_LONGEST_START]
        for line in lines_of(whole.decode("utf-8", "replace")):
            self.longest = max(self.longest, self._streaks[stream].add(line))
        return len(data) == _PIECE
