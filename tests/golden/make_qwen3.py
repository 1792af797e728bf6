"""Makes tests/golden/qwen3: a tiny random Qwen3, as transformers 5.23.0 and PEFT 0.21.2 on torch 2.13.0 compute it.

    pip install torch==2.13.0+cpu transformers==5.23.0 peft==0.21.2
    python tests/golden/make_qwen3.py
"""

import os

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "qwen3")
torch.manual_seed(3)
torch.set_num_threads(1)

config = Qwen3Config(
    vocab_size=290,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,  # 4 heads of 16 are wider than the residual stream
    max_position_embeddings=64,
    tie_word_embeddings=True,
    rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    bos_token_id=None,
    eos_token_id=None,
)
config._attn_implementation = "eager"
model = Qwen3ForCausalLM(config)
with torch.no_grad():
    for name, parameter in model.named_parameters():
        # Gains of 1 would hide where they are applied.
        if "norm" in name:
            parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
        else:
            parameter.copy_(0.15 * torch.randn_like(parameter))
model.train()
model.save_pretrained(FOLDER)

ids = torch.randint(0, config.vocab_size, (2, 24))
labels = ids.clone()
labels[0, :5] = -100
labels[1, 20:] = -100
out = model(input_ids=ids, labels=labels)
out.loss.backward()
expected = {
    "input_ids": ids.to(torch.int32),
    "labels": labels.to(torch.int32),
    "logits": out.logits.detach(),
    "loss": out.loss.detach().reshape(1),
}
for name, parameter in model.named_parameters():
    expected[f"grad.{name}"] = parameter.grad.detach().clone()
model.zero_grad()
model.eval()
with torch.no_grad():
    generated = model.generate(ids[:1, :8], max_new_tokens=16, do_sample=False, pad_token_id=0)
expected["generated"] = generated.to(torch.int32)
save_file({k: v.contiguous() for k, v in expected.items()}, f"{FOLDER}/expected.safetensors")

model.train()
lora = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
with torch.no_grad():
    for name, parameter in lora.named_parameters():
        if "lora_" in name:
            parameter.copy_(0.1 * torch.randn_like(parameter))
lora.peft_config["default"].base_model_name_or_path = "golden/qwen3"
lora.save_pretrained(f"{FOLDER}/lora/start")
out = lora(input_ids=ids, labels=labels)
out.loss.backward()
start = {"logits": out.logits.detach().clone(), "loss": out.loss.detach().reshape(1).clone()}
trained = {n: p for n, p in lora.named_parameters() if p.requires_grad}
for name, parameter in trained.items():
    start[f"grad.{name}"] = parameter.grad.clone()
lora.zero_grad()
batches = torch.randint(0, config.vocab_size, (12, 2, 24))
optimizer = torch.optim.AdamW(trained.values(), lr=5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
losses, norms = [], []
for batch in batches:
    optimizer.zero_grad()
    loss = lora(input_ids=batch, labels=batch).loss
    loss.backward()
    norms.append(torch.nn.utils.clip_grad_norm_(trained.values(), 1.0))
    optimizer.step()
    losses.append(loss.detach())
lora.save_pretrained(f"{FOLDER}/lora/end")
with torch.no_grad():
    start["end_logits"] = lora(input_ids=ids).logits
    merged = lora.merge_and_unload()
    start["merged_logits"] = merged(input_ids=ids).logits
start |= {
    "batches": batches.to(torch.int32),
    "losses": torch.stack(losses),
    "grad_norms": torch.stack(norms),
}
save_file({k: v.contiguous() for k, v in start.items()}, f"{FOLDER}/lora/expected.safetensors")
for folder in (FOLDER, f"{FOLDER}/lora/start", f"{FOLDER}/lora/end"):
    for name in ("README.md", "generation_config.json"):
        if os.path.exists(f"{folder}/{name}"):
            os.remove(f"{folder}/{name}")
