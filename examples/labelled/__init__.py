"""Adapters from public labelled sets."""
