"""An OpenAI-compatible gateway with vLLM inside."""

__version__ = "0.1.0"
