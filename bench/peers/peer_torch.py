"""PyTorch on the rows of a `nibble bench --json FILE`: kernels, and steps of a GPT; the same names and shapes, f32 without TF32, eager.

    python3 bench/peers/peer_torch.py --rows nibble.json > torch.json
    nibble bench --compare torch.json nibble.json

As nibble does it, inputs of kernels that are bound by memory rotate over 256 MB, and the median of five stretches counts.
"""

import argparse
import json
import platform
import statistics
import sys
import time

RING_BYTES = 256 << 20
MOST_COPIES = 64
STRETCH_MILLISECONDS = 10
STRETCHES = 5

DEFAULT_ROWS = [
    ("matmul nn", "M=4096 N=4096 K=4096"),
    ("matmul nt", "M=4096 N=4096 K=4096"),
    ("matmul tn", "M=4096 N=4096 K=4096"),
    ("matmul nt", "M=2048 N=16 K=4096"),
    ("matmul nt", "M=2048 N=4096 K=16"),
    ("attention forward", "batch=4 length=1024 heads=32 kvHeads=8 D=64"),
    ("attention backward", "batch=4 length=1024 heads=32 kvHeads=8 D=64"),
    ("softmax forward", "rows=4096 columns=4096"),
    ("rms norm forward", "rows=4096 columns=4096"),
    ("layer norm forward", "rows=4096 columns=4096"),
    ("cross entropy forward", "rows=2048 columns=32000"),
    ("full gpt-d512 8x256", "batch=8 length=256"),
    ("full gpt-d64 2x32", "batch=2 length=32"),
]


def lengths(shape):
    """ "M=4096 N=16" as {"M": 4096, "N": 16}. """
    return {name: int(value) for name, value in (part.split("=") for part in shape.split())}


