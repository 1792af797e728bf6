"""transformers, PEFT and bitsandbytes on nibble's whole steps: QLoRA, full fine-tuning, decoding, prefill; random weights.

    python3 bench/peers/peer_transformers.py --filter qlora > transformers.json
    nibble bench --compare transformers.json nibble.json

Names, shapes and lengths are those of `nibble bench --end-to-end`. The model is built and quantized layer by layer, so that it
never exists whole in 32 bits. `peakBytes` is torch's max_memory_allocated.
"""

import argparse
import json
import platform
import statistics
import sys
import time

SAMPLES = 5
SAMPLE_SECONDS = 0.4

LLAMA_KIND = {"rms_norm_eps": 1e-5, "initializer_range": 0.02}
SHAPES = {
    "smollm2": {
        **LLAMA_KIND,
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "llama7b": {
        **LLAMA_KIND,
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QV = ["q_proj", "v_proj"]

# Name, model, kind, rows, length, rank, layers, gradient checkpointing.
WORKS = [
    ("qlora smollm2 r16-all 4x512", "smollm2", "train", 4, 512, 16, ALL, False),
    ("qlora smollm2 r16-all 16x512", "smollm2", "train", 16, 512, 16, ALL, False),
    ("qlora smollm2 r8-qv 4x512", "smollm2", "train", 4, 512, 8, QV, False),
    ("qlora smollm2 r8-qv 1x128", "smollm2", "train", 1, 128, 8, QV, False),
    ("full smollm2 4x512", "smollm2", "train", 4, 512, None, None, False),
    ("decode smollm2", "smollm2", "decode", 1, 16, None, None, False),
    ("prefill smollm2", "smollm2", "prefill", 1, 512, None, None, False),
    ("qlora llama7b r16-all checkpointed 1x512", "llama7b", "train", 1, 512, 16, ALL, True),
    ("qlora llama7b r8-qv 1x512", "llama7b", "train", 1, 512, 8, QV, False),
    ("decode llama7b", "llama7b", "decode", 1, 16, None, None, False),
    ("prefill llama7b", "llama7b", "prefill", 1, 512, None, None, False),
]
NEW_TOKENS = 256


def packages_of(work, is_plain):
    """What a row needs: decoding and QLoRA run on 4 bits, which only bitsandbytes has."""
    is_full = work[2] == "train" and work[5] is None
    needed = ["torch", "transformers"]
    if work[5] is not None:
        needed.append("peft")
    return needed if is_full or is_plain else needed + ["bitsandbytes"]


def draw(torch, shape, dtype):
    return torch.randn(*shape, device="cuda", dtype=dtype) * 0.02


def quantized(torch, bnb, linear, dtype):
    """A linear layer in NF4 with double quantization, with random weights."""
    own = bnb.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=False,
        compute_dtype=dtype,
        compress_statistics=True,
        quant_type="nf4",
    )
    weight = draw(torch, (linear.out_features, linear.in_features), dtype).cpu()
    own.weight = bnb.nn.Params4bit(
        weight, requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    return own.to("cuda")


def build(torch, shape, is_quantized, dtype):
    """A Llama with random weights: empty first, then filled one by one."""
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = transformers.LlamaConfig(**shape, attn_implementation="sdpa")
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    if is_quantized:
        import bitsandbytes as bnb

        for module in list(model.model.layers.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, torch.nn.Linear):
                    setattr(module, name, quantized(torch, bnb, child, dtype))
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device.type != "meta":
                continue
            value = draw(torch, parameter.shape, dtype)
            if parameter.dim() == 1:
                value = torch.ones_like(value)
            setattr(module, name, torch.nn.Parameter(value))
    model.tie_weights()
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to("cuda")
    return model


def sample(torch, run):
    """Seconds of a run: median, least and most; warm, until the GPU is done."""

    def timed(count):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            run()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / count

    one = timed(3)
    count = max(1, round(SAMPLE_SECONDS / one))
    times = [timed(count) for _ in range(SAMPLES)]
    return statistics.median(times), min(times), max(times)


def training_step(torch, model, rows, length, rank, layers, checkpointed):
    vocab = model.config.vocab_size
    if rank:
        import peft

        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
            model.config.use_cache = False
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers, lora_dropout=0.0)
        model = peft.get_peft_model(model, config)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4)
    ids = torch.randint(0, vocab, (rows, length), device="cuda")

    def step():
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def measure(torch, work, dtype, is_plain):
    name, model_name, kind, rows, length, rank, layers, checkpointed = work
    torch.cuda.empty_cache()
    is_full = kind == "train" and rank is None
    model = build(torch, SHAPES[model_name], not is_full and not is_plain, dtype)
    model.requires_grad_(is_full)
    ids = torch.randint(0, model.config.vocab_size, (rows, length), device="cuda")
    tokens = rows * length
    shape = f"batch={rows} length={length}"
    torch.cuda.reset_peak_memory_stats()
    if kind == "train":
        run = training_step(torch, model, rows, length, rank, layers, checkpointed)
    elif kind == "prefill":
        model.eval()

        def run():
            with torch.no_grad():
                model(input_ids=ids, use_cache=True, logits_to_keep=1)

    else:
        model.eval()
        shape = f"batch={rows} prompt={length} answer={NEW_TOKENS}"
        tokens = NEW_TOKENS

        def run():
            with torch.no_grad():
                model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    min_new_tokens=NEW_TOKENS,
                    max_new_tokens=NEW_TOKENS,
                    pad_token_id=0,
                )

    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    cold = time.perf_counter() - start
    median, least, most = sample(torch, run)
    unit = 1000 / (NEW_TOKENS if kind == "decode" else 1)
    return {
        "name": name,
        "shape": shape,
        "ms": unit * median,
        "minMs": unit * least,
        "maxMs": unit * most,
        "tokensPerSecond": tokens / median,
        "coldMs": 1000 * cold,
        "peakBytes": torch.cuda.max_memory_allocated(),
        "reservedBytes": torch.cuda.max_memory_reserved(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--filter", default="", help="only rows whose name contains this")
    parser.add_argument("--plain", action="store_true", help="the base is not quantized")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    choice = parser.parse_args()
    chosen = [work for work in WORKS if choice.filter in work[0]]
    if not chosen:
        parser.error(f"found {choice.filter!r}, wanted a part of {', '.join(work[0] for work in WORKS)}")
    versions = {"python": platform.python_version(), "dtype": choice.dtype}
    if choice.plain:
        versions["base"] = f"{choice.dtype}, not quantized"
    report = {"adapter": {"name": "none"}, "versions": versions, "results": [], "skipped": []}
    missing = {}
    for package in ("torch", "transformers", "peft", "bitsandbytes"):
        try:
            versions[package] = __import__(package).__version__
        except Exception as fault:  # bitsandbytes fails in its own ways where its library does not fit
            missing[package] = f"{package} cannot be imported: {str(fault).splitlines()[0]}"
    if "torch" not in missing:
        import torch

        if torch.cuda.is_available():
            report["adapter"] = {"name": torch.cuda.get_device_name(0)}
            torch.manual_seed(1)
        else:
            missing["torch"] = "torch finds no CUDA device"
    for work in chosen:
        try:
            for package in packages_of(work, choice.plain):
                if package in missing:
                    raise ImportError(missing[package])
            dtype = getattr(torch, choice.dtype)
            report["results"].append(measure(torch, work, dtype, choice.plain))
        except Exception as fault:  # one row's failure is that row's result
            text = str(fault).splitlines()[0] if str(fault) else ""
            reason = text if isinstance(fault, ImportError) else f"{type(fault).__name__}: {text}"
            report["skipped"].append({"name": work[0], "reason": reason})
    json.dump(report, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
