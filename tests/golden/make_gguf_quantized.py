"""Makes tests/golden/gguf/quantized.json: blocks quantized by gguf-py.

    pip install gguf numpy
    python tests/golden/make_gguf_quantized.py > tests/golden/gguf/quantized.json
"""

import json
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import quantize

random = np.random.default_rng(7)
rows = [
    (1.5 * (2 * np.arange(32) - 31) / 31),          # the ramp of the format notes
    random.standard_normal(32),
    random.standard_normal(32) * 1e-4,               # scales near and below the smallest half
    random.standard_normal(32) * 3e-6,
    random.standard_normal(32) * 1e-30,
    random.standard_normal(32) * 20000,
    np.where(np.arange(32) == 5, -4.0, np.where(np.arange(32) == 9, 4.0, 0.25)),  # two largest
    np.where(np.arange(32) == 0, 127.0, np.arange(32) % 9 - 4 + 0.5),             # halves, away from zero
    np.where(np.arange(32) == 0, -8.0, np.arange(32) % 16 - 7.5),                  # halves of Q4_0
    np.zeros(32),
]
x = np.stack(rows).astype(np.float32)
out = {"made": "gguf-py's quants.quantize of x (little-endian f32)", "x": x.tobytes().hex()}
with np.errstate(over="ignore", invalid="ignore"):
    for t in (T.BF16, T.Q8_0, T.Q4_0):
        out[t.name] = quantize(x, t).tobytes().hex()
out["F16"] = x.astype(np.float16).tobytes().hex()
print(json.dumps(out, indent=1))
