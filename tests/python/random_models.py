"""Small models of odd shapes, as transformers and PEFT make and compute them: python random_models.py folder

For each model: its folder as `save_pretrained` writes it, an adapter in `adapter`, and expected.safetensors: ids and labels, logits, loss
and every gradient; with the adapter logits, loss and gradients, then losses and norms of AdamW steps.
"""

import os
import sys

import peft
import torch
import transformers
from safetensors.torch import save_file

SIZES = dict(vocab_size=101, hidden_size=60, intermediate_size=77, num_hidden_layers=1, max_position_embeddings=40)
ROPE = dict(rope_type="default", rope_theta=500.0)
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=10, beta_fast=16.0)
LLAMA3 = dict(rope_type="llama3", rope_theta=1e4, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
# Name: architecture, configuration, type and largest shard of the file, adapter.
MODELS = {
    "a llama with biases and one key head": (
        "Llama",
        dict(**SIZES, num_attention_heads=5, num_key_value_heads=1, attention_bias=True, mlp_bias=True, rope_parameters=ROPE),
        (torch.float32, "20KB"),
        dict(r=3, lora_alpha=7, target_modules="all-linear", use_rslora=True),
    ),
    "a tied llama with heads wider than it is": (
        "Llama",
        dict(SIZES, hidden_size=39, num_attention_heads=3, num_key_value_heads=3, head_dim=20, tie_word_embeddings=True, rope_parameters=LLAMA3),
        (torch.bfloat16, "20KB"),
        dict(r=2, lora_alpha=5, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 6}, alpha_pattern={"q_proj": 11}),
    ),
    "a mistral with a window": (
        "Mistral",
        dict(SIZES, vocab_size=66, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, sliding_window=32, rope_parameters=YARN),
        (torch.float16, "5GB"),
        dict(r=2, lora_alpha=8, target_modules=["v_proj"], layers_to_transform=[1], init_lora_weights="gaussian"),
    ),
    "a qwen3 with biases": (
        "Qwen3",
        dict(SIZES, num_attention_heads=2, num_key_value_heads=1, head_dim=24, attention_bias=True, rope_parameters=dict(ROPE, rope_type="linear", factor=3.0)),
        (torch.float32, "5GB"),
        dict(r=3, lora_alpha=3, target_modules=r".*\.0\..*(k_proj|up_proj)", modules_to_save=["lm_head"]),
    ),
    "a gpt2 with an output layer of its own": (
        "GPT2",
        dict(vocab_size=53, n_embd=60, n_inner=101, n_layer=2, n_head=5, n_positions=40, tie_word_embeddings=False, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
        (torch.bfloat16, "20KB"),
        dict(r=5, lora_alpha=4, target_modules=["c_attn", "mlp.c_proj"], use_dora=True, fan_in_fan_out=True),
    ),
}
STEPS = 12


def gradients(named, prefix=""):
    return {f"{prefix}grad.{name}": own.grad.clone() for name, own in named if own.grad is not None}


def make(folder, architecture, options, file, adapter):
    head = "LMHeadModel" if architecture == "GPT2" else "ForCausalLM"
    config = getattr(transformers, f"{architecture}Config")(**options, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    kind = getattr(transformers, f"{architecture}{head}")
    model = kind(config)
    with torch.no_grad():
        for name, own in model.named_parameters():
            # Gains of 1 and biases of 0 would hide where they are applied.
            norm = "norm" in name or "ln_" in name
            own.copy_((1.0 if norm and name.endswith("weight") else 0.0) + (0.3 if norm else 0.12) * torch.randn_like(own))
    model.to(file[0]).save_pretrained(folder, max_shard_size=file[1])
    load = lambda: kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").train()
    model = load()
    ids = torch.randint(0, config.vocab_size, (3, 19))
    labels = ids.clone()
    labels[0, :7] = labels[2, 3:9] = -100
    out = model(input_ids=ids, labels=labels)
    out.loss.backward()
    found = {"ids": ids.int(), "labels": labels.int(), "logits": out.logits, "loss": out.loss.reshape(1)}
    found |= gradients(model.named_parameters())

    model = peft.get_peft_model(load(), peft.LoraConfig(task_type="CAUSAL_LM", **adapter))
    with torch.no_grad():
        for name, own in model.named_parameters():
            if own.requires_grad and "magnitude" not in name:
                own.add_(0.1 * torch.randn_like(own))
    model.peft_config["default"].base_model_name_or_path = None
    model.save_pretrained(f"{folder}/adapter")
    trained = {name: own for name, own in model.named_parameters() if own.requires_grad}
    out = model(input_ids=ids, labels=labels)
    out.loss.backward()
    found |= {"adapter.logits": out.logits, "adapter.loss": out.loss.reshape(1)} | gradients(trained.items(), "adapter.")
    batches = torch.randint(0, config.vocab_size, (STEPS, 2, 17))
    optimizer = torch.optim.AdamW(trained.values(), lr=2e-3, weight_decay=0.01)
    losses, norms = [], []
    for batch in batches:
        optimizer.zero_grad()
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained.values(), 1.0))
        optimizer.step()
        losses.append(loss)
    found |= {"batches": batches.int(), "losses": torch.stack(losses), "norms": torch.stack(norms)}
    save_file({name: own.detach().clone().contiguous() for name, own in found.items()}, f"{folder}/expected.safetensors")


torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
for seed, (name, plan) in enumerate(MODELS.items()):
    torch.manual_seed(40 + seed)
    make(os.path.join(sys.argv[1], name), *plan)