class Ops:
    """What runs for each of nibble's names. Each method makes inputs, and gives a function and the bytes that it moves."""

    def __init__(self, torch, device):
        self.torch = torch
        self.device = device

    def rand(self, *shape, grad=False):
        x = self.torch.randn(*shape, device=self.device)
        return x.requires_grad_(grad)

    def ids(self, count, below):
        return self.torch.randint(0, below, (count,), device=self.device)

    def product(self, layout, s):
        m, n, k, batch = s["M"], s["N"], s["K"], s.get("batch")
        lead = [batch] if batch else []
        a = self.rand(*lead, *([k, m] if layout[0] == "t" else [m, k]))
        b = self.rand(*lead, *([n, k] if layout[1] == "t" else [k, n]))
        left = a.transpose(-1, -2) if layout[0] == "t" else a
        right = b.transpose(-1, -2) if layout[1] == "t" else b
        return lambda: left @ right

    def backward(self, out, inputs):
        g = self.torch.randn_like(out)
        return lambda: self.torch.autograd.grad(out, inputs, g, retain_graph=True)

    def row_op(self, kind, s):
        f = self.torch.nn.functional
        rows, columns = s["rows"], s["columns"]
        grad = " backward" in kind
        x = self.rand(rows, columns, grad=grad)
        # Of a frozen gain there is no gradient.
        gain, bias = (self.rand(columns, grad=kind.endswith("backward")) for _ in range(2))
        op, inputs = {
            "softmax": (lambda: f.softmax(x, -1), [x]),
            "rms norm": (lambda: f.rms_norm(x, (columns,), gain, 1e-5), [x, gain]),
            "layer norm": (lambda: f.layer_norm(x, (columns,), gain, bias, 1e-5), [x, gain, bias]),
        }[self.row_family(kind)]
        inputs = [own for own in inputs if own.requires_grad]
        return self.backward(op(), inputs) if grad else op

    @staticmethod
    def row_family(name):
        """ "rms norm" of "rms norm backward of x". """
        return name.split(" backward")[0].removesuffix(" forward")

    def cross_entropy(self, kind, s):
        grad = kind.endswith("backward")
        x = self.rand(s["rows"], s["columns"], grad=grad)
        targets = self.ids(s["rows"], s["columns"])
        op = lambda: self.torch.nn.functional.cross_entropy(x, targets)
        return self.backward(op(), [x]) if grad else op

    def attention(self, kind, s):
        grad = kind.endswith("backward")
        shape = lambda heads: (s["batch"], heads, s["length"], s["D"])
        q = self.rand(*shape(s["heads"]), grad=grad)
        k, v = (self.rand(*shape(s["kvHeads"]), grad=grad) for _ in range(2))
        sdpa = self.torch.nn.functional.scaled_dot_product_attention
        same = s["heads"] == s["kvHeads"]
        times = s["heads"] // s["kvHeads"]
        # In f32 only the kernel without grouped queries is fused: keys and values are repeated, as transformers does.
        wide = lambda t: t if same else t.repeat_interleave(times, 1)
        op = lambda: sdpa(q, wide(k), wide(v), is_causal=True)
        return self.backward(op(), [q, k, v]) if grad else op

    def silu_gate(self, kind, s):
        grad = kind.endswith("backward")
        gate, up = (self.rand(s["rows"], s["columns"], grad=grad) for _ in range(2))
        op = lambda: self.torch.nn.functional.silu(gate) * up
        return self.backward(op(), [gate, up]) if grad else op

    def find(self, name, s):
        """The function of a row, or None for what torch has no op for."""
        if name.startswith("matmul ") and name.split()[1] in ("nn", "nt", "tn"):
            return self.product(name.split()[1], s)
        if name == "gemv":
            return self.product("nt", s)
        if self.row_family(name) in ("softmax", "rms norm", "layer norm"):
            return self.row_op(name, s)
        if name.startswith("cross entropy"):
            return self.cross_entropy(name, s)
        if name in ("attention forward", "attention backward"):
            return self.attention(name, s)
        if name.startswith("silu gate"):
            return self.silu_gate(name, s)
        return self.simple(name, s)

    def simple(self, name, s):
        torch = self.torch
        if name in ("copy", "add", "sum all", "sum columns", "sum rows"):
            x = self.rand(s["rows"], s["columns"])
            y = self.rand(s["rows"], s["columns"]) if name == "add" else torch.empty_like(x)
            return {
                "copy": lambda: y.copy_(x),
                "add": lambda: x + y,
                "sum all": lambda: x.sum(),
                "sum columns": lambda: x.sum(0),
                "sum rows": lambda: x.sum(1),
            }[name]
        if name == "embedding forward":
            table, ids = self.rand(s["rows"], s["columns"]), self.ids(s["ids"], s["rows"])
            return lambda: table[ids]
        return None


GPTS = {
    "full gpt-d512 8x256": {"layers": 8, "dim": 512, "heads": 8, "batch": 8, "length": 256, "vocab": 8192},
    "full gpt-d64 2x32": {"layers": 2, "dim": 64, "heads": 4, "batch": 2, "length": 32, "vocab": 256},
}


def gpt_step(torch, s):
    """A training step of a GPT, with AdamW and clipping."""
    nn, f = torch.nn, torch.nn.functional
    dim, heads, batch, length = s["dim"], s["heads"], s["batch"], s["length"]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
            self.fc, self.proj = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

        def forward(self, x):
            split = lambda t: t.view(batch, length, heads, dim // heads).transpose(1, 2)
            q, k, v = (split(t) for t in self.qkv(self.ln1(x)).chunk(3, -1))
            mixed = f.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, dim))
            return x + self.proj(f.gelu(self.fc(self.ln2(x)), approximate="tanh"))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(s["vocab"], dim), nn.Embedding(length, dim)
            self.blocks = nn.Sequential(*(Block() for _ in range(s["layers"])))
            self.norm = nn.LayerNorm(dim)

        def forward(self, ids):
            x = self.wte(ids) + self.wpe.weight
            return self.norm(self.blocks(x)) @ self.wte.weight.T

    model = Gpt().to("cuda")
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(0, s["vocab"], (batch, length + 1), device="cuda")

    def step():
        logits = model(ids[:, :-1])
        loss = f.cross_entropy(logits.reshape(-1, s["vocab"]), ids[:, 1:].reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def time_steps(torch, row):
    """A training step by the host's clock, until the GPU is done."""
    shape = GPTS[row["name"]]
    torch.cuda.reset_peak_memory_stats()
    step = gpt_step(torch, shape)

    def timed(count):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            step()
        torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - start) / count

    cold = timed(1)
    timed(5)
    count = max(1, round(400 / timed(10)))
    times = [timed(count) for _ in range(STRETCHES)]
    median = statistics.median(times)
    return {
        "name": row["name"],
        "shape": row["shape"],
        "ms": median,
        "minMs": min(times),
        "maxMs": max(times),
        "tokensPerSecond": 1000 * shape["batch"] * shape["length"] / median,
        "coldMs": cold,
        "peakBytes": torch.cuda.max_memory_allocated(),
    }


