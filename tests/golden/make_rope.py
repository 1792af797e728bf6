"""Makes tests/golden/rope/rope.json: frequencies and angles of scaled rotary positions, as transformers 5.23.0 on torch
2.13.0 computes them. Each case is a config.json; the numbers are float32, written exactly.

    pip install torch==2.13.0+cpu transformers==5.23.0
    python tests/golden/make_rope.py
"""

import json
import os

import torch
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

torch.set_num_threads(1)
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rope")
BASE = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
    "rope_type": "llama3",
}
CASES = {
    "default": {"rope_theta": 500000.0},
    "linear": {"rope_scaling": {"type": "linear", "factor": 3.0}},
    "linear, new": {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 20000.0}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 1.7}},
    "llama3": {"rope_theta": 500000.0, "rope_scaling": LLAMA3},
    "llama3, new": {"rope_parameters": {**LLAMA3, "factor": 32.0, "rope_theta": 500000.0}},
    "yarn": {"rope_theta": 1000000.0, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}},
    "yarn, new": {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 40.0,
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 256,
            "beta_fast": 16,
            "beta_slow": 2,
            "mscale": 0.707,
            "mscale_all_dim": 1.0,
            "truncate": False,
        }
    },
    "yarn, attention factor": {
        "rope_parameters": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 0.85, "rope_theta": 10000.0}
    },
}
POSITIONS = [0, 1, 2, 7, 100, 511]
out = []
for name, extra in CASES.items():
    given = {**BASE, **extra}
    copy = json.loads(json.dumps(given))
    rope = LlamaRotaryEmbedding(AutoConfig.for_model(copy.pop("model_type"), **copy))
    case = {"name": name, "config": given, "positions": POSITIONS, "length": 512}

    def angles(positions):
        cos, sin = rope(torch.zeros(1), torch.tensor([positions]))
        half = cos.shape[-1] // 2
        return [row.tolist() for row in cos[0, :, :half]], [row.tolist() for row in sin[0, :, :half]]

    case["cos"], case["sin"] = angles(POSITIONS)
    case["frequencies"] = rope.inv_freq.tolist()
    case["scale"] = float(rope.attention_scaling)
    out.append(case)
    if name == "dynamic":
        # Beyond the context the base follows the length of the sequence.
        far = [0, 1, 7, 100, 511, 1999]
        cos, sin = angles(far)
        out.append({**case, "name": "dynamic, beyond", "length": 2000, "positions": far, "cos": cos, "sin": sin,
                    "frequencies": rope.inv_freq.tolist()})
os.makedirs(FOLDER, exist_ok=True)
with open(f"{FOLDER}/rope.json", "w") as file:
    file.write("[\n" + ",\n".join(json.dumps(case) for case in out) + "\n]\n")
