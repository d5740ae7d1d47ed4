"""Initial weights in which two attention circuits that copying needs are already in place.

A transformer learns to copy from its context by forming *induction heads* (Olsson et al. 2022,
"In-context Learning and Induction Heads"): a head in a lower layer writes to every position
which token came before it, and a head further up looks for positions whose previous token equals
the present one and repeats what stands there. They form late, after more tokens than a small
budget has. Here they are built into the random start, and training goes on from there like from
any other initial weights: nothing is frozen.
"""

import math

import torch
from transformers import LlamaForCausalLM

EMBEDDING_STD = 0.5
# With tied embeddings the first logits would be far too large for embeddings of this size.
FINAL_NORM = 0.04
CONSTANT_SHARE = 0.5  # of an embedding's norm, along one direction that all tokens share
PREVIOUS_SHARPNESS = 10.0  # attention logit at distance 1 above that at distance 0 and 2
MATCH_SHARPNESS = 16.0  # attention logit of a position whose previous token is the present one
COPY_GAIN = 2.0  # what a matched token adds to the residual, in embedding norms
NUM_PREVIOUS_FREQUENCIES = 12  # the fastest rotary frequencies tell neighbours apart
INDUCTION_LAYERS = (1, 3)


@torch.no_grad()
def add_copying_heads(model: LlamaForCausalLM, seed: int, rope_theta: float) -> None:
    """Overwrites embeddings and the first key-value group's first head of three layers.

    Layer 0 gets the previous-token head, the layers of `INDUCTION_LAYERS` an induction head each,
    on separate halves of what it writes. Needs heads of 64 and a hidden size of 256 or more.

    Raises:
        ValueError: the model is too small.
    """
    config = model.config
    hidden, head_dim = config.hidden_size, config.hidden_size // config.num_attention_heads
    half = head_dim // 2
    if head_dim != 64 or hidden < 256 or config.num_hidden_layers <= max(INDUCTION_LAYERS):
        raise ValueError("copying heads need heads of 64, hidden size >= 256 and >= 4 layers")
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(hidden, hidden, generator=generator)).Q
    constant = basis[:, 0]
    written = basis[:, 1:65]  # [D, 64]: directions kept free for "which token came before"
    identity = basis[:, 65:193].split(64, dim=1)  # two times [D, 64]: token identity
    match = [part[:, :half] for part in identity]

    embedding = model.model.embed_tokens.weight
    embedding.normal_(0.0, EMBEDDING_STD, generator=generator)
    kept = basis[:, 65:]
    embedding.copy_(embedding @ kept @ kept.T)
    norm = embedding.norm(dim=1).mean()
    embedding += CONSTANT_SHARE * norm * constant
    model.model.norm.weight.fill_(FINAL_NORM)
    scale = math.sqrt(hidden) / (norm * math.sqrt(1 + CONSTANT_SHARE**2))  # of the RMS norm
    constant_part = CONSTANT_SHARE * norm * scale

    frequency = 1.0 / rope_theta ** (torch.arange(half) / half)
    pulse = (torch.arange(half) < NUM_PREVIOUS_FREQUENCIES).float()
    gap = (pulse * (1 - torch.cos(frequency))).sum()
    size = torch.sqrt(PREVIOUS_SHARPNESS * math.sqrt(head_dim) / gap) / constant_part
    here = torch.cat([pulse, torch.zeros(half)])
    # Rotated by one position, so that query and key agree best at distance 1.
    before = torch.cat([pulse * torch.cos(frequency), pulse * torch.sin(frequency)])
    lowest = model.model.layers[0].self_attn
    lowest.q_proj.weight[:64] = size * torch.outer(here, constant)
    lowest.k_proj.weight[:64] = size * torch.outer(before, constant)
    lowest.v_proj.weight[:64] = torch.cat(match, dim=1).T
    lowest.o_proj.weight[:, :64] = written / scale

    # Content is matched in slow rotary frequencies only: they hardly depend on the distance.
    slow = torch.cat([torch.arange(half // 2, half), torch.arange(half // 2, half) + half])
    length = norm * scale * math.sqrt(half / hidden)
    sharp = math.sqrt(MATCH_SHARPNESS * math.sqrt(head_dim)) / length
    for index, layer in enumerate(INDUCTION_LAYERS):
        attention = model.model.layers[layer].self_attn
        attention.q_proj.weight[:64] = 0.0
        attention.k_proj.weight[:64] = 0.0
        attention.q_proj.weight[slow] = sharp * match[index].T
        attention.k_proj.weight[slow] = sharp * written[:, index * half : (index + 1) * half].T
        attention.v_proj.weight[:64] = identity[index].T
        attention.o_proj.weight[:, :64] = (
            COPY_GAIN * math.sqrt(hidden / 64) / scale * identity[index]
        )
