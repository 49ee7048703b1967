"""Makes the files beside it, with PyTorch 2.14: a state dict in both formats and what is in it,
and a few values of Python pickled by each protocol."""

import json
import pickle
from collections import OrderedDict
from pathlib import Path

import torch

here = Path(__file__).parent
torch.manual_seed(1)
base = torch.arange(40, dtype=torch.float32) / 8
matrix = torch.randn(6, 10).to(torch.bfloat16)
layer = torch.nn.Linear(3, 2)

state = layer.state_dict()  # an OrderedDict with the attribute _metadata
state["parameter"] = torch.nn.Parameter(torch.randn(4).half())
state["window"] = base.view(5, 8)[1:4, 2:7]
state["transposed"] = matrix.t()
state["permuted"] = torch.arange(24, dtype=torch.int16).view(2, 3, 4).permute(2, 0, 1)
state["tied"] = matrix
state["steps"] = base[3::4]
state["scalar"] = torch.tensor(2.5, dtype=torch.float64)
state["empty"] = torch.zeros(0, 3)
state["one_row"] = torch.arange(5).expand(1, -1)
state["no.weights"] = 7
state["nothing"] = None
for name in "bool uint8 int8 int32 int64 complex64 uint16 uint32 uint64".split():
    state[name] = torch.tensor([0, 1, 100]).to(getattr(torch, name))
for name in "float8_e4m3fn float8_e5m2".split():
    state[name] = torch.tensor([0.5, -1, 2]).to(getattr(torch, name))

torch.save(state, here / "zip.bin")
torch.save(state, here / "zip-protocol-5.bin", pickle_protocol=5)
torch.save(state, here / "legacy.bin", _use_new_zipfile_serialization=False)
expected = {
    name: {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "bytes": tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes().hex(),
    }
    for name, tensor in state.items()
    if isinstance(tensor, torch.Tensor)
}
lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in expected.items()]
(here / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")

shared = ["s"]
values = {
    "integers": [0, 255, 256, 65536, -1, -(2**31), 2**31, 2**53 - 1, 2**53, -(2**63), 2**80],
    "floats": [0.1, -1e300],
    "texts": ["", "ü中😀", "\ufeffx", "x" * 300],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "others": (True, False, None),
    "dict": {"a": {}, 1: "one"},
    "twice": [shared, shared],
    "ordered": OrderedDict(k=2),
}
for protocol in range(2, 6):
    if protocol == 3:
        values["bytes"] = [b"", b"\x00\xff", b"x" * 300]
    if protocol == 4:
        values["sets"] = [{1}, frozenset([2])]
    (here / f"values-{protocol}.pkl").write_bytes(pickle.dumps(values, protocol))
