"""Structured output: grammars that a generated text must follow, token by token (llguidance)."""
