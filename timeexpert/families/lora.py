"""LoRA through PEFT, for families whose language model is one of transformers'."""

from __future__ import annotations

from typing import Any

from torch import nn

from timeexpert.errors import UserError


def add_lora(llm: nn.Module, lora: dict[str, Any]) -> None:
    """Put LoRA beside the matrices that ``lora["targets"]`` names. Raises ``UserError`` where PEFT is missing."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError(
            "model.lora.rank is not 0, and PEFT is not installed. Run: pip install 'timeexpert[peft]', or set "
            "model.lora.rank to 0."
        ) from None
    config = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=list(lora["targets"]),
        bias="none",
    )
    inject_adapter_in_model(config, llm)
