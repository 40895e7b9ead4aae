"""Times the layers of `blr bench layers` in PyTorch, and writes the same JSON.

    python3 benches/peers/layers.py --json peers.json --dtype bf16
    blr bench layers --device cuda --dtype bf16 --json ours.json
    blr bench report ours.json peers.json

Needs PyTorch (with Triton, which comes with it on Linux) and a CUDA device; on a machine without one it
times on the CPU, which is of use to try the script out. The layers come from layers.json beside this file,
which `blr bench layers --list --json FILE` writes.

Protocol, the same as that of `blr bench layers`: the calls of a row, each on weights, input and output of
its own (160 MiB and more together, so that no cache holds them), are captured in one CUDA graph. One sample
is the time of 1 + k replays with one synchronisation, less the median time of one replay with one, over the
k * calls calls between them. `median_us` is the median of ten samples or more. The last output is NaN
before the first replay, and its error (`rel_err`) is taken after the last one.

`flush_us` is triton.testing.do_bench: the median over single calls with the L2 cleared before each, the
better of a plain launch and the replay of a graph of one call.

`--reference DIR` adds the Triton functions of github.com/pabillam/mem-efficient-blr (arXiv:2512.20861), a
checkout of which DIR is. They take bf16 only.
"""

import argparse
import importlib
import json
import math
import os
import pathlib
import statistics
import sys
import time
import types

import torch
import torch.nn.functional as F

METHODS = ["dense", "low-rank", "monarch", "blast"]
KERNELS = ["eager", "compile", "reference"]
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

# The constants of src/device_timing.rs and src/commands/bench/operands.rs.
ROTATED_BYTES = 160 << 20
MIN_COPIES, MAX_COPIES = 4, 192
WARM_UP_S = 0.05
SAMPLE_S = 0.004
MAX_REPLAYS = 64
MIN_SAMPLES = 10
HOST_CALLS, HOST_SAMPLES = 8, 9

CHECKED_TOKENS = 3


# The structures, on an input [tokens, in] and factors in the layouts of the crate `burn-blr`.


def dense(x, weight):
    return F.linear(x, weight)


def low_rank(x, u, v):
    return F.linear(F.linear(x, v), u)


def split(x, blocks):
    """[tokens, features] to [blocks, tokens, features / blocks]."""
    return x.view(x.shape[0], blocks, -1).transpose(0, 1)


def join(y):
    """The inverse of split."""
    return y.transpose(0, 1).reshape(y.shape[1], -1)


