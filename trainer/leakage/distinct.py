"""Which of many rows are equal, at 16 bytes for each."""

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]


class Distinct:
    """Finds for each row the first with the same 64-bit key.

    Keys lie in sorted runs, of which each is at least twice as long as the next, so there are few
    and a key moves seldom. Two of ten million different rows share a key once in 400,000 times.
    """

    def __init__(self) -> None:
        """Knows no row yet."""
        self._runs: list[tuple[Keys, Rows]] = []
        self._num_rows = 0

    def add(self, keys: Keys) -> Rows:
        """The numbers [N] of the first rows with the keys [N] of the next N rows."""
        new, index, inverse = np.unique(keys, return_index=True, return_inverse=True)
        first = self._num_rows + index.astype(np.int64)
        self._num_rows += len(keys)
        is_new = np.ones(len(new), bool)
        for known, rows in self._runs:
            places = np.minimum(np.searchsorted(known, new), len(known) - 1)
            found = known[places] == new
            first[found] = rows[places[found]]
            is_new &= ~found
        if is_new.any():
            self._runs.append((new[is_new], first[is_new]))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            merged = [np.concatenate(parts) for parts in zip(*self._runs[-2:], strict=True)]
            order = np.argsort(merged[0], kind="stable")
            self._runs[-2:] = [(merged[0][order], merged[1][order])]
        return first[inverse]
