"""The page of all runs: the library's list, and a comparison of two to five runs. It reads, and starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from daemon.library.compare import Comparison, compare
from daemon.library.library import Library, LibraryError, Looked, chosen_run, library_of
from daemon.library.listed import Course

POINTS_MOST = 800  # most points of a curve
NAME_MOST = 400
ROWS_MOST = 400


class RunShelf:
    """Runs below some folders. One thread at a time looks; unchanged runs are not read again."""

    def __init__(self, places: Sequence[Path]) -> None:
        self._places = tuple(places)
        self._looks: Looked = {}

    def runs(self) -> Library:
        """`GET /api/runs`, without the runs' paths on this host."""
        library = library_of(self._places, self._looks)
        return Library(tuple(msgspec.structs.replace(run, folder="") for run in library.runs), library.remarks)

    def comparison(self, names: Sequence[str]) -> Comparison:
        """`GET /api/runs/compare?id=…&id=…`. Raises LibraryError, JournalError, OSError."""
        library = library_of(self._places, self._looks)
        try:
            comparison_result = compare([chosen_run(library, name[:NAME_MOST], by_folder=False) for name in names])
        except ValueError as error:  # a file that was valid when the list was made
            raise LibraryError("a run cannot be read any more: look at the list again") from error
        return msgspec.structs.replace(
            comparison_result,
            runs=tuple(msgspec.structs.replace(run, folder="") for run in comparison_result.runs),
            courses=tuple(map(thinned_course, comparison_result.courses)),
            differences=comparison_result.differences[:ROWS_MOST],
        )


def thinned_course(course: Course) -> Course:
    """Return at most `POINTS_MOST` points, with the first, the last and the deepest."""
    count = len(course.times)
    if count <= POINTS_MOST:
        return course
    deepest = max(range(count), key=course.falls.__getitem__)
    places = sorted({round(step * (count - 1) / (POINTS_MOST - 2)) for step in range(POINTS_MOST - 1)} | {deepest})
    return Course(*(tuple(values[place] for place in places) for values in (course.times, course.shares, course.falls)))
