import json

import pytest
import torch

from likeness.datamodules.samples import BadSample
from likeness.datamodules.tensors import TensorFile, dump_tensors


@pytest.mark.parametrize(("dtype", "shape"), [("F32", [2**60]), ("F32", [-1]), ("F32", ["x"]), ("Q8", [2]), ("F32", 2)])
def test_impossible_tensors_are_refused(dtype, shape):
    entry = {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, 8]}}
    header = json.dumps(entry).encode()
    with pytest.raises(BadSample, match="broken cache"):
        TensorFile.parse(len(header).to_bytes(8, "little") + header + bytes(8))


def test_tensors_at_odd_places_are_read():
    values = torch.arange(5, dtype=torch.float32)
    header = json.dumps({"a": {"dtype": "F32", "shape": [5], "data_offsets": [1, 21]}}).encode()
    header += b" " * (-len(header) % 8)
    file = TensorFile.parse(len(header).to_bytes(8, "little") + header + b"x" + values.numpy().tobytes())
    assert torch.equal(file.tensor("a"), values)
    again = TensorFile.parse(dump_tensors({"a": values}, {"b": "c"}))
    assert torch.equal(again.tensor("a"), values)
    assert again.metadata == {"b": "c"}
    assert again.checksum("a") == file.checksum("a")
