"""transformers: a model with random weights, made here, generates the same tokens before and after.

Nothing is downloaded. `check` also compares the sum of every parameter.
"""

import sys

import answering
import torch
import transformers

DEVICE = torch.device(answering.OPTIONS["device"])
ON_GPU = DEVICE.type == "cuda"
TOKENS = 64
LARGE = {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 8}
"""About 1 GiB in bfloat16."""
SMALL = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}


def make():
    shape = LARGE if answering.OPTIONS["bytes"] >= 1 << 30 else SMALL
    config = transformers.LlamaConfig(
        vocab_size=32000,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
        **shape,
    )
    torch.manual_seed(20)
    with torch.device(DEVICE):
        model = transformers.LlamaForCausalLM(config)
    return model.to(torch.bfloat16).eval()


def sums(model):
    """Of each parameter's bits, so that no byte can differ unseen by rounding."""
    return [
        int(value.data.view(torch.int16).sum(dtype=torch.int64)) for value in model.parameters()
    ]


def main():
    model = make()
    prompt = torch.randint(3, 32000, (1, 32), generator=torch.Generator().manual_seed(7)).to(DEVICE)

    def generate():
        with torch.no_grad():
            made = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=TOKENS,
                min_new_tokens=TOKENS,
                do_sample=False,
            )
        return made[0].tolist()

    before, weights = generate(), sums(model)
    if ON_GPU:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()

    def check():
        wrong = []
        after = generate()
        if after != before:
            first = next(
                n for n, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]
            )
            wrong.append(f"token {first}: {after[first]} instead of {before[first]}")
        if sums(model) != weights:
            wrong.append("the sum of a parameter")
        return {"verified": not wrong, "wrong": wrong, "tokens": len(after)}

    first = check()
    if not first["verified"]:
        sys.exit(f"wrong before anything was captured: {first['wrong']}")
    size = sum(value.numel() * value.element_size() for value in model.parameters())
    answering.serve(
        {
            "device_bytes": torch.cuda.memory_reserved() if ON_GPU else size,
            "gpus": 1,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "distinct_tokens": len(set(before)),
        },
        {"check": check},
    )


main()
