"""Whether prompts can be computed once (`--mlpo.share_prompt`): settled before anything starts, without torch."""

from __future__ import annotations

import sys

from openrlhf_mlpo.errors import UserError

# Families whose numbers tests/train/test_shared_prompt.py compares with the unshared ones.
FAMILIES = ("gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3")
ATTENTIONS = ("sdpa", "flex_attention")
_EXCLUDED = (
    ("ds.ring_attn_size", 1, "ring attention cuts a sequence in pieces of its own"),
    ("ds.tensor_parallel_size", 1, "not checked with tensor parallelism"),
    ("data.max_images_per_prompt", 0, "images are not tokens of the prompt"),
    ("ds.use_liger_kernel", False, "Liger's models take no logits_to_keep"),
    ("ds.deepcompile", False, "not checked with compiled models"),
)
_ON = "computing each prompt once for all its outputs (--mlpo.share_prompt off switches it off)"


def settle_flags(args: dict, given: set[str]) -> None:
    """Turn `auto` to off where flags forbid sharing, and refuse `on` there. `args`: flat, `given`: set by the user."""
    _settle(args, _objection_of_flags(args, given))


def settle_model(args: dict, config) -> None:
    """Turn `auto` to on or off as the leader's `config` says, once the flags allow it; says what came of it."""
    objection = _objection_of_model(config, args["ds.attn_implementation"])
    _settle(args, objection)
    if not objection and args["mlpo.share_prompt"] == "auto":
        args["mlpo.share_prompt"] = "on"
        print(_ON, file=sys.stderr)


def _settle(args: dict, objection: str) -> None:
    if not objection or args["mlpo.share_prompt"] == "off":
        return
    if args["mlpo.share_prompt"] == "on":
        raise UserError(f"--mlpo.share_prompt on: {objection}")
    args["mlpo.share_prompt"] = "off"
    print(f"each prompt is computed once per output: {objection}", file=sys.stderr)


def _objection_of_flags(args: dict, given: set[str]) -> str:
    for flag, harmless, reason in _EXCLUDED:
        if args[flag] > harmless:
            return f"{reason}; leave out --{flag}"
    attention = args["ds.attn_implementation"]
    if "ds.attn_implementation" in given and attention not in ATTENTIONS:
        return f"--ds.attn_implementation {attention} cannot show an output its prompt and itself; use sdpa"
    largest = max(args["train.micro_batch_size"], args["rollout.micro_batch_size"])
    if largest < 2 and not args["train.dynamic_batch_enable"]:
        return (
            "micro batches of one sample share nothing; raise --train.micro_batch_size and --rollout.micro_batch_size "
            f"towards --rollout.n_samples_per_prompt {args['rollout.n_samples_per_prompt']}"
        )
    return ""


def _objection_of_model(config, attention: str) -> str:
    family, flex = config.model_type, attention == "flex_attention"
    if family not in FAMILIES:
        return f"models of the family {family} were not checked (checked: {', '.join(FAMILIES)})"
    if getattr(config, "attn_logit_softcapping", None) and not flex:
        return f"{family}: sdpa leaves out the model's attn_logit_softcapping"
    if getattr(config, "use_bidirectional_attention", None):
        return f"{family}: its attention is not causal"
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window and flex:
        return f"{family} has a sliding window, which is checked with --ds.attn_implementation sdpa only"
    return ""
