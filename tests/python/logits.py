"""Logits and greedy answers of folders that nibble wrote, as transformers and PEFT compute them: python logits.py jobs.json

jobs.json: {"ids": [[...]], "prompt": n, "answer": n, "jobs": [{"name", "model", "adapter" or null, "out"}]}; logits go to `out` as
little-endian f32, behind them the ids that follow on the first row's first `prompt` ids, as f32 too. A job that fails writes the reason to `out`.error instead. Versions are printed.
"""

import json
import sys
import traceback

import torch
import peft
import transformers


def main(path):
    with open(path) as file:
        given = json.load(file)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    ids = torch.tensor(given["ids"])
    for job in given["jobs"]:
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                job["model"], dtype=torch.float32, attn_implementation="eager"
            )
            if job["adapter"]:
                model = peft.PeftModel.from_pretrained(model, job["adapter"])
            model.eval()
            for module in model.modules():
                # On processors with AVX512-BF16 bitsandbytes would multiply in bfloat16, whatever its compute type says.
                if hasattr(module, "support_avx512bf16_for_cpu"):
                    module.support_avx512bf16_for_cpu = False
            with torch.no_grad():
                logits = model(ids).logits
                prompt = ids[:1, : given["prompt"]]
                answer = model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=given["answer"],
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=0,
                )[0, given["prompt"] :]
            with open(job["out"], "wb") as file:
                file.write(logits.float().contiguous().numpy().astype("<f4").tobytes())
                file.write(answer.numpy().astype("<f4").tobytes())
        except Exception:
            with open(job["out"] + ".error", "w") as file:
                file.write(traceback.format_exc())
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, PEFT {peft.__version__}")


main(sys.argv[1])
