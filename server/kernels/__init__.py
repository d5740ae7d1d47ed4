"""Batched operations of a step: public interface and dispatch."""
