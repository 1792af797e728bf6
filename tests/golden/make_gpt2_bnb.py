"""Makes tests/golden/gpt2/bnb-nf4-dq: tests/golden/gpt2 as a 4-bit checkpoint, as transformers 5.23.0 and bitsandbytes 0.50.2
write it on a CPU, and its logits in float32.

    pip install torch==2.13.0+cpu transformers==5.23.0 bitsandbytes==0.50.2 accelerate
    python tests/golden/make_gpt2_bnb.py
"""

import os

import bitsandbytes as bnb
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

FROM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gpt2")
TO = f"{FROM}/bnb-nf4-dq"
torch.set_num_threads(1)
config = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.float32,
)
model = AutoModelForCausalLM.from_pretrained(
    FROM, quantization_config=config, dtype=torch.float32, attn_implementation="eager"
)
model.save_pretrained(TO)
if os.path.exists(f"{TO}/generation_config.json"):
    os.remove(f"{TO}/generation_config.json")


def decoded(weight):
    """A weight by the format's definition. bitsandbytes' own dequantize_4bit is wrong on a CPU where a block crosses rows, as
    here, where rows have 48 elements: it takes the scales as if each row began a new block."""
    state = weight.quant_state
    nested = state.state2
    scales = nested.code[state.absmax.long()]
    scales = scales * nested.absmax.repeat_interleave(nested.blocksize)[: len(scales)] + state.offset
    packed = weight.data.reshape(-1)
    values = state.code[torch.stack([packed >> 4, packed & 15], 1).reshape(-1).long()]
    return (values.reshape(-1, state.blocksize) * scales[:, None]).reshape(state.shape)


for path, layer in list(model.named_modules()):
    if isinstance(layer, bnb.nn.Linear4bit):
        plain = torch.nn.Linear(layer.in_features, layer.out_features)
        plain.weight.data = decoded(layer.weight)
        plain.bias = layer.bias
        model.set_submodule(path, plain)
ids = load_file(f"{FROM}/expected.safetensors")["input_ids"].long()
with torch.no_grad():
    save_file({"logits": model(input_ids=ids).logits}, f"{TO}/expected.safetensors")
