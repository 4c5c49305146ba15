"""Measures OpenAI-compatible servers over HTTP; knows nothing of what runs behind them."""
