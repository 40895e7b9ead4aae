"""Trains the demo checkpoint: a small GPT-2 on the Rust documentation, with Hugging Face transformers.

Usage: train.py CORPUS_DIR OUT_DIR [--epochs N] [--dropout P] ...
CORPUS_DIR holds train.txt, valid.txt and heldout.txt as corpus.py writes them. OUT_DIR receives
checkpoint/ (float16 weights, tokenizer) and reference.json (the held-out loss of those very weights).

The kept weights are those with the lowest loss on valid.txt; heldout.txt is read once, at the end.
"""
import argparse
import json
import math
import pathlib
import time

import tokenizers
import torch
import torch.nn.functional as F
import transformers
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
PROMPT = "# Struct Vec\n\nA contiguous growable array type"


def parse():
    p = argparse.ArgumentParser()
    p.add_argument("corpus", type=pathlib.Path)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--vocab", type=int, default=2048)
    p.add_argument("--width", type=int, default=256)
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--positions", type=int, default=256)
    p.add_argument("--epochs", type=float, default=120)
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--dropout", type=float, default=0.15)
    p.add_argument("--weight-decay", type=float, default=0.1)
    p.add_argument("--seed", type=int, default=20)
    p.add_argument("--no-compile", action="store_true")
    return p.parse_args()


def chunks(text):
    """Cuts a text between pages, so that all cores share it.

    The blank lines are cut where the tokenizer's own rule cuts them: the tokens stay the same.
    """
    pages = text.split("\n\n\n")
    last = len(pages) - 1
    return [("\n" if i else "") + page + ("\n\n" if i < last else "") for i, page in enumerate(pages)]


def train_tokenizer(args, text):
    """Byte-level BPE as GPT-2 has it; the end-of-text token comes last, as in GPT-2."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(chunks(text), vocab_size=args.vocab - 1, min_frequency=2, show_progress=False)
    bpe.add_special_tokens([END_OF_TEXT])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        model_max_length=args.positions,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer, text):
    parts = tokenizer.backend_tokenizer.encode_batch_fast(chunks(text))
    return torch.tensor([i for part in parts for i in part.ids])


@torch.no_grad()
def window_loss(model, tokens, positions):
    """Mean next-token loss over consecutive windows that do not overlap, and the count predicted.

    Each window predicts its own tokens after the first; a last, shorter one counts from 2 tokens on.
    """
    model.eval()
    whole = len(tokens) // positions
    batches = list(tokens[: whole * positions].view(whole, positions).split(64))
    rest = tokens[whole * positions :]
    if len(rest) >= 2:
        batches.append(rest[None])
    nll, count = 0.0, 0
    for ids in batches:
        logits = model(input_ids=ids).logits[:, :-1].float()
        targets = ids[:, 1:]
        nll += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").double().item()
        count += targets.numel()
    model.train()
    return nll / count, count


def optimiser(model, args):
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": args.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    fused = next(model.parameters()).is_cuda
    return torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=fused)


def train(model, train_ids, valid_ids, args):
    """Runs all steps and leaves the weights with the lowest validation loss in `model`."""
    device = train_ids.device
    steps = max(1, round(args.epochs * len(train_ids) / (args.batch * args.positions)))
    warmup = max(1, steps // 50)
    every = max(1, steps // 25)
    optim = optimiser(model, args)
    generator = torch.Generator(device=device).manual_seed(args.seed)
    span = torch.arange(args.positions + 1, device=device)

    def loss_of(inputs, targets):
        logits = model(input_ids=inputs, use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    step_loss = loss_of if args.no_compile else torch.compile(loss_of)
    best, best_state, log = math.inf, None, []
    start = time.time()
    for step in range(steps):
        done = (step - warmup) / max(1, steps - warmup)
        scale = (step + 1) / warmup if step < warmup else 0.02 + 0.49 * (1 + math.cos(math.pi * done))
        for group in optim.param_groups:
            group["lr"] = args.lr * scale
        offsets = torch.randint(
            len(train_ids) - args.positions, (args.batch, 1), device=device, generator=generator
        )
        ids = train_ids[offsets + span]
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            loss = step_loss(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
        optim.zero_grad(set_to_none=True)
        if (step + 1) % every == 0 or step + 1 == steps:
            valid, _ = window_loss(model, valid_ids, args.positions)
            log.append({"step": step + 1, "train": round(loss.item(), 4), "valid": round(valid, 4)})
            print(args.out.name, log[-1], f"{time.time() - start:.0f}s", flush=True)
            if valid < best:
                best = valid
                best_state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    model.load_state_dict(best_state)
    return {"steps": steps, "best_valid_loss": best, "log": log, "seconds": round(time.time() - start)}


@torch.no_grad()
def greedy(model, ids, new_tokens):
    """Greedy continuation, whole prefix recomputed at each token."""
    model.eval()
    ids = ids[None]
    for _ in range(new_tokens):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0]


def main():
    args = parse()
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    texts = {n: (args.corpus / f"{n}.txt").read_text(encoding="utf-8") for n in ("train", "valid", "heldout")}
    tokenizer = train_tokenizer(args, texts["train"])
    ids = {name: encode(tokenizer, text).to(device) for name, text in texts.items()}
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=args.positions,
        n_embd=args.width,
        n_layer=args.layers,
        n_head=args.heads,
        resid_pdrop=args.dropout,
        embd_pdrop=args.dropout,
        attn_pdrop=args.dropout,
        bos_token_id=end,
        eos_token_id=end,
    )
    model = GPT2LMHeadModel(config).to(device)
    sizes = {name: len(tokens) for name, tokens in ids.items()}
    print(args.out.name, "parameters", model.num_parameters(), "tokens", sizes, flush=True)
    training = train(model, ids["train"], ids["valid"], args)

    checkpoint = args.out / "checkpoint"
    model.half().save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)

    # Judged as a reader finds it: the saved float16 weights, computed in float32 without tf32.
    torch.set_float32_matmul_precision("highest")
    saved = GPT2LMHeadModel.from_pretrained(checkpoint, dtype=torch.float32).to(device)
    loss, count = window_loss(saved, ids["heldout"], args.positions)
    prompt = encode(tokenizer, PROMPT)
    sample = greedy(saved, prompt.to(device), 64).tolist()
    bits = loss / math.log(2) * sizes["heldout"] / len(texts["heldout"].encode())
    reference = {
        "loss": loss,
        "perplexity": math.exp(loss),
        "tokens": count,
        "bits_per_byte": bits,
        "heldout_tokens": sizes["heldout"],
        "greedy": {
            "prompt": PROMPT,
            "prompt_ids": prompt.tolist(),
            "generated_ids": sample[len(prompt) :],
            "text": tokenizer.decode(sample),
        },
        "seed": args.seed,
        "settings": {k: v for k, v in vars(args).items() if k not in ("corpus", "out", "seed")},
        "train_tokens": sizes["train"],
        "training": training,
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }
    (args.out / "reference.json").write_text(json.dumps(reference, indent=1) + "\n", encoding="utf-8")
    print(args.out.name, f"held-out loss {loss:.4f}, perplexity {math.exp(loss):.2f}, {bits:.3f} bits/byte")
    print(tokenizer.decode(sample), flush=True)


if __name__ == "__main__":
    main()
