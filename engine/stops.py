"""Stop strings in text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to a stop string, and holds back what may be the beginning of one.

    Of several stop strings in one piece the one that is complete first counts, as if the text had
    come character by character.
    """

    __slots__ = ("_held", "_longest", "_seen", "_stops", "matched")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._longest = max(map(len, self._stops), default=1)
        # The stop string that is complete.
        self.matched: str | None = None
        # The end of the text so far, long enough for any stop string that isn't complete yet, and
        # how much of its end has not been let through.
        self._seen = ""
        self._held = 0

    def push(self, text: str, *, ignored: bool = False) -> tuple[str, bool]:
        """Take the next piece; returns the text that is let through, and whether a stop string is
        complete, after which nothing more may be pushed.

        A stop string that is complete within an `ignored` piece is text like any other.
        """
        seen = self._seen + text
        unsent = self._held + len(text)
        if not ignored and text:
            cut = self._first_complete(seen, len(text))
            if cut is not None:
                self._held = 0
                return seen[len(seen) - unsent : cut], True
        self._held = min(unsent, self._maybe_begun(seen))
        self._seen = seen[max(0, len(seen) - self._longest) :]
        return seen[len(seen) - unsent : len(seen) - self._held], False

    def rest(self) -> str:
        """What is still held back, for a text that ends without a stop string."""
        held, self._held = self._held, 0
        return self._seen[len(self._seen) - held :]

    def _first_complete(self, seen: str, new: int) -> int | None:
        """Where the stop string begins that is complete first within the last `new` characters."""
        best: tuple[int, int] | None = None
        for stop in self._stops:
            begin = seen.find(stop, max(0, len(seen) - new - len(stop) + 1))
            if begin >= 0 and (best is None or begin + len(stop) < best[0]):
                best, self.matched = (begin + len(stop), begin), stop
        return None if best is None else best[1]

    def _maybe_begun(self, seen: str) -> int:
        """How many characters at the end of `seen` may be the beginning of a stop string."""
        longest = 0
        for stop in self._stops:
            begin = seen.find(stop[0], max(0, len(seen) - len(stop) + 1))
            while begin >= 0:
                if stop.startswith(seen[begin:]):
                    longest = max(longest, len(seen) - begin)
                    break
                begin = seen.find(stop[0], begin + 1)
        return longest