def time_op(torch, make):
    """Milliseconds of a run: least, median and most of some stretches, on the GPU's clock."""
    before = torch.cuda.memory_allocated()
    ops = [make()]
    ops[0]()
    torch.cuda.synchronize()
    held = max(1, torch.cuda.memory_allocated() - before)
    copies = min(max(-(-RING_BYTES // held), 1), MOST_COPIES)
    ops += [make() for _ in range(copies - 1)]

    def stretch(count):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for i in range(count):
            ops[i % copies]()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end)

    # A GPU idles at a fraction of its clock.
    warm = torch.randn(4096, 4096, device="cuda")
    for _ in range(30):
        warm @ warm
    stretch(copies)
    one = stretch(copies) / copies
    count = max(copies, min(5000, round(STRETCH_MILLISECONDS / max(one, 1e-4))))
    for _ in range(10):
        warm @ warm
    times = [stretch(count) / count for _ in range(STRETCHES)]
    return min(times), statistics.median(times), max(times)


def rate(row, nibble):
    """The rates by the work that nibble counts for the same row."""
    found = {}
    for key in ("gflops", "gbps"):
        if nibble.get(key) and nibble.get("ms"):
            found[key] = nibble[key] * nibble["ms"] / row["ms"]
    return found


def measure(torch, rows):
    ops = Ops(torch, "cuda")
    results, skipped = [], []
    for row in rows:
        name, shape = row["name"], row["shape"]
        if name in GPTS and "tiny" not in shape:
            results.append(time_steps(torch, row))
            continue
        try:
            sizes = lengths(shape)
        except ValueError:
            continue
        try:
            if ops.find(name, sizes) is None:
                continue
            least, median, most = time_op(torch, lambda: ops.find(name, sizes))
            found = {"name": name, "shape": shape, "ms": median, "minMs": least, "maxMs": most}
            results.append({**found, **rate(found, row)})
        except (RuntimeError, KeyError) as fault:
            skipped.append({"name": f"{name} {shape}", "reason": str(fault).split("\n")[0]})
        torch.cuda.empty_cache()
    return results, skipped


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", help="what nibble bench --json FILE wrote; without it, a few rows")
    choice = parser.parse_args()
    rows = [{"name": name, "shape": shape} for name, shape in DEFAULT_ROWS]
    if choice.rows:
        try:
            with open(choice.rows, encoding="utf-8") as file:
                rows = json.load(file)["results"]
        except (OSError, ValueError, KeyError, TypeError) as fault:
            parser.error(f"found {choice.rows}, wanted a file that nibble bench --json FILE wrote: {fault}")
    report = {"adapter": {"name": "none"}, "versions": {"python": platform.python_version()}}
    try:
        import torch
    except ImportError as fault:
        reason = f"torch cannot be imported: {fault}"
        json.dump({**report, "results": [], "skipped": [{"name": "torch", "reason": reason}]}, sys.stdout, indent=2)
        return
    report["versions"].update(torch=torch.__version__, cuda=str(torch.version.cuda))
    if not torch.cuda.is_available():
        reason = "torch finds no CUDA device"
        json.dump({**report, "results": [], "skipped": [{"name": "torch", "reason": reason}]}, sys.stdout, indent=2)
        return
    report["adapter"] = {"name": torch.cuda.get_device_name(0)}
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    results, skipped = measure(torch, rows)
    json.dump({**report, "results": results, "skipped": skipped}, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
