"""OpenAI wire models, one file per endpoint family. Requests are allow-lists."""
