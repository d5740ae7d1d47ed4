"""The base model: loading, our linears and attention in place."""
