"""What is asked of a server: prompts of exact token counts, by its own tokenizer."""