def monarch(x, right, left):
    blocks, rank, _ = right.shape
    y = torch.bmm(split(x, blocks), right.transpose(1, 2))  # [b, tokens, r]
    parts = y.view(blocks, x.shape[0], blocks, rank // blocks).transpose(0, 2)
    return join(torch.bmm(parts.reshape(blocks, x.shape[0], rank), left.transpose(1, 2)))


def blast_elementwise(x, u, s, v):
    """The mix entry by entry, as in the reference's torch_blast_baseline."""
    y = torch.bmm(split(x, u.shape[0]), v.transpose(1, 2))  # [b (in), tokens, r]
    z = (y.unsqueeze(0) * s.unsqueeze(2)).sum(1)  # [b (out), tokens, r]
    return join(torch.bmm(z, u.transpose(1, 2)))


def blast_bmm(x, u, s, v):
    """The mix as one batched product over the rank, as in the reference's torch_blast_bmm."""
    y = torch.bmm(split(x, u.shape[0]), v.transpose(1, 2))
    z = torch.bmm(y.permute(2, 1, 0).contiguous(), s.permute(2, 1, 0))  # [r, tokens, b (out)]
    return join(torch.bmm(z.permute(2, 1, 0).contiguous(), u.transpose(1, 2)))


class Row:
    """One layer at one token count by one method: shapes, operands and the result to expect."""

    def __init__(self, layer, method, tokens, dtype):
        self.layer, self.method, self.tokens, self.dtype = layer, method, tokens, dtype
        self.in_features, self.out_features = layer["in"], layer["out"]
        self.blocks, self.rank = {
            "dense": (1, min(self.in_features, self.out_features)),
            "low-rank": (1, layer["low_rank_rank"]),
            "monarch": (layer["monarch_blocks"], layer["monarch_rank"]),
            "blast": (layer["blast_blocks"], layer["blast_rank"]),
        }[method]

    def shapes(self):
        """Shapes of the factors, each with the number of terms in a sum over it."""
        b, r, i, o = self.blocks, self.rank, self.in_features, self.out_features
        return {
            "dense": {"weight": ((o, i), i)},
            "low-rank": {"u": ((o, r), r), "v": ((r, i), i)},
            "monarch": {"right": ((b, r, i // b), i // b), "left": ((b, o // b, r), r)},
            "blast": {"u": ((b, o // b, r), r), "s": ((b, b, r), b), "v": ((b, r, i // b), i // b)},
        }[self.method]

    def parameters(self):
        return sum(math.prod(shape) for shape, _ in self.shapes().values())

    def flops(self):
        return 2 * self.tokens * self.parameters()

    def bytes(self):
        """Compulsory traffic: weights and input read once, output written once."""
        activations = self.tokens * (self.in_features + self.out_features)
        return (self.parameters() + activations) * self.dtype.itemsize

    def copies(self):
        return min(max(-(-ROTATED_BYTES // self.bytes()), MIN_COPIES), MAX_COPIES)

    def operands(self, device):
        """An input and the factors, random, outputs of about unit size."""
        def normal(shape, terms):
            return (torch.randn(shape, device=device) / math.sqrt(terms)).to(self.dtype)

        factors = {name: normal(shape, terms) for name, (shape, terms) in self.shapes().items()}
        return normal((self.tokens, self.in_features), 1), factors

    def expected(self, x, factors, order):
        """A few rows of the output in f64, and which."""
        last = self.tokens - 1
        checks = range(min(CHECKED_TOKENS, self.tokens))
        rows = [check * last // max(CHECKED_TOKENS - 1, 1) for check in checks]
        function = {
            "dense": dense,
            "low-rank": low_rank,
            "monarch": monarch,
            "blast": blast_elementwise,
        }[self.method]
        y = function(x[rows].double(), **{name: f.double() for name, f in factors.items()})
        if order == "interleaved":
            y = y.view(len(rows), self.blocks, -1).transpose(1, 2).reshape(len(rows), -1)
        return rows, y


class Variant:
    """One way to compute a method: `function(*prepare(x, factors))`."""

    def __init__(self, method, kernel, function, prepare=None, order="contiguous", slow=False):
        self.method, self.kernel, self.function = method, kernel, function
        self.prepare = prepare or (lambda x, factors: (x, *factors.values()))
        self.order, self.slow = order, slow


def variants(arguments):
    plain = [
        ("dense", "", dense),
        ("low-rank", "", low_rank),
        ("monarch", "", monarch),
        ("blast", ".elementwise", blast_elementwise),
        ("blast", ".bmm", blast_bmm),
    ]
    found = []
    for method, suffix, function in plain:
        if "eager" in arguments.kernels:
            found.append(Variant(method, "torch.eager" + suffix, function))
        # Dense is one call of cuBLAS, which compiling leaves alone.
        if "compile" in arguments.kernels and method != "dense":
            mode = "max-autotune-no-cudagraphs" if arguments.max_autotune else None
            name = "torch.compile.max-autotune" if arguments.max_autotune else "torch.compile"
            compiled = torch.compile(function, dynamic=False, mode=mode)
            found.append(Variant(method, name + suffix, compiled))
    if arguments.reference is not None and "reference" in arguments.kernels:
        found += reference_variants(arguments.reference)
    if arguments.fast:
        found = [variant for variant in found if not variant.slow]
    return [variant for variant in found if variant.method in arguments.methods]


def reference_variants(folder):
    """The functions of the paper's repository, in the layouts that its layer.py gives them."""
    import triton

    # Its kernels need one function of its `utils`, which imports what they do not.
    utils = types.ModuleType("utils")
    utils.next_power_of_2 = triton.next_power_of_2
    sys.modules["utils"] = utils
    sys.path.insert(0, str(folder))
    blast = importlib.import_module("triton_funcs.blast_kernels")
    monarch_ = importlib.import_module("triton_funcs.monarch_kernels")
    low_rank_ = importlib.import_module("triton_funcs.low_rank_kernels")

    def turned(factor):
        return factor.transpose(-1, -2).contiguous()

    def batch(x):
        return x.unsqueeze(0)

    def grouped(x, f):
        return batch(x), turned(f["u"]), turned(f["v"]), f["s"].transpose(0, 1).contiguous()

    def batched(x, f):
        return batch(x), f["u"], turned(f["v"]), f["s"].permute(2, 0, 1).contiguous()

    # Its kernels want parts of the rank contiguous, as the stored layout here has them.
    def right(x, f):
        return batch(x), turned(f["right"]), f["left"]

    def both(x, f):
        return batch(x), turned(f["right"]), turned(f["left"])

    def thin(x, f):
        return batch(x), turned(f["v"]), turned(f["u"])

    table = [
        ("blast", blast, "triton_blast_bmm_fp16", batched, "contiguous", False),
        ("blast", blast, "triton_blast_partial_grouped_fp16", grouped, "contiguous", True),
        ("blast", blast, "triton_blast_partial_grouped_persistent_fp16", grouped, "contiguous", True),
        ("monarch", monarch_, "triton_monarch_right_fp16", right, "interleaved", False),
        ("monarch", monarch_, "triton_monarch_right_ideal_fp16", right, "contiguous", False),
        ("monarch", monarch_, "triton_monarch_right_left_fp16", both, "interleaved", True),
        ("low-rank", low_rank_, "triton_low_rank_fp16", thin, "contiguous", True),
    ]
    return [
        Variant(method, "reference." + name, getattr(module, name), prepare, order, slow)
        for method, module, name, prepare, order, slow in table
    ]


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(device, call, times):
    started = time.perf_counter()
    for _ in range(times):
        call()
    synchronise(device)
    return time.perf_counter() - started


def captured(calls):
    """A graph of the calls, and what it writes."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            calls[0]()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = [call() for call in calls]
    return graph, outputs


def device_us(device, calls, reps):
    """Samples of the device time of one call, how they were taken, and the last output."""
    count = len(calls)
    if device.type != "cuda":
        calls[0]()
        samples = []
        for rep in range(reps):
            started = time.perf_counter()
            output = calls[rep % count]()
            samples.append((time.perf_counter() - started) * 1e6)
        return samples, "wall", output, (reps - 1) % count
    graph, outputs = captured(calls)
    outputs[-1].fill_(float("nan"))
    started = time.perf_counter()
    while time.perf_counter() - started < WARM_UP_S:
        seconds(device, graph.replay, 1)
    once = statistics.median(seconds(device, graph.replay, 1) for _ in range(MIN_SAMPLES))
    replays = min(max(math.ceil(SAMPLE_S / once), 1), MAX_REPLAYS)
    samples = [
        (seconds(device, graph.replay, 1 + replays) - once) * 1e6 / (replays * count)
        for _ in range(max(-(-reps // (replays * count)), MIN_SAMPLES))
    ]
    return samples, "graph", outputs[-1], count - 1


def host_us(device, calls):
    """What a call that is not captured costs the host."""
    samples = []
    for sample in range(HOST_SAMPLES):
        started = time.perf_counter()
        outputs = [calls[(sample * HOST_CALLS + call) % len(calls)]() for call in range(HOST_CALLS)]
        samples.append((time.perf_counter() - started) * 1e6 / HOST_CALLS)
        synchronise(device)
        del outputs
    return statistics.median(samples)


def flush_us(call):
    """Median with the L2 cleared before every call: the better of a launch and a replay."""
    from triton.testing import do_bench

    def median(function):
        return 1e3 * do_bench(function, warmup=25, rep=100, return_mode="median")

    plain = median(call)
    try:
        graph, _output = captured([call])
        return min(plain, median(graph.replay))
    except RuntimeError:
        return plain


def peak_bytes(call, operands_bytes):
    """Operands, output and the most that is live between them."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    output = call()
    torch.cuda.synchronize()
    del output
    return torch.cuda.max_memory_allocated() - before + operands_bytes


def measure(row, variant, device, arguments):
    """What is measured of one variant; raises whatever goes wrong."""
    torch.manual_seed(arguments.seed)
    operands = [row.operands(device) for _ in range(row.copies())]
    prepared = [variant.prepare(*pair) for pair in operands]
    function = variant.function
    calls = [lambda args=args: function(*args) for args in prepared]
    for call in calls[:3]:
        call()  # compiles and tunes
    synchronise(device)
    samples, timing, output, index = device_us(device, calls, arguments.reps)
    x, factors = operands[index]
    rows, expected = row.expected(x, factors, variant.order)
    found = output.view(row.tokens, row.out_features)[rows].double()
    error = ((found - expected).norm() / expected.norm()).item()
    del output
    median = statistics.median(samples)
    result = {
        "timing": timing,
        "median_us": median,
        "min_us": min(samples),
        "max_us": max(samples),
        "tflops": row.flops() / median / 1e6,
        "gbps": row.bytes() / median / 1e3,
        "rel_err": error if math.isfinite(error) else None,
        "host_us": host_us(device, calls),
    }
    if not math.isfinite(error):
        result["error"] = "the output holds numbers that are not finite"
    if device.type == "cuda":
        operand_bytes = (row.parameters() + row.tokens * row.in_features) * row.dtype.itemsize
        result["peak_bytes"] = peak_bytes(calls[0], operand_bytes)
        if arguments.flush:
            result["flush_us"] = flush_us(calls[0])
    return result


def record(row, variant, device, arguments):
    """A row of the report, with the error where there is one."""
    keys = {
        "layer": row.layer["layer"],
        "method": row.method,
        "pass": "forward",
        "tokens": row.tokens,
        "in": row.in_features,
        "out": row.out_features,
        "blocks": row.blocks,
        "rank": row.rank,
        "dtype": arguments.dtype,
        "kernel": variant.kernel,
    }
    values = dict.fromkeys(
        ["timing", "median_us", "min_us", "max_us", "tflops", "gbps", "limit_us", "share_of_limit"]
        + ["rel_err", "host_us", "peak_bytes", "flush_us", "error"]
    )
    try:
        values.update(measure(row, variant, device, arguments))
    except Exception as error:  # one variant that fails must not cost the others
        values["error"] = f"{type(error).__name__}: {error}"[:300]
    finally:
        if variant.kernel.startswith("torch.compile"):
            torch._dynamo.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return keys | values


def write(path, report):
    """Beside its place and renamed, so that a run that is cut off leaves what it has."""
    if path is not None:
        beside = path.with_name(path.name + ".part")
        beside.write_text(json.dumps(report, indent=1) + "\n")
        os.replace(beside, path)


def names(allowed):
    def parse(text):
        chosen = text.split(",")
        for name in chosen:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name}: expected {', '.join(allowed)}")
        return chosen

    return parse


def token_counts(text):
    counts = text.split(",")
    for count in counts:
        if count != "paper" and not (count.isdecimal() and int(count) > 0):
            raise argparse.ArgumentTypeError(f"{count}: expected counts of at least 1, or paper")
    return counts


def parse_arguments():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--json", type=pathlib.Path, metavar="FILE", help="writes the rows to FILE, after each of them")
    add("--layer", default="", metavar="TEXTS", help="only layers whose name contains one of these")
    add("--tokens", type=token_counts, default=["1", "16", "paper"], metavar="COUNTS", help="[default: 1,16,paper]")
    add("--methods", type=names(METHODS), default=METHODS, metavar="NAMES", help=", ".join(METHODS))
    add("--kernels", type=names(KERNELS), default=KERNELS, metavar="NAMES", help=", ".join(KERNELS))
    add("--dtype", choices=DTYPES, default="bf16")
    add("--reps", type=int, default=50, metavar="COUNT", help="fewest timed calls of each row [default: 50]")
    add("--seed", type=int, default=0)
    add("--reference", type=pathlib.Path, metavar="DIR", help="a checkout of mem-efficient-blr")
    add("--fast", action="store_true", help="leaves out functions of the reference that tune for minutes")
    add("--max-autotune", action="store_true", help="torch.compile with mode max-autotune")
    add("--no-flush", dest="flush", action="store_false", help="leaves out flush_us")
    add("--budget", type=float, metavar="SECONDS", help="begins no row after this time")
    add("--catalogue", type=pathlib.Path, default=here / "layers.json", metavar="FILE", help="the layers")
    arguments = parser.parse_args()
    if arguments.reps < 1:
        parser.error("--reps: expected at least 1")
    if arguments.reference is not None and not (arguments.reference / "triton_funcs").is_dir():
        parser.error(f"--reference {arguments.reference}: no triton_funcs in it")
    return parser, arguments


def main():
    parser, arguments = parse_arguments()
    try:
        catalogue = json.loads(arguments.catalogue.read_text())["layers"]
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"--catalogue {arguments.catalogue}: {error!r}")
    parts = arguments.layer.split(",")
    for part in parts:
        if not any(part in layer["layer"] for layer in catalogue):
            parser.error(f"--layer {part}: expected part of {', '.join(l['layer'] for l in catalogue)}")
    layers = [layer for layer in catalogue if any(part in layer["layer"] for part in parts)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = {
        "device": torch.cuda.get_device_name(0) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "rows": [],
    }
    started = time.perf_counter()
    chosen = variants(arguments)
    for layer in layers:
        counts = [layer["tokens"] if count == "paper" else int(count) for count in arguments.tokens]
        for tokens in dict.fromkeys(counts):
            for variant in chosen:
                if arguments.budget is not None and time.perf_counter() - started > arguments.budget:
                    print(f"stopped after {arguments.budget:.0f} s", flush=True)
                    return
                row = Row(layer, variant.method, tokens, DTYPES[arguments.dtype])
                began = time.perf_counter()
                result = record(row, variant, device, arguments)
                report["rows"].append(result)
                write(arguments.json, report)
                took = time.perf_counter() - began
                where = f"{layer['layer']:28} {tokens:6} tokens  {row.method:9} {variant.kernel:48}"
                if result["median_us"] is None:
                    print(f"{where} failed after {took:.1f} s: {result['error']}", flush=True)
                    continue
                flushed = f"{result['flush_us']:9.1f}" if result["flush_us"] is not None else " " * 9
                print(f"{where} {result['median_us']:9.1f} us {flushed}  in {took:4.1f} s", flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
