"""Compute a prompt once for all its outputs: the same log-probabilities from P + G R tokens instead of G (P + R).

OpenRLHF's `Actor.forward` computes old log-probabilities, the reference model and the update, each from G rows of
prompt and output. `SharedPromptActor` lays the micro batch out in one row without padding,

    prompt[:-1]  prompt[-1] output_1[:-1]  prompt[-1] output_2[:-1] …  next prompt[:-1] …

where each output goes on from its prompt's position, sees its prompt and itself, and needs logits at its own tokens
only. The idea is known as a shared prefix (Prefix Grouper, arXiv 2506.05433); here groups are recognised by their
tokens, so that any micro batch is right, and one that holds a whole group is cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from openrlhf.models import Actor
from openrlhf.models.utils import compute_entropy, log_probs_from_logits
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "sdpa_shared_prompt"


@dataclass
class Rows:
    """Where the tokens of a micro batch of B samples with G different prompts stand in its one row of N tokens.

    `tokens`, `positions`: (N,); `group`, `output`: (N,), which prompt a token belongs to, and which sample's output
    (-1 = the prompt itself). `kept`: (K,), places in the row that predict an output's token; `labels`: (K,), these
    tokens; `sample`, `column`: (K,), where OpenRLHF has them in its (B, T - 1) log-probabilities.
    `prompts`: (G, P), `outputs`: (B, R), places of each prompt's and each output's tokens, padded with 0 at the right;
    `context`: (B, P + R), the places an output may see; `visible`: (B, 1, R, P + R), which of them each of its tokens
    does see; `back`: (N,), where the row's tokens stand in `prompts` and `outputs` laid end to end.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    group: torch.Tensor
    output: torch.Tensor
    kept: torch.Tensor
    labels: torch.Tensor
    sample: torch.Tensor
    column: torch.Tensor
    prompts: torch.Tensor
    outputs: torch.Tensor
    context: torch.Tensor
    visible: torch.Tensor
    back: torch.Tensor

    def to(self, device) -> Rows:
        return Rows(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def prompt_and_output(sequence: torch.Tensor, attention_mask: torch.Tensor, action_mask: torch.Tensor):
    """Tokens before a sample's first action, tokens from there to its last action, and the columns of the latter.

    `sequence`, `attention_mask`: (T,), padded on either side or both; `action_mask`: (A,), for the last A tokens. A
    sample without an action counts its last token as one, so that the model has something to compute.
    """
    columns = attention_mask.nonzero().flatten().tolist()
    tokens = sequence.tolist()
    actions = (action_mask.nonzero().flatten() + len(tokens) - len(action_mask)).tolist() or columns[-1:]
    prompt = tuple(tokens[c] for c in columns if c < actions[0]) or (tokens[columns[0]],)
    columns = [c for c in columns[len(prompt) :] if c <= actions[-1]]
    return prompt, [tokens[c] for c in columns], columns


def by_prompt(prompts: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Indices of samples, those of equal prompts together, in the order in which prompts first appear."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(index)
    return list(groups.values())


def lay_out(sequences: torch.Tensor, attention_mask: torch.Tensor, action_mask: torch.Tensor) -> Rows:
    """The row of a micro batch, on the CPU. `sequences`, `attention_mask`: (B, T); `action_mask`: (B, A)."""
    samples = [prompt_and_output(*sample) for sample in zip(sequences.cpu(), attention_mask.cpu(), action_mask.cpu())]
    tokens, positions, group, output, labels, sample, column = ([] for _ in range(7))
    prompts, outputs, owners = [], [], []
    for name, members in enumerate(by_prompt([prompt for prompt, _, _ in samples])):
        prompt = samples[members[0]][0]
        body = len(prompt) - 1
        prompts.append(torch.arange(len(tokens), len(tokens) + body))
        tokens += prompt[:-1]
        positions += range(body)
        output += [-1] * body
        for number in members:
            _, out, columns = samples[number]
            outputs.append(torch.arange(len(tokens), len(tokens) + len(out)))
            owners.append(name)
            tokens += [prompt[-1], *out[:-1]][: len(out)]
            positions += range(body, body + len(out))
            output += [number] * len(out)
            labels += out
            sample += [number] * len(out)
            column += [c - 1 for c in columns]
        group += [name] * (len(tokens) - len(group))
    return Rows(
        *(torch.tensor(values) for values in (tokens, positions, group, output)),
        torch.cat(outputs),
        *(torch.tensor(values) for values in (labels, sample, column)),
        *_attention_places(prompts, outputs, torch.tensor(owners)),
    )


def _attention_places(prompts: list[torch.Tensor], outputs: list[torch.Tensor], owners: torch.Tensor):
    """`Rows.prompts`, `.outputs`, `.context`, `.visible` and `.back`; `owners`: (B,), the prompt of each output."""
    length = torch.tensor([len(places) for places in prompts])
    prompt, output = pad_sequence(prompts, True), pad_sequence(outputs, True)
    width, steps = prompt.shape[1], torch.arange(output.shape[1])
    in_prompt = (torch.arange(width) < length[owners, None])[:, None].expand(-1, len(steps), -1)
    in_output = (steps[:, None] >= steps).expand(len(outputs), -1, -1)
    real = [torch.arange(len(places)) + row * width for row, places in enumerate(prompts)]
    real += [torch.arange(len(places)) + prompt.numel() + row * len(steps) for row, places in enumerate(outputs)]
    back = torch.empty(sum(map(len, real)), dtype=torch.long)
    back[torch.cat([*prompts, *outputs])] = torch.cat(real)
    context = torch.cat([prompt[owners], output], 1)
    return prompt, output, context, torch.cat([in_prompt, in_output], 2)[:, None], back


def shared_prompt_attention(
    module, query, key, value, attention_mask, shared_prompt=None, sliding_window=None, **kwargs
):
    """Attention as transformers calls it, tensors (1, heads, N, size): prompts see themselves, outputs prompt and self.

    Only the products that are needed, P^2 + G R (P + R) a prompt, where one mask over the whole row would cost
    (P + G R)^2. Without `shared_prompt`, the `Rows` of a micro batch, this is transformers' own `sdpa`.
    """
    if shared_prompt is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    rows, results = shared_prompt, []

    def take(tensor, places):  # (1, heads, N, size) -> (rows, heads, places, size)
        return tensor[0].index_select(1, places.flatten()).unflatten(1, places.shape).transpose(0, 1)

    def near(queries, keys):  # what a sliding window leaves to be seen
        return (rows.positions[queries][:, None, :, None] - rows.positions[keys][:, None, None]) < sliding_window

    if rows.prompts.numel():
        mask = None
        if sliding_window is not None and sliding_window < rows.prompts.shape[1]:
            steps = torch.arange(rows.prompts.shape[1], device=query.device)
            gap = steps[:, None] - steps
            mask = ((gap >= 0) & (gap < sliding_window))[None, None]
        parts = (take(tensor, rows.prompts) for tensor in (query, key, value))
        results.append(sdpa_attention_forward(module, *parts, mask, **kwargs)[0].flatten(0, 1))
    mask = attention_mask.to(query.dtype) if sliding_window is None else rows.visible & near(rows.outputs, rows.context)
    parts = take(query, rows.outputs), take(key, rows.context), take(value, rows.context)
    results.append(sdpa_attention_forward(module, *parts, mask, **kwargs)[0].flatten(0, 1))
    return torch.cat(results).index_select(0, rows.back)[None], None


AttentionInterface.register(ATTENTION, shared_prompt_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def sees(rows: Rows):
    """`flex_attention`'s question for a row: whether the token at place q sees the one at place k."""

    def mask(_batch, _head, q, k):
        own = (rows.output[k] == -1) | (rows.output[k] == rows.output[q])
        return (q >= k) & (rows.group[q] == rows.group[k]) & own

    return mask


class SharedPromptActor(Actor):
    """OpenRLHF's `Actor` that computes equal prompts of a micro batch once; attention by `sdpa` or `flex_attention`.

    `packing_samples` has nothing to add, as the row holds no padding, and any other attention that OpenRLHF may ask for
    (it asks for flash attention with packing and with dynamic batches) is replaced by `sdpa`.
    """

    def __init__(self, pretrain_or_model, attn_implementation="sdpa", packing_samples=False, **kwargs):
        attention = attn_implementation if attn_implementation == "flex_attention" else ATTENTION
        super().__init__(pretrain_or_model, attn_implementation=attention, packing_samples=False, **kwargs)
        self.flex = attention == "flex_attention"

    def forward(self, sequences, action_mask=None, attention_mask=None, return_output=False, **kwargs):
        """Log-probabilities (B, A) of actions, 0 elsewhere; with `return_output` also the model's output.

        `sequences`, `attention_mask`: (B, T); `action_mask`: (B, A). With `return_entropy=True` the output has
        `entropy`, (B, T - 1), 0 outside of outputs. Its logits, (1, K, words), are those of the outputs' tokens only.
        """
        if action_mask is None:
            return super().forward(sequences, attention_mask=attention_mask, return_output=return_output, **kwargs)
        assert attention_mask is not None, "OpenRLHF gives both masks or none"
        rows = lay_out(sequences, attention_mask, action_mask).to(sequences.device)
        output = self.model(
            rows.tokens[None],
            position_ids=rows.positions[None],
            logits_to_keep=rows.kept,
            **self._attention(rows),
        )
        logits = output["logits"] = output["logits"].to(torch.float32)
        if self.temperature != 1.0:
            logits.div_(self.temperature)

        def spread(values):  # (1, K) -> (B, T - 1), as OpenRLHF has them
            table = values.new_zeros(len(sequences), sequences.shape[1] - 1)
            return table.index_put((rows.sample, rows.column), values[0])

        if kwargs.get("return_entropy"):
            output.entropy = spread(compute_entropy(logits))
        log_probs = spread(log_probs_from_logits(logits, rows.labels[None]))
        log_probs = log_probs[:, -action_mask.shape[1] :] * action_mask.float()
        return (log_probs, output) if return_output else log_probs

    def _attention(self, rows: Rows) -> dict:
        if not self.flex:
            # To be added, in the dtype of attention: of a boolean mask each layer would make, and keep, its own copy.
            dtype = next(self.model.parameters()).dtype
            mask = torch.zeros(rows.visible.shape, dtype=dtype, device=rows.visible.device)
            return {"attention_mask": mask.masked_fill_(~rows.visible, -torch.inf), "shared_prompt": rows}
        from torch.nn.attention.flex_attention import create_block_mask

        size, device = len(rows.tokens), rows.tokens.device
        return {"attention_mask": create_block_mask(sees(rows), 1, None, size, size, device=device)}


def actor_class(args) -> type[Actor]:
    """The class of policy and reference model: OpenRLHF's own unless prompts are shared."""
    return SharedPromptActor if args.mlpo.share_prompt == "on" else Actor
