"""Clients that misbehave, and whether others or the server suffer from it."""
