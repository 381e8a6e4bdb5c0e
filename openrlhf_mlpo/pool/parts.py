"""Reading stored responses back by question, agent and sample, from files that hold them in the order of completion."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from openrlhf_mlpo.pool.format import reading, response_type


class StoredResponses:
    """Responses in Parquet files with the columns `id` and `responses`: parts, or a pool's own files.

    `there`: a boolean array of shape (questions, agents, samples), whether there is a response.
    """

    CACHED_GROUPS = 32  # by agent

    def __init__(self, files: Sequence[Path], ids: Sequence[str], agents: Sequence[str], samples: int):
        """Of a response that is there twice the later file's counts. Raises UserError for a damaged file."""
        self.groups: list[tuple[Path, int]] = []  # (file, row group)
        self._group = np.full((len(ids), len(agents), samples), -1, dtype=np.int32)
        self._index = np.zeros_like(self._group)  # within the responses of its group
        position = {question_id: row for row, question_id in enumerate(ids)}
        names = pa.array(agents, pa.string())
        columns = ["id", "responses.list.element.agent", "responses.list.element.sample"]
        for file in files:
            with reading(file):
                content = pq.ParquetFile(file)
                for number in range(content.metadata.num_row_groups):
                    table = content.read_row_group(number, columns=columns)
                    lists = table["responses"].combine_chunks()
                    responses, counts = lists.flatten(), np.diff(lists.offsets.to_numpy())
                    rows = np.array([position.get(each, -1) for each in table["id"].to_pylist()], dtype=np.int64)
                    rows = np.repeat(rows, counts)
                    agent = pc.index_in(pc.struct_field(responses, "agent"), names).fill_null(-1).to_numpy()
                    sample = pc.struct_field(responses, "sample").to_numpy()
                    index = np.flatnonzero((agent >= 0) & (rows >= 0) & (sample < samples))
                    place = rows[index], agent[index], sample[index]
                    self._group[place], self._index[place] = len(self.groups), index
                    self.groups.append((file, number))
        self.there = self._group >= 0
        self._load = lru_cache(self.CACHED_GROUPS * len(agents))(self._read_group)

    def read(self, start: int, end: int) -> pa.ListArray:
        """The responses to each of the questions [start, end), ordered by (agent, sample); all must be there."""
        group, index = self._group[start:end].ravel(), self._index[start:end].ravel()
        pieces, places = [], []
        for number in np.unique(group):
            where = np.flatnonzero(group == number)
            pieces.append(self._load(int(number)).take(pa.array(index[where])))
            places.append(where)
        order = np.argsort(np.concatenate(places))
        offsets = np.arange(end - start + 1, dtype=np.int32) * self._group[0].size
        return pa.ListArray.from_arrays(pa.array(offsets), pa.concat_arrays(pieces).take(pa.array(order)))

    def _read_group(self, number: int):
        file, group = self.groups[number]
        with reading(file):
            table = pq.ParquetFile(file).read_row_group(group, columns=["responses"])
        return table["responses"].combine_chunks().flatten().cast(response_type())
