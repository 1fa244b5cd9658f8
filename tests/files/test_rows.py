"""Rows of damaged files: a sentence, never the end of the process."""

from pathlib import Path

import pyarrow as pa
import pytest

from mechicl.errors import InputError
from mechicl.files.rows import read_rows


@pytest.mark.parametrize("end", [b"\xff\xff\xff\x7f", b"\x00\x00\x00\xff"])
def test_an_arrow_file_with_offsets_outside_of_it_is_refused_and_does_not_end_the_process(
    tmp_path: Path, end: bytes
) -> None:
    table = pa.table({"text": ["good film", "bad film"], "label": ["positive", "negative"]})
    path = tmp_path / "rows.arrow"
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)
    offsets = b"".join(number.to_bytes(4, "little") for number in (0, 9, 17))
    content = path.read_bytes()
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, offsets[:8] + end))
    with pytest.raises(InputError, match=r"rows\.arrow is no arrow file"):
        list(read_rows(path))
