"""Formulas without state, each held to a closed form by its tests."""
