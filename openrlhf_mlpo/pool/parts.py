"""Reading stored responses back by question and sample, from files that hold them in the order of completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from openrlhf_mlpo.pool.format import damaged, response_type


class AgentResponses:
    """One agent's responses in Parquet files with the columns `id` and `responses`: parts, or a pool's own files.

    `stored`: a boolean array of shape (questions, samples), whether there is a response.
    """

    CACHED_GROUPS = 32

    def __init__(self, agent: str, files: Sequence[Path], position: Mapping[str, int], samples: int):
        """`position`: question id -> its row in the pool. Of a response that is there twice the later file's counts.

        Raises UserError for a damaged file.
        """
        self.groups: list[tuple[Path, int]] = []  # (file, row group)
        self._group = np.full((len(position), samples), -1, dtype=np.int32)
        self._index = np.zeros((len(position), samples), dtype=np.int32)  # within the responses of its group
        columns = ["id", "responses.list.element.agent", "responses.list.element.sample"]
        for file in files:
            try:
                content = pq.ParquetFile(file)
                for number in range(content.metadata.num_row_groups):
                    table = content.read_row_group(number, columns=columns)
                    lists = table["responses"].combine_chunks()
                    responses, counts = lists.flatten(), np.diff(lists.offsets.to_numpy())
                    rows = np.array([position.get(each, -1) for each in table["id"].to_pylist()], dtype=np.int64)
                    rows = np.repeat(rows, counts)
                    sample = pc.struct_field(responses, "sample").to_numpy()
                    own = pc.equal(pc.struct_field(responses, "agent"), agent).to_numpy(zero_copy_only=False)
                    index = np.flatnonzero(own & (rows >= 0) & (sample < samples))
                    self._group[rows[index], sample[index]] = len(self.groups)
                    self._index[rows[index], sample[index]] = index
                    self.groups.append((file, number))
            except (OSError, pa.ArrowException) as error:
                raise damaged(file, error) from None
        self.stored = self._group >= 0
        self._load = lru_cache(self.CACHED_GROUPS)(self._read_group)

    def first_missing(self):
        """The number of the first sample that each question lacks, `samples` where none: an int array."""
        return np.where(self.stored.all(axis=1), self.stored.shape[1], self.stored.argmin(axis=1))

    def read(self, start: int, end: int):
        """Struct array of the `(end - start) * samples` responses to the questions [start, end), by question."""
        group, index = self._group[start:end].ravel(), self._index[start:end].ravel()
        pieces, places = [], []
        for number in np.unique(group):
            where = np.flatnonzero(group == number)
            pieces.append(self._load(int(number)).take(pa.array(index[where])))
            places.append(where)
        order = np.argsort(np.concatenate(places))
        return pa.concat_arrays(pieces).take(pa.array(order))

    def _read_group(self, number: int):
        file, group = self.groups[number]
        try:
            table = pq.ParquetFile(file).read_row_group(group, columns=["responses"])
        except (OSError, pa.ArrowException) as error:
            raise damaged(file, error) from None
        return table["responses"].combine_chunks().flatten()


def interleave(by_agent: list, samples: int):
    """Per agent `questions * samples` structs -> one list per question, ordered by (agent, sample)."""
    agents, questions = len(by_agent), len(by_agent[0]) // samples
    index = np.arange(agents * questions * samples).reshape(agents, questions, samples).transpose(1, 0, 2).ravel()
    offsets = np.arange(questions + 1, dtype=np.int32) * (agents * samples)
    values = pa.concat_arrays(by_agent).take(pa.array(index)).cast(response_type())
    return pa.ListArray.from_arrays(pa.array(offsets), values)
