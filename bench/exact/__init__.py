"""Asks for the same answers in every way there is, and compares them."""
